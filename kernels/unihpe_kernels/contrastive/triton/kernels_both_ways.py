# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator,var-annotated"
"""Scores of a block of products for two and three modalities: both ways from one tile of them in registers.

A program owns TILE_J columns and walks over rows. What is added up over rows stays in registers; what is added up over
the columns of its tile is written a row at a time. products are [M, M - 1, rows, columns], see contract.Block.
"""

import triton
import triton.language as tl

from unihpe_kernels.contrastive.triton.kernels_logits import (
    OFF,
    candidates,
    exponential,
    num_statistics,
    rank,
    statistics,
)


@triton.constexpr_function
def place(m, n, M):
    """Where the products of the rows' modality m with the columns' modality n are."""
    return m * (M - 1) + n - (n > m)


@triton.constexpr_function
def is_needed(m, n, ANCHORS, TWO_WAYS):
    """Whether one of the two is an anchor."""
    return (ANCHORS >> m) & 1 or (TWO_WAYS and (ANCHORS >> n) & 1)


@triton.constexpr_function
def num_column_parts(ANCHORS, TWO_WAYS, BOTH, MOMENTS, TOTALS):
    """How many numbers are added up over a column: those of its anchors, and those of its tuples."""
    return ANCHORS.bit_count() * num_statistics(MOMENTS, TOTALS) * (TWO_WAYS + BOTH)


@triton.jit
def _load_products(pointers, plane, inside, M: tl.constexpr, ANCHORS: tl.constexpr, TWO_WAYS: tl.constexpr):
    loaded = ()
    for m in tl.static_range(M):
        for n in tl.static_range(M):
            if n != m:
                if is_needed(m, n, ANCHORS, TWO_WAYS):
                    product = tl.load(pointers + place(m, n, M) * plane, mask=inside, other=0.0)
                else:
                    product = tl.zeros(inside.shape, tl.float32)
                loaded = loaded + (product,)
    return loaded


@triton.jit
def _own_products(products, code, m: tl.constexpr, OF_ROWS: tl.constexpr, M: tl.constexpr, MASKED: tl.constexpr):
    """The anchor m's products with its members; 0 for those that its sample lacks."""
    chosen = ()
    for n in tl.static_range(M):
        if n != m:
            product = products[place(m, n, M) if OF_ROWS else place(n, m, M)]
            if MASKED and M > 2:
                product = tl.where((code >> n) & 1 != 0, product, 0.0)
            chosen = chosen + (product,)
    return chosen


@triton.jit
def _grams(inner, index, inside, n, ANCHORS: tl.constexpr, M: tl.constexpr):
    """Of three modalities: samples' own products of the two others, for each anchor modality."""
    grams = ()
    for m in tl.static_range(M):
        if M == 3 and (ANCHORS >> m) & 1:
            grams = grams + (tl.load(inner + (2 - m) * n + index, mask=inside, other=0.0),)
    return grams


@triton.jit
def _members(grams, code, m: tl.constexpr, MEMBERS: tl.constexpr, ANCHORS: tl.constexpr, M: tl.constexpr,
             MASKED: tl.constexpr):  # fmt: skip
    """What the score wants of samples' members; a product of two is 0 where the anchor's sample lacks one."""
    gram = ()
    if M == 3:
        gram = (grams[rank(ANCHORS, m)],)
        if MASKED:
            gram = (tl.where((code | (1 << m)) == 7, gram[0], 0.0),)
    return MEMBERS(gram, M - 1)


