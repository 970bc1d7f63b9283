"""CMU motion capture (mocap.cs.cmu.edu) as BVH conversions or the original ASF/AMC: real motion, no photographs.

Reads the "MotionBuilder-friendly", "Daz-friendly" and "3ds Max-friendly" BVH conversions by B. Hahne (cgspeed, 2010)
and the originals. The joint mapping, units and repairs were checked against the originals by forward kinematics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unihpe_fast.data.sources import Reading, Request, motion

LICENCE = (
    "Motion: CMU Graphics Lab Motion Capture Database, free for all uses except direct resale. The data used in this "
    "project was obtained from mocap.cs.cmu.edu. The database was created with funding from NSF EIA-0196217."
)
KINDS = ("CMU MotionBuilder", "Daz", "Acclaim", "3ds Max")
# captured at 60 fps, though the headers of the conversions say 120 (index of the database)
SLOW_SUBJECTS = ("33", "34", "42", "60", "61", "62", "74", "75", "77", "79", "80", "87", "88", "89")


@dataclass(frozen=True)
class Options(motion.Options):
    name: str = "cmu"
    """of the dataset, kept in the file"""
    licence: str = LICENCE
    """terms of use, kept in the file"""


def read(inputs: Sequence[Path], options: Options, request: Request) -> Reading:
    """inputs: motion files, or folders that are searched for them. See data/sources/__init__.py."""
    return motion.read_motion(inputs, options, request, kinds=KINDS, slow=SLOW_SUBJECTS)
