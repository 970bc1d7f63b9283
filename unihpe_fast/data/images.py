"""From encoded pictures to pixels: crops of a prepared file to the network's input, photographs to crops."""

import struct
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

# ImageNet, RGB in [0, 1]
MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
# a header may promise any size: far more than a crop needs, far less than fills the memory
LARGEST_SIDE = 8192
# of the crops that are written
JPEG_QUALITY = 90
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
# EXIF's tag of the orientation (CIPA DC-008, 4.6.4): which of the stored picture's axes runs to the right and which
# down, and whether each runs backward
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    1: (0, 1, False, False), 2: (0, 1, True, False), 3: (0, 1, True, True), 4: (0, 1, False, True),
    5: (1, 0, False, False), 6: (1, 0, True, False), 7: (1, 0, True, True), 8: (1, 0, False, True),
}  # fmt: skip


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG's header gives. Raises ValueError for bytes that are not one whole JPEG."""
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        raise ValueError(f"found {len(data)} bytes from {data[:2].hex()!r} to {data[-2:].hex()!r}, wanted a whole JPEG")
    return _frame_size(data)


def _frame_size(data: bytes) -> tuple[int, int]:
    for marker, at in _segments(data):
        # start of frame, of any coding; C4, C8 and CC lie in the same range and mean something else
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
    raise ValueError("found a JPEG without a frame header, wanted a picture")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and offset of the segments of a JPEG that stand before its pixels, and of the first scan (0xDA)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            # any number of these may fill the space between two segments
            at += 1
            continue
        yield marker, at + 2
        if marker == 0xDA:
            return
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def photo_size(data: bytes) -> tuple[int, int]:
    """Width and height of a photograph by its header. Raises ValueError for one that is neither JPEG nor PNG, or cut.

    What stands behind the end of a picture is not looked at: cameras and editors leave things there.
    """
    if data[:2] == b"\xff\xd8":
        size = _frame_size(data)
        scan = next((at for marker, at in _segments(data) if marker == 0xDA), len(data))
        # within a scan these bytes mean the end; before it they may belong to a thumbnail
        if data.rfind(b"\xff\xd9") < scan:
            raise ValueError(f"found a JPEG that ends after {len(data)} bytes, wanted a whole one")
        return size
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        width, height = struct.unpack_from(">II", data, 16) if len(data) >= 24 else (0, 0)
        if data.rfind(b"IEND") < 24:
            raise ValueError(f"found a PNG that ends after {len(data)} bytes, wanted a whole one")
        return width, height
    raise ValueError(f"found {len(data)} bytes that begin with {data[:4].hex()!r}, wanted a JPEG or a PNG")


def orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG or PNG, 1 to 8; 1, as stored, where there is no tag or none that can be read."""
    for exif in _exif_blocks(data):
        order = {b"II": "<", b"MM": ">"}.get(exif[:2])
        if order is None or len(exif) < 8:
            continue
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        count = struct.unpack_from(f"{order}H", exif, at)[0] if at + 2 <= len(exif) else 0
        for entry in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
            tag, kind, number, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if (tag, kind, number) == (_ORIENTATION_TAG, 3, 1) and value in _UPRIGHT:
                return value
    return 1


def _exif_blocks(data: bytes) -> Iterator[bytes]:
    if data[:2] == b"\xff\xd8":
        for marker, at in _segments(data):
            if marker == 0xE1 and data[at + 2 : at + 8] == b"Exif\0\0":
                yield data[at + 8 : at + struct.unpack_from(">H", data, at)[0]]
        return
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            yield data[at + 8 : at + 8 + size]
        at += 12 + size


def upright_size(size: tuple[int, int], tag: int) -> tuple[int, int]:
    """Width and height of a stored picture of that size once its orientation is applied."""
    return size[::-1] if _UPRIGHT[tag][0] else size


def upright_map(size: tuple[int, int], tag: int) -> np.ndarray:
    """[3, 3] from px of a stored picture of that width and height to px of the upright one, by its orientation."""
    matrix = np.eye(3)
    *axes, right, down = _UPRIGHT[tag]
    for row, (axis, backward) in enumerate(zip(axes, (right, down), strict=True)):
        matrix[row] = 0
        matrix[row, axis] = -1 if backward else 1
        matrix[row, 2] = size[axis] - 1 if backward else 0
    return matrix


def warp_jpeg(data: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Decode a JPEG and draw it into `out` through an affine map, black where the picture does not reach.

    data: uint8 [bytes]. matrix: [2, 3] float64, px of the JPEG to px of `out`, pixel centres at integers. out: uint8
    [S, S, 3], filled as RGB. A picture that shrinks to less than half is decoded at a half, a quarter or an eighth of
    its size, which averages pixels that the bilinear warp would skip. Raises ValueError for a picture that is broken,
    also where a decoder could go on: what it fills in is grey.
    """
    raw = data.tobytes()
    width, height = jpeg_size(raw)
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise ValueError(f"found a picture of {width} x {height} px, wanted at most {LARGEST_SIDE} px a side")
    step = reduction(matrix)
    picture = _decode_jpeg(raw, step)
    cv2.warpAffine(picture, matrix @ enlargement(step), out.shape[:2], dst=out, flags=cv2.INTER_LINEAR)
    cv2.cvtColor(out, cv2.COLOR_BGR2RGB, dst=out)


