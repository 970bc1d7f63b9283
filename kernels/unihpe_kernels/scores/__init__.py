"""The scores of tuples that the contrastive losses know, a line each; a score's folder has a file a backend.

torch.py, native.h and triton.py define the same four functions of inner products; contrastive/contract.py says which.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from unihpe_kernels.native import Source

LOG2_E = math.log2(math.e)
# Exponents to base 2, about the middle of the range, up to which exponentials and their sums are normal numbers.
_REACH = {"float32": 110.0, "float64": 1000.0}


@dataclass(frozen=True)
class Score:
    """modalities: how many it takes. lowest, highest: of M unit rows, functions of M. neutral: a zero row in place of a
    modality leaves the score of the others."""

    name: str
    modalities: range
    lowest: Callable[[int], float]
    highest: Callable[[int], float]
    neutral: bool = False

    @property
    def torch(self) -> ModuleType:
        return importlib.import_module(f".{self.name}.torch", __name__)

    @property
    def native(self) -> Source:
        """The library of its C++."""
        least, most = self.modalities.start, self.modalities.stop - 1
        header = f'SCORE_HEADER="scores/{self.name}/native.h"'
        return Source("contrastive/native/block.cpp", self.name, (header, f"LEAST_COUNT={least}", f"MOST_COUNT={most}"))

    @property
    def loss(self) -> str:
        """The loss of it, by its name in messages."""
        return f'tuple_contrastive_loss(score="{self.name}")'

    @property
    def triton(self) -> ModuleType:
        return importlib.import_module(f".{self.name}.triton", __name__)

    def middle(self, num_modalities: int) -> float:
        """The constant shift of the scores: about it exponentials need no running maximum."""
        return (self.lowest(num_modalities) + self.highest(num_modalities)) / 2

    def room(self, batch: int) -> float:
        """The largest exponent to base 2 whose exponentials, of `batch` tuples, have a float32 sum."""
        return _REACH["float32"] - math.log2(max(batch, 1))

    def half_range(self, num_modalities: int) -> float:
        return (self.highest(num_modalities) - self.lowest(num_modalities)) / 2

    def holds(self, scale: float, num_modalities: int, batch: int, dtype: str = "float32") -> bool:
        """Whether `dtype` holds the exponentials of logits and their sum over `batch` tuples; scale: log2(e) over the
        temperature."""
        return abs(scale) * self.half_range(num_modalities) + math.log2(max(batch, 1)) <= _REACH[dtype]

    def least_temperature(self, num_modalities: int, batch: int, dtype: str = "float32") -> float:
        """The lowest temperature at which `holds`."""
        return LOG2_E * self.half_range(num_modalities) / (_REACH[dtype] - math.log2(max(batch, 1)))


_ALL = (
    Score("singular_value", range(2, 9), lambda m: 1, math.sqrt, neutral=True),
    Score("volume", range(2, 9), lambda m: -1, lambda m: 0, neutral=True),
    Score("area", range(3, 4), lambda m: -27 / 8, lambda m: 0),
    Score("cosine", range(2, 3), lambda m: -1, lambda m: 1),
)
SCORES = {score.name: score for score in _ALL}
