"""Pictures of people from 17 joints, for training images where a dataset has poses only."""

from unihpe_fast.data.render.appearance import Appearance, sample_appearance
from unihpe_fast.data.render.body import PARTS
from unihpe_fast.data.render.crops import render_crops
from unihpe_fast.data.render.draw import Rendering, render, render_all

__all__ = ["PARTS", "Appearance", "Rendering", "render", "render_all", "render_crops", "sample_appearance"]
