"""Drawn pictures for samples that have joints but no photograph."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import torch

from unihpe_fast.data.bbox import CROP_MARGIN, crop_map
from unihpe_fast.data.images import JPEG_QUALITY
from unihpe_fast.data.records import Sample
from unihpe_fast.data.render.appearance import NUM_RANDOM, appearance_from
from unihpe_fast.data.render.draw import render


def render_crops(
    samples: Iterable[Sample], size: int, seed: int, margin: float = CROP_MARGIN, batch: int = 64
) -> Iterator[Sample]:
    """The same samples with `image`, a JPEG of size x size px, and `crop` filled in.

    The crop is the bbox enlarged about its centre to `margin` times its side, so that later augmentation can roll,
    shift and widen the bbox without running out of picture. A sample that has an image already, or lacks a camera or
    any of its 17 joints, comes back as it is. The look of sample number i of the stream depends on `seed` and i alone.
    Raises ValueError for `size` or `batch` below 1, `margin` not above 0, a negative seed, and as `render` does. The
    next batch is drawn in a thread while the last one is being used.
    """
    if size < 1 or batch < 1 or margin <= 0 or seed < 0:
        raise ValueError(
            f"wanted size >= 1, batch >= 1, margin > 0, seed >= 0, got {size=}, {batch=}, {margin=}, {seed=}"
        )
    return _pipeline(samples, size, seed, margin, batch)


def _pipeline(samples: Iterable[Sample], size: int, seed: int, margin: float, batch: int) -> Iterator[Sample]:
    numbered = enumerate(samples)
    with ThreadPoolExecutor(1, "render") as worker:
        ready = None
        while group := list(islice(numbered, batch)):
            drawing = worker.submit(_draw, group, size, seed, margin)
            if ready is not None:
                yield from ready.result()
            ready = drawing
        if ready is not None:
            yield from ready.result()


def _draw(group: list[tuple[int, Sample]], size: int, seed: int, margin: float) -> list[Sample]:
    done = [sample for _, sample in group]
    places = [k for k, sample in enumerate(done) if _drawable(sample)]
    if not places:
        return done
    drawable = [done[k] for k in places]
    joints = np.stack([s.joints_3d[:, :3] for s in drawable if s.joints_3d is not None])
    camera = np.stack([s.camera.vector for s in drawable if s.camera is not None])
    crop = np.stack([crop_map(sample.bbox, size, margin) for sample in drawable])
    # a counter-based generator: a stream of its own for every sample, made in no time
    numbers = [
        np.random.Generator(np.random.Philox(key=[seed, group[k][0]])).random(NUM_RANDOM, np.float32) for k in places
    ]
    look = appearance_from(torch.from_numpy(np.stack(numbers)))
    images = render(torch.from_numpy(joints), torch.from_numpy(camera), torch.from_numpy(crop), size, look)
    pictures = images.permute(0, 2, 3, 1).flip(3).numpy()  # cv2 wants BGR
    for k, picture, to_crop in zip(places, pictures, crop, strict=True):
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        done[k] = replace(done[k], image=data.tobytes(), crop=to_crop)
    return done


def _drawable(sample: Sample) -> bool:
    if sample.image is not None or sample.camera is None or sample.joints_3d is None:
        return False
    return bool((sample.joints_3d[:, 3] > 0).all())
