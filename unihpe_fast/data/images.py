"""From JPEG bytes of a crop to pixels of the network's input."""

import struct

import cv2
import numpy as np
import torch
from torch import Tensor

# ImageNet, RGB in [0, 1]
MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
# a header may promise any size: far more than a crop needs, far less than fills the memory
LARGEST_SIDE = 8192
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG's header gives. Raises ValueError for bytes that are not one whole JPEG."""
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        raise ValueError(f"found {len(data)} bytes from {data[:2].hex()!r} to {data[-2:].hex()!r}, wanted a whole JPEG")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        # start of frame, of any coding; C4, C8 and CC lie in the same range and mean something else
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + length
    raise ValueError("found a JPEG without a frame header, wanted a picture")


def warp_jpeg(data: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Decode a JPEG and draw it into `out` through an affine map, black where the picture does not reach.

    data: uint8 [bytes]. matrix: [2, 3] float64, px of the JPEG to px of `out`, pixel centres at integers. out: uint8
    [S, S, 3], filled as RGB. A picture that shrinks to less than half is decoded at a half, a quarter or an eighth of
    its size, which averages pixels that the bilinear warp would skip. Raises ValueError for a picture that is broken.
    """
    width, height = jpeg_size(data.tobytes())
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise ValueError(f"found a picture of {width} x {height} px, wanted at most {LARGEST_SIDE} px a side")
    (a, b), (c, d) = matrix[:, :2].tolist()
    shrink = abs(a * d - b * c) ** -0.5
    step = max((n for n in _REDUCED if n < shrink), default=1)
    # an orientation tag must not turn the pixels under the joints
    flags = _REDUCED.get(step, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    picture = cv2.imdecode(data, flags)
    if picture is None:
        raise ValueError(f"found a broken JPEG of {len(data)} bytes, wanted one that decodes")
    if step > 1:
        # pixel x of the small picture is centred at step * x + (step - 1) / 2 of the large one
        matrix = matrix @ np.array([[step, 0, (step - 1) / 2], [0, step, (step - 1) / 2], [0, 0, 1]])
    cv2.warpAffine(picture, matrix, out.shape[:2], dst=out, flags=cv2.INTER_LINEAR)
    cv2.cvtColor(out, cv2.COLOR_BGR2RGB, dst=out)


def normalized(pixels: Tensor, factor: np.ndarray | None = None, offset: np.ndarray | None = None) -> Tensor:
    """float32 [B, 3, S, S]: ((factor * x + offset) - MEAN) / STD of x = pixels / 255.

    pixels: uint8 [B, 3, S, S] RGB of any strides. factor, offset: [B, 3], or None for no change of colour.
    """
    factor = np.ones((1, 3)) if factor is None else factor
    offset = np.zeros((1, 3)) if offset is None else offset
    gain, bias = (torch.from_numpy(x).float()[:, :, None, None] for x in (factor / STD / 255, (offset - MEAN) / STD))
    image = torch.empty(pixels.shape, dtype=torch.float32).copy_(pixels)
    return image.mul_(gain).add_(bias)
