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
def _pieces(width):
    """(begin, power of 2) that cover `width` columns: few, and little of them beyond the last column."""
    pieces = []
    begin = 0
    while begin < width:
        rest = width - begin
        size = triton.next_power_of_2(rest)
        if 4 * rest < 3 * size and size > 16:
            size //= 2
        pieces.append((begin, size))
        begin += size
    return tuple(pieces)


@triton.jit
def _begin(thread, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, SHARE: tl.constexpr):
    """Where the numbers of a thread begin, counted from the first row of a program."""
    if SHARE * COLUMNS == WIDTH:
        return thread * COLUMNS
    else:  # noqa: RET505 - Triton's way to choose while compiling
        return thread // SHARE * WIDTH + thread % SHARE * COLUMNS


@triton.jit
def load_rows(
    rows, first, n,
    WHOLE: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, SHARE: tl.constexpr = 1, PART: tl.constexpr = None,
):  # fmt: skip
    """Rows first .. first + LANES - 1, float32, 0 from row n on, which WHOLE says none is: WIDTH tensors [1, LANES].

    SHARE neighbouring threads can share a row, PART numbers each: then PART tensors [1, LANES * SHARE], 0 beyond a
    row. rows: pointer to a contiguous [N, WIDTH], any dtype; first: int64. A program should have a thread for each of
    them, and two warps at least: with a single one Triton gathers by shuffles, which here are ten times as much.
    """
    COLUMNS: tl.constexpr = WIDTH if PART is None else PART
    NUMBERS: tl.constexpr = LANES * WIDTH
    THREADS: tl.constexpr = LANES * SHARE
    TALL: tl.constexpr = triton.next_power_of_2(COLUMNS)
    place = tl.arange(0, max(triton.next_power_of_2(NUMBERS), THREADS))
    inside = place < NUMBERS
    if not WHOLE:
        inside = inside & (place < (n - first) * WIDTH)
    flat = tl.load(rows + first * WIDTH + place, mask=inside, other=0).to(tl.float32)
    wanted = tl.arange(0, TALL * THREADS)
    thread = wanted % THREADS
    begin = _begin(thread, WIDTH, COLUMNS, SHARE)
    source = tl.minimum(begin + tl.minimum(wanted // THREADS, COLUMNS - 1), NUMBERS - 1)
    tile = tl.reshape(tl.gather(flat, source, 0), [TALL, THREADS])
    # A thread holds its whole column of the tile: the compiler knows which entry is which, and this costs nothing.
    index = tl.arange(0, TALL)[:, None]
    part = (tl.arange(0, THREADS) % SHARE)[None, :]
    entries = ()
    for c in tl.static_range(COLUMNS):
        entry = tl.sum(tl.where(index == c, tile, -0.0), 0, keep_dims=True)
        if (SHARE - 1) * COLUMNS + c >= WIDTH:
            entry = tl.where(part * COLUMNS + c < WIDTH, entry, 0.0)
        entries = entries + (entry,)
    return entries


@triton.jit
def store_rows(
    rows, entries, first, n,
    WHOLE: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, SHARE: tl.constexpr = 1, PART: tl.constexpr = None,
):  # fmt: skip
    """Write what `load_rows` would read in the dtype of `rows`, but none from row n on and nothing beyond a row."""
    COLUMNS: tl.constexpr = WIDTH if PART is None else PART
    PIECES: tl.constexpr = _pieces(COLUMNS)
    for piece in tl.static_range(len(PIECES)):
        store_piece(
            rows + first * WIDTH, entries, n - first,
            PIECES[piece][0], PIECES[piece][1], COLUMNS, WIDTH, LANES, SHARE, WHOLE,
        )  # fmt: skip


@triton.jit
def store_piece(
    rows, entries, n, BEGIN: tl.constexpr, SIZE: tl.constexpr, COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr, LANES: tl.constexpr, SHARE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    THREADS: tl.constexpr = LANES * SHARE
    index = tl.arange(0, SIZE)[:, None]
    tile = tl.zeros([SIZE, THREADS], tl.float32)
    for c in tl.static_range(SIZE):
        if BEGIN + c < COLUMNS:
            tile = tl.where(index == c, entries[BEGIN + c], tile)
    thread = tl.arange(0, THREADS)[:, None]
    column = BEGIN + tl.arange(0, SIZE)[None, :]
    mask = column < COLUMNS
    if SHARE * COLUMNS != WIDTH:
        mask = mask & (thread % SHARE * COLUMNS + column < WIDTH)
    if not WHOLE:
        mask = mask & (thread // SHARE < n)
    place = _begin(thread, WIDTH, COLUMNS, SHARE) + column
    tl.store(rows + place, tl.trans(tile).to(rows.dtype.element_ty), mask=mask)


@triton.jit
def load_entries(rows, row, mask, WIDTH: tl.constexpr):
    """The entries of rows `row`, an int64 tensor, straight from memory: for rows shorter than a few sectors."""
    entries = ()
    for c in tl.static_range(WIDTH):
        entries = entries + (tl.load(rows + row * WIDTH + c, mask=mask, other=0).to(tl.float32),)
    return entries