def reduction(matrix: np.ndarray) -> int:
    """1, 2, 4 or 8: how many times smaller a picture may be decoded before `matrix` [2, 3] draws it."""
    (a, b), (c, d) = matrix[:, :2].tolist()
    shrink = abs(a * d - b * c) ** -0.5
    return max((n for n in _REDUCED if n < shrink), default=1)


def enlargement(step: int) -> np.ndarray:
    """[3, 3] from px of a picture decoded `step` times smaller to its own px."""
    # pixel x of the small picture is centred at step * x + (step - 1) / 2 of the large one
    return np.array([[step, 0, (step - 1) / 2], [0, step, (step - 1) / 2], [0, 0, 1]])


def decode_photo(data: bytes, step: int) -> np.ndarray:
    """uint8 [H, W, 3] BGR of a JPEG or PNG as stored, `step` times smaller in each direction (see `enlargement`).

    Raises ValueError for a picture that is broken, also where a decoder could go on. Look at its `photo_size` first:
    all of it is held in memory.
    """
    if data[:2] == b"\xff\xd8":
        return _decode_jpeg(data, step)
    # of other formats OpenCV would skip pixels to decode them small
    picture = _decode_by_opencv(data, 1)
    if step > 1:
        rows, columns = picture.shape[0] // step, picture.shape[1] // step
        picture = cv2.resize(picture[: rows * step, : columns * step], (columns, rows), interpolation=cv2.INTER_AREA)
    return picture


def _decode_jpeg(data: bytes, step: int) -> np.ndarray:
    """[H, W, 3] BGR. simplejpeg refuses damage that OpenCV only has libjpeg mention on the terminal."""
    import simplejpeg  # not above: drawn people need none, and a step can be timed where it is not installed

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space in ("CMYK", "YCCK"):
            # OpenCV knows how to turn inks into light
            return _decode_by_opencv(data, step)
        return simplejpeg.decode_jpeg(data, "BGR", min_height=-(-height // step), min_width=-(-width // step))
    except ValueError as error:
        raise ValueError(
            f"found a broken JPEG of {len(data)} bytes ({error}), wanted one that decodes whole"
        ) from error


def _decode_by_opencv(data: bytes, step: int) -> np.ndarray:
    # an orientation tag must not turn the pixels under the joints
    flags = _REDUCED.get(step, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"found a broken picture ({error.err})") from error
    if picture is None:
        raise ValueError(f"found a broken picture of {len(data)} bytes, wanted one that decodes")
    return picture


def normalized(pixels: Tensor, factor: np.ndarray | None = None, offset: np.ndarray | None = None) -> Tensor:
    """float32 [B, 3, S, S]: ((factor * x + offset) - MEAN) / STD of x = pixels / 255.

    pixels: uint8 [B, 3, S, S] RGB of any strides. factor, offset: [B, 3], or None for no change of colour.
    """
    factor = np.ones((1, 3)) if factor is None else factor
    offset = np.zeros((1, 3)) if offset is None else offset
    gain, bias = (torch.from_numpy(x).float()[:, :, None, None] for x in (factor / STD / 255, (offset - MEAN) / STD))
    image = torch.empty(pixels.shape, dtype=torch.float32).copy_(pixels)
    return image.mul_(gain).add_(bias)