@triton.jit
def _codes(codes, index, inside, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(codes + index, mask=inside, other=0)
    else:  # noqa: RET505 - Triton compiles what follows a return
        return index


@triton.jit
def store_sums(out, parts, k, index, inside, n, A: tl.constexpr, COUNT: tl.constexpr):
    """Sums over the columns of parts, to [COUNT, A, n]."""
    for q in tl.static_range(COUNT):
        tl.store(out + (q * A + k) * n + index, tl.sum(parts[q], 1), mask=inside)


@triton.jit
def both_ways_forward(
    products,  # float32
    inner_rows,  # float32 [P, rows]
    inner_columns,
    codes_rows,  # int32 [rows], read only if MASKED
    codes_columns,
    centers_rows,  # float32 [rows], read only if MOMENTS
    centers_columns,
    scale,  # float32 []
    shift,  # float32 []
    by_row,  # out, float32 [tiles of columns, statistics, A, rows]: of rows' anchors, then of their tuples
    by_column,  # out, float32 [splits of rows, statistics, A, columns]: of columns' anchors, of tuples
    num_rows,
    num_columns,
    length,  # rows that a program walks over
    middle,
    M: tl.constexpr,
    ANCHORS: tl.constexpr,  # a set of bits
    MEMBERS: tl.constexpr,  # the score's functions
    SCORE: tl.constexpr,
    TWO_WAYS: tl.constexpr,
    DIAGONAL: tl.constexpr,
    BOTH: tl.constexpr,
    SIGMOID: tl.constexpr,
    MOMENTS: tl.constexpr,
    TOTALS: tl.constexpr,
    MASKED: tl.constexpr,
    SOUGHT: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
):
    """Parts of contract.Forward. Grid (tiles of columns, splits of rows)."""
    A: tl.constexpr = rank(ANCHORS, M)
    COUNT: tl.constexpr = num_statistics(MOMENTS, TOTALS)
    COLUMN_PARTS: tl.constexpr = num_column_parts(ANCHORS, TWO_WAYS, BOTH, MOMENTS, TOTALS)
    part = tl.program_id(0)
    j = (part * TILE_J + tl.arange(0, TILE_J))[None, :]
    inside_j = j < num_columns
    code_j = _codes(codes_columns, j, inside_j, MASKED)
    factor = tl.load(scale)
    beside = tl.load(shift)
    center_j = j
    if MOMENTS:
        center_j = tl.load(centers_columns + j, mask=inside_j, other=0.0)
    grams_j = _grams(inner_columns, j, inside_j, num_columns, ANCHORS, M)
    totals = ()
    for _ in tl.static_range(COLUMN_PARTS):
        totals = totals + (tl.zeros([TILE_I, TILE_J], tl.float32),)

    plane = tl.cast(num_rows, tl.int64) * num_columns
    first = tl.program_id(1) * length
    row = products + tl.cast(first, tl.int64) * num_columns + part * TILE_J
    places = tl.arange(0, TILE_I)[:, None] * num_columns + tl.arange(0, TILE_J)[None, :]
    by_row += tl.cast(part, tl.int64) * (COUNT * (2 if BOTH and TWO_WAYS else 1) * A) * num_rows
    for start in range(first, min(first + length, num_rows), TILE_I):
        i = start + tl.arange(0, TILE_I)
        inside_i = i < num_rows
        valid = inside_i[:, None] & inside_j
        tile = _load_products(row + places, plane, valid, M, ANCHORS, TWO_WAYS)
        row += TILE_I * num_columns
        if DIAGONAL:
            valid = valid & (i[:, None] != j)
        logit_shift = tl.where(valid, beside, OFF)
        code_i = _codes(codes_rows, i, inside_i, MASKED)[:, None]
        center_i = i[:, None]
        if MOMENTS:
            center_i = tl.load(centers_rows + i, mask=inside_i, other=0.0)[:, None]
        grams_i = ()
        if TWO_WAYS:
            grams_i = _grams(inner_rows, i[:, None], inside_i[:, None], num_rows, ANCHORS, M)
        parts = ()
        for m in tl.static_range(M):
            if (ANCHORS >> m) & 1:
                counts = valid
                own = _own_products(tile, code_i, m, True, M, MASKED)
                value, _state = SCORE(own, _members(grams_j, code_i, m, MEMBERS, ANCHORS, M, MASKED), M - 1)
                weight = exponential(value, factor, logit_shift, SIGMOID)
                if MASKED:
                    counts = valid & candidates(code_i, code_j, m, SOUGHT)
                    weight = tl.where(counts, weight, 0.0)
                found = statistics(
                    value, weight, counts, center_i, factor, logit_shift, middle, MOMENTS, TOTALS, SIGMOID
                )
                store_sums(by_row, found, rank(ANCHORS, m), i, inside_i, num_rows, A, COUNT)
                if BOTH:
                    parts = parts + statistics(
                        value, weight, counts, center_j, factor, logit_shift, middle, MOMENTS, TOTALS, SIGMOID
                    )
                if TWO_WAYS:
                    counts = valid
                    own = _own_products(tile, code_j, m, False, M, MASKED)
                    value, _state = SCORE(own, _members(grams_i, code_j, m, MEMBERS, ANCHORS, M, MASKED), M - 1)
                    weight = exponential(value, factor, logit_shift, SIGMOID)
                    if MASKED:
                        counts = valid & candidates(code_j, code_i, m, SOUGHT)
                        weight = tl.where(counts, weight, 0.0)
                    parts = parts + statistics(
                        value, weight, counts, center_j, factor, logit_shift, middle, MOMENTS, TOTALS, SIGMOID
                    )
                    if BOTH:
                        found = statistics(
                            value, weight, counts, center_i, factor, logit_shift, middle, MOMENTS, TOTALS, SIGMOID
                        )
                        store_sums(
                            by_row + COUNT * A * num_rows, found, rank(ANCHORS, m), i, inside_i, num_rows, A, COUNT
                        )
        updated = ()
        for q in tl.static_range(COLUMN_PARTS):
            updated = updated + (totals[q] + parts[q],)
        totals = updated

    # in the order of `parts`: of each anchor modality what it has as a tuple, then what it has as an anchor
    by_column += tl.cast(tl.program_id(1), tl.int64) * COLUMN_PARTS * num_columns
    outside = part * TILE_J + tl.arange(0, TILE_J)
    for k in tl.static_range(A):
        for q in tl.static_range(COUNT * (BOTH + TWO_WAYS)):
            # statistics of anchors come first, where there are both
            slot = q
            if BOTH and TWO_WAYS:
                slot = (q + COUNT) % (2 * COUNT)
            tl.store(
                by_column + (slot * A + k) * num_columns + outside,
                tl.sum(totals[k * COUNT * (BOTH + TWO_WAYS) + q], 0),
                mask=outside < num_columns,
            )


@triton.jit
def _factors(factors, index, inside, n, ANCHORS: tl.constexpr, M: tl.constexpr):
    """[A, n] at `index`, a tensor for each anchor modality; 0 where there is none."""
    found = ()
    for k in tl.static_range(rank(ANCHORS, M)):
        if factors is not None:
            found = found + (tl.load(factors + k * n + index, mask=inside, other=0.0),)
        else:
            found = found + (tl.zeros(index.shape, tl.float32),)
    return found


@triton.jit
def _weight(exponential, valid, anchor, tuple_, level, tuple_level, counts, LEVELS: tl.constexpr, MASKED: tl.constexpr):
    """contract.Factors, applied."""
    weight = exponential * (anchor + tuple_)
    if LEVELS:
        weight = tl.where(valid, weight - (level + tuple_level), 0.0)
    if MASKED:
        weight = tl.where(counts, weight, 0.0)
    return weight


@triton.jit
def both_ways_backward(
    products,
    inner_rows,
    inner_columns,
    codes_rows,
    codes_columns,
    scale,
    shift,
    anchor_rows,  # float32 [A, rows]: contract.Factors of the way of rows
    tuple_columns,  # float32 [A, columns] or None, like all below
    level_rows,
    tuple_level_columns,
    anchor_columns,  # of the way of columns
    tuple_rows,
    level_columns,
    tuple_level_rows,
    out,  # [M, M - 1, rows, columns], may be `products`
    sums_rows,  # out, float32 [tiles of columns, A, SUMS, rows], if TWO_WAYS and M = 3: see contract.py
    sums_columns,  # out, float32 [splits of rows, A, SUMS, columns], if M = 3
    num_rows,
    num_columns,
    length,
    M: tl.constexpr,
    ANCHORS: tl.constexpr,
    MEMBERS: tl.constexpr,
    SCORE: tl.constexpr,
    GRADIENT: tl.constexpr,
    OWN: tl.constexpr,
    SUMS: tl.constexpr,  # numbers added up for members, none if M = 2
    TWO_WAYS: tl.constexpr,
    DIAGONAL: tl.constexpr,
    SIGMOID: tl.constexpr,
    MASKED: tl.constexpr,
    SOUGHT: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
):
    """Gradients of the products. Grid (tiles of columns, splits of rows)."""
    A: tl.constexpr = rank(ANCHORS, M)
    LEVELS: tl.constexpr = level_rows is not None or tuple_level_columns is not None
    part = tl.program_id(0)
    j = (part * TILE_J + tl.arange(0, TILE_J))[None, :]
    inside_j = j < num_columns
    code_j = _codes(codes_columns, j, inside_j, MASKED)
    factor = tl.load(scale)
    beside = tl.load(shift)
    grams_j = _grams(inner_columns, j, inside_j, num_columns, ANCHORS, M)
    anchor_j = _factors(anchor_columns, j, inside_j, num_columns, ANCHORS, M)
    tuple_j = _factors(tuple_columns, j, inside_j, num_columns, ANCHORS, M)
    level_j = _factors(level_columns, j, inside_j, num_columns, ANCHORS, M)
    tuple_level_j = _factors(tuple_level_columns, j, inside_j, num_columns, ANCHORS, M)
    totals = ()
    for _ in tl.static_range(A * SUMS):
        totals = totals + (tl.zeros([TILE_I, TILE_J], tl.float32),)

    plane = tl.cast(num_rows, tl.int64) * num_columns
    first = tl.program_id(1) * length
    offset = tl.cast(first, tl.int64) * num_columns + part * TILE_J
    places = tl.arange(0, TILE_I)[:, None] * num_columns + tl.arange(0, TILE_J)[None, :]
    for start in range(first, min(first + length, num_rows), TILE_I):
        i = (start + tl.arange(0, TILE_I))[:, None]
        inside_i = i < num_rows
        inside = inside_i & inside_j
        tile = _load_products(products + offset + places, plane, inside, M, ANCHORS, TWO_WAYS)
        valid = inside
        if DIAGONAL:
            valid = valid & (i != j)
        logit_shift = tl.where(valid, beside, OFF)
        code_i = _codes(codes_rows, i, inside_i, MASKED)
        anchor_i = _factors(anchor_rows, i, inside_i, num_rows, ANCHORS, M)
        tuple_i = _factors(tuple_rows, i, inside_i, num_rows, ANCHORS, M)
        level_i = _factors(level_rows, i, inside_i, num_rows, ANCHORS, M)
        tuple_level_i = _factors(tuple_level_rows, i, inside_i, num_rows, ANCHORS, M)
        grams_i = ()
        if TWO_WAYS:
            grams_i = _grams(inner_rows, i, inside_i, num_rows, ANCHORS, M)
        of_rows = ()  # gradients of products by the way of rows, M - 1 of each modality
        of_columns = ()
        parts = ()
        for m in tl.static_range(M):
            if (ANCHORS >> m) & 1:
                own = _own_products(tile, code_i, m, True, M, MASKED)
                members = _members(grams_j, code_i, m, MEMBERS, ANCHORS, M, MASKED)
                value, state = SCORE(own, members, M - 1)
                weight = _weight(
                    exponential(value, factor, logit_shift, SIGMOID), valid,
                    anchor_i[rank(ANCHORS, m)], tuple_j[rank(ANCHORS, m)],
                    level_i[rank(ANCHORS, m)], tuple_level_j[rank(ANCHORS, m)],
                    valid & candidates(code_i, code_j, m, SOUGHT) if MASKED else valid, LEVELS, MASKED,
                )  # fmt: skip
                gradients, sums = GRADIENT(own, members, value, state, weight, M - 1)
                parts = parts + _sums(sums, members, code_i, m, OWN, M, MASKED)
                of_rows = of_rows + _present(gradients, code_i, m, M, MASKED)
            else:
                for _ in tl.static_range(M - 1):
                    of_rows = of_rows + (tl.zeros([TILE_I, TILE_J], tl.float32),)
            if TWO_WAYS and (ANCHORS >> m) & 1:
                own = _own_products(tile, code_j, m, False, M, MASKED)
                members = _members(grams_i, code_j, m, MEMBERS, ANCHORS, M, MASKED)
                value, state = SCORE(own, members, M - 1)
                weight = _weight(
                    exponential(value, factor, logit_shift, SIGMOID), valid,
                    anchor_j[rank(ANCHORS, m)], tuple_i[rank(ANCHORS, m)],
                    level_j[rank(ANCHORS, m)], tuple_level_i[rank(ANCHORS, m)],
                    valid & candidates(code_j, code_i, m, SOUGHT) if MASKED else valid, LEVELS, MASKED,
                )  # fmt: skip
                gradients, sums = GRADIENT(own, members, value, state, weight, M - 1)
                sums = _sums(sums, members, code_j, m, OWN, M, MASKED)
                index = start + tl.arange(0, TILE_I)
                for e in tl.static_range(SUMS):
                    row = (tl.cast(part, tl.int64) * A + rank(ANCHORS, m)) * SUMS + e
                    tl.store(sums_rows + row * num_rows + index, tl.sum(sums[e], 1), mask=index < num_rows)
                of_columns = of_columns + _present(gradients, code_j, m, M, MASKED)
            else:
                for _ in tl.static_range(M - 1):
                    of_columns = of_columns + (tl.zeros([TILE_I, TILE_J], tl.float32),)
        updated = ()
        for k in tl.static_range(A * SUMS):
            updated = updated + (totals[k] + parts[k],)
        totals = updated
        for m in tl.static_range(M):
            for n in tl.static_range(M):
                if n != m:  # noqa: SIM102 - Triton wants both known one after the other
                    if is_needed(m, n, ANCHORS, TWO_WAYS):
                        value = of_rows[place(m, n, M)] + of_columns[place(n, m, M)]
                        tl.store(
                            out + offset + place(m, n, M) * plane + places, value.to(out.dtype.element_ty), mask=inside
                        )
        offset += TILE_I * num_columns

    index = part * TILE_J + tl.arange(0, TILE_J)
    for k in tl.static_range(A * SUMS):
        tl.store(
            sums_columns + (tl.cast(tl.program_id(1), tl.int64) * (A * SUMS) + k) * num_columns + index,
            tl.sum(totals[k], 0),
            mask=index < num_columns,
        )


@triton.jit
def _sums(sums, members, code, m: tl.constexpr, OWN: tl.constexpr, M: tl.constexpr, MASKED: tl.constexpr):
    """What is added up for members. Where those depend on the anchor, the gradient of their product."""
    if M == 3 and MASKED:
        return (tl.where((code | (1 << m)) == 7, OWN(sums, members, 2)[0], 0.0),)
    else:  # noqa: RET505 - Triton compiles what follows a return
        return sums


@triton.jit
def _present(gradients, code, m: tl.constexpr, M: tl.constexpr, MASKED: tl.constexpr):
    """0 for members that the anchor's sample lacks."""
    if MASKED and M > 2:
        kept = ()
        for s in tl.static_range(M - 1):
            kept = kept + (tl.where((code >> (s + (s >= m))) & 1 != 0, gradients[s], 0.0),)
        return kept
    else:  # noqa: RET505 - Triton compiles what follows a return
        return gradients
