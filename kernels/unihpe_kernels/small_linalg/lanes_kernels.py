# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator"
"""One row of a matrix [N, WIDTH] a lane, every entry a tensor of its own: how kernels read and write small problems.

Memory is read and written in the order in which it lies, whatever the width. Between that and the lanes stands shared
memory: left to themselves, lanes a row apart would each fetch a cache line of their own, WIDTH times.
"""

from collections.abc import Iterator

import triton
import triton.language as tl


def launches(samples: int, lanes: int) -> Iterator[tuple[tuple[int], int, bool]]:
    """(grid, number of its first block, whether its blocks are whole), for `samples` rows in blocks of `lanes`.

    A kernel compiled for whole blocks alone has no masks, and reads 16 bytes at once: a third of all instructions less.
    """
    whole, rest = divmod(samples, lanes)
    if whole:
        yield (whole,), 0, True
    if rest:
        yield (1,), whole, False


@triton.constexpr_function
def _pitch(width):
    """Distance of rows in shared memory: odd, so that lanes that read one column use different banks."""
    return width | 1


@triton.jit
def load_rows(rows, first, n, WIDTH: tl.constexpr, LANES: tl.constexpr, WHOLE: tl.constexpr):
    """Rows first .. first + LANES - 1: WIDTH tensors [LANES], float32; 0 from row n on, which WHOLE says none is.

    rows: pointer to a contiguous [N, WIDTH], any dtype; first: int64. A program should have LANES / 32 warps, two at
    least: with a single one Triton gathers by shuffles, which here are ten times as much.
    """
    PITCH: tl.constexpr = _pitch(WIDTH)
    PADDED: tl.constexpr = triton.next_power_of_2(PITCH)
    place = tl.arange(0, LANES * PADDED)
    places = rows + first * WIDTH + (place if PITCH == WIDTH else place - place // PITCH)
    inside = place < LANES * PITCH
    if PITCH != WIDTH:
        inside = inside & (place % PITCH < WIDTH)
    if not WHOLE:
        inside = inside & (place < (n - first) * PITCH)
    flat = tl.load(places, mask=inside, other=0).to(tl.float32)
    column = tl.minimum(place // LANES, WIDTH - 1)
    tile = tl.reshape(tl.gather(flat, place % LANES * PITCH + column, 0), [PADDED, LANES])
    # A lane holds its whole column of the tile: which entry is which is known to the compiler, and this costs nothing.
    index = tl.arange(0, PADDED)[:, None]
    entries = ()
    for c in tl.static_range(WIDTH):
        entries = entries + (tl.sum(tl.where(index == c, tile, -0.0), 0),)
    return entries


@triton.jit
def store_rows(rows, entries, first, n, WIDTH: tl.constexpr, LANES: tl.constexpr, WHOLE: tl.constexpr):
    """Write WIDTH tensors [LANES] as rows first .. first + LANES - 1 in the dtype of `rows`, but none from row n on."""
    PADDED: tl.constexpr = triton.next_power_of_2(WIDTH)
    index = tl.arange(0, PADDED)[:, None]
    tile = tl.zeros([PADDED, LANES], tl.float32)
    for c in tl.static_range(WIDTH):
        tile = tl.where(index == c, entries[c][None, :], tile)
    place = tl.arange(0, LANES * PADDED)
    source = tl.minimum(place % WIDTH * LANES + place // WIDTH, LANES * PADDED - 1)
    flat = tl.gather(tl.reshape(tile, [LANES * PADDED]), source, 0)
    mask = place < LANES * WIDTH
    if not WHOLE:
        mask = mask & (place < (n - first) * WIDTH)
    tl.store(rows + first * WIDTH + place, flat.to(rows.dtype.element_ty), mask=mask)


@triton.jit
def load_entries(rows, row, mask, WIDTH: tl.constexpr):
    """The entries of rows `row`, an int64 tensor, straight from memory: for rows shorter than a few sectors."""
    entries = ()
    for c in tl.static_range(WIDTH):
        entries = entries + (tl.load(rows + row * WIDTH + c, mask=mask, other=0).to(tl.float32),)
    return entries
