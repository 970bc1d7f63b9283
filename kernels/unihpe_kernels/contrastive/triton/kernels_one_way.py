# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator,var-annotated"
"""Scores of a block of products for four modalities and more: one way and one anchor modality at a time.

A program owns TILE_T samples that give tuples and walks over anchors. What their members come to is read again for
every tile of anchors, from tables [A, blocks of 32 samples, entries, 32], in which a row is a constant away from the
next: as pointers of their own, up to 57 rows would take all registers.

Where samples may lack modalities, what members come to depends on the anchor, too, and is worked out for every pair.
"""

import triton
import triton.language as tl

from unihpe_kernels.contrastive.triton.kernels_logits import candidates, exponential, num_statistics, statistics


@triton.jit
def table_place(k, index, n, COUNT: tl.constexpr):
    """Place of a sample in a table [.., blocks, COUNT, 32]."""
    return tl.cast(k * ((n + 31) // 32) + index // 32, tl.int64) * (COUNT * 32) + index % 32


@triton.jit
def pair_at(p, q, M: tl.constexpr):
    """The place of modalities p and q among all pairs, row by row; of numbers known at run time."""
    low = tl.minimum(p, q)
    return low * M - low * (low + 1) // 2 + tl.maximum(p, q) - low - 1


@triton.jit
def _plane(m, slot, OF_ROWS: tl.constexpr, M: tl.constexpr):
    """Which products are those of the anchors of modality m with their member `slot`."""
    member = slot + (slot >= m).to(tl.int32)
    if OF_ROWS:
        plane = m * (M - 1) + slot
    else:
        plane = member * (M - 1) + m - (m > member).to(tl.int32)
    return plane, member


@triton.jit
def _tile(products, base, plane, code, m, inside, OF_ROWS: tl.constexpr, MASKED: tl.constexpr, M: tl.constexpr):
    """The anchors' products with their M - 1 members; 0 for those that the anchor's sample lacks."""
    tile = ()
    for slot in tl.static_range(M - 1):
        number, member = _plane(m, slot, OF_ROWS, M)
        product = tl.load(products + number * plane + base, mask=inside, other=0.0)
        if MASKED:
            product = tl.where((code >> member) & 1 != 0, product, 0.0)
        tile = tile + (product,)
    return tile


@triton.jit
def _table(members, place, inside, COUNT: tl.constexpr):
    entries = ()
    for e in tl.static_range(COUNT):
        entries = entries + (tl.load(members + place + e * 32, mask=inside, other=0.0),)
    return entries


@triton.jit
def _gram(inner, code, m, index, inside, n, M: tl.constexpr):
    """Products of members with each other, 0 for those that the anchor's sample, of `code`, lacks."""
    gram = ()
    for s in tl.static_range(M - 1):
        for t in tl.static_range(s + 1, M - 1):
            p = s + (s >= m).to(tl.int32)
            q = t + (t >= m).to(tl.int32)
            product = tl.load(inner + pair_at(p, q, M) * n + index, mask=inside, other=0.0)
            gram = gram + (tl.where(((code >> p) & (code >> q) & 1) != 0, product, 0.0),)
    return gram


@triton.constexpr_function
def _gram_place(s, t, N):
    return s * N - s * (s + 1) // 2 + t - s - 1


@triton.jit
def _whole(products, gram, N: tl.constexpr):
    """All inner products of tuples, row by row with the anchor last."""
    entries = ()
    for s in tl.static_range(N):
        for t in tl.static_range(s + 1, N):
            entries = entries + (gram[_gram_place(s, t, N)],)
        entries = entries + (products[s],)
    return entries


@triton.jit
def one_way_forward(
    products,  # float32 [M, M - 1, a, b]
    members,  # tables of the samples that give tuples; not read if MASKED
    inner,  # float32 [P, tuples], read only if MASKED
    codes_anchors,  # int32 [anchors], read only if MASKED
    codes_tuples,
    centers_anchors,  # float32 [anchors], read only if MOMENTS
    centers_tuples,
    scale,  # float32 []
    shift,  # float32 []
    by_anchor,  # out, float32 [tiles of tuples, statistics, A, anchors]
    by_tuple,  # out, float32 [splits of anchors, statistics, A, tuples], written only if BOTH
    num_anchors,
    num_tuples,
    one,  # 1, which the compiler may not know: a thread's numbers are to be anchors of one tuple, not neighbours
    length,  # anchors that a program walks over
    modalities,  # the anchors', four bits each
    middle,
    M: tl.constexpr,
    MEMBERS: tl.constexpr,
    SCORE: tl.constexpr,
    WHOLE_SCORE: tl.constexpr,
    COUNT: tl.constexpr,  # of the tables
    OF_ROWS: tl.constexpr,
    DIAGONAL: tl.constexpr,
    BOTH: tl.constexpr,
    SIGMOID: tl.constexpr,
    MOMENTS: tl.constexpr,
    TOTALS: tl.constexpr,
    MASKED: tl.constexpr,
    SOUGHT: tl.constexpr,
    TILE_A: tl.constexpr,
    TILE_T: tl.constexpr,
):
    """Parts of contract.Statistics. Grid (tiles of tuples, A, splits of anchors)."""
    PARTS: tl.constexpr = num_statistics(MOMENTS, TOTALS)
    k = tl.program_id(1)
    m = (modalities >> (4 * k)) & 15
    first_t = tl.program_id(0) * TILE_T
    j = (first_t + tl.arange(0, TILE_T))[None, :]
    inside_j = j < num_tuples
    factor = tl.load(scale)
    beside = tl.load(shift)
    code_j = j
    if MASKED:
        code_j = tl.load(codes_tuples + j, mask=inside_j, other=0)
    center_j = j
    if MOMENTS and BOTH:
        center_j = tl.load(centers_tuples + j, mask=inside_j, other=0.0)
    totals = ()
    for _ in tl.static_range(PARTS if BOTH else 0):
        totals = totals + (tl.zeros([TILE_A, TILE_T], tl.float32),)
    plane = tl.cast(num_anchors, tl.int64) * num_tuples
    first = tl.program_id(2) * length
    for start in range(first, min(first + length, num_anchors), TILE_A):
        index = start + tl.arange(0, TILE_A)
        i = index[:, None]
        inside_i = i < num_anchors
        valid = inside_i & inside_j
        code_i = i
        if MASKED:
            code_i = tl.load(codes_anchors + i, mask=inside_i, other=0)
        base = tl.cast(i, tl.int64) * num_tuples + j * one if OF_ROWS else i + tl.cast(j, tl.int64) * num_anchors
        own = _tile(products, base, plane, code_i, m, valid, OF_ROWS, MASKED, M)
        if DIAGONAL:
            valid = valid & (i != j)
        if MASKED:
            valid = valid & candidates(code_i, code_j, m, SOUGHT)
            gram = _gram(inner, code_i, m, j, inside_j, num_tuples, M)
            if WHOLE_SCORE is not None:
                value = WHOLE_SCORE(_whole(own, gram, M - 1), M)
            else:
                value, _state = SCORE(own, MEMBERS(gram, M - 1), M - 1)
        else:
            # start >> 30 is 0, which a compiler cannot know: it would load all entries before the loop and spill them
            place = table_place(k, j, num_tuples, COUNT) + (start >> 30)
            value, _state = SCORE(own, _table(members, place, inside_j, COUNT), M - 1)
        weight = tl.where(valid, exponential(value, factor, beside, SIGMOID), 0.0)
        center_i = i
        if MOMENTS:
            center_i = tl.load(centers_anchors + i, mask=inside_i, other=0.0)
        found = statistics(value, weight, valid, center_i, factor, beside, middle, MOMENTS, TOTALS, SIGMOID)
        for q in tl.static_range(PARTS):
            row = (tl.program_id(0) * PARTS + q) * tl.num_programs(1) + k
            tl.store(
                by_anchor + tl.cast(row, tl.int64) * num_anchors + index, tl.sum(found[q], 1), mask=index < num_anchors
            )
        if BOTH:
            found = statistics(value, weight, valid, center_j, factor, beside, middle, MOMENTS, TOTALS, SIGMOID)
            updated = ()
            for q in tl.static_range(PARTS):
                updated = updated + (totals[q] + found[q],)
            totals = updated
    outside = first_t + tl.arange(0, TILE_T)
    for q in tl.static_range(PARTS if BOTH else 0):
        row = (tl.program_id(2) * PARTS + q) * tl.num_programs(1) + k
        tl.store(
            by_tuple + tl.cast(row, tl.int64) * num_tuples + outside, tl.sum(totals[q], 0), mask=outside < num_tuples
        )


@triton.jit
def one_way_backward(
    products,
    members,
    inner,
    codes_anchors,
    codes_tuples,
    scale,
    shift,
    of_anchors,  # float32 [A, anchors]: contract.Factors
    of_tuples,  # float32 [A, tuples] or None, like both below
    levels,
    tuple_levels,
    out,  # [M, M - 1, a, b]: the gradients of the products
    sums,  # float32 [slots, A, blocks of 32, entries, 32]: added to; the gradients of members' products if MASKED
    num_anchors,
    num_tuples,
    one,
    length,
    modalities,
    written,  # a set of bits: planes of rows' modalities among them hold gradients already, which are added to
    M: tl.constexpr,
    MEMBERS: tl.constexpr,
    SCORE: tl.constexpr,
    GRADIENT: tl.constexpr,
    OWN: tl.constexpr,
    WHOLE_GRADIENT: tl.constexpr,
    COUNT: tl.constexpr,
    SUMS: tl.constexpr,  # how many entries
    OF_ROWS: tl.constexpr,
    DIAGONAL: tl.constexpr,
    SIGMOID: tl.constexpr,
    MASKED: tl.constexpr,
    SOUGHT: tl.constexpr,
    TILE_A: tl.constexpr,
    TILE_T: tl.constexpr,
):
    """Gradients of the products one way. Grid (tiles of tuples, A, slots)."""
    N: tl.constexpr = M - 1
    k = tl.program_id(1)
    m = (modalities >> (4 * k)) & 15
    outside = tl.program_id(0) * TILE_T + tl.arange(0, TILE_T)
    j = outside[None, :]
    inside_j = j < num_tuples
    factor = tl.load(scale)
    beside = tl.load(shift)
    code_j = j
    if MASKED:
        code_j = tl.load(codes_tuples + j, mask=inside_j, other=0)
    plane = tl.cast(num_anchors, tl.int64) * num_tuples
    sums += table_place(tl.program_id(2) * tl.num_programs(1) + k, outside, num_tuples, SUMS)
    first = tl.program_id(2) * length
    for start in range(first, min(first + length, num_anchors), TILE_A):
        i = (start + tl.arange(0, TILE_A))[:, None]
        inside_i = i < num_anchors
        inside = inside_i & inside_j
        code_i = i
        if MASKED:
            code_i = tl.load(codes_anchors + i, mask=inside_i, other=0)
        base = tl.cast(i, tl.int64) * num_tuples + j * one if OF_ROWS else i + tl.cast(j, tl.int64) * num_anchors
        own = _tile(products, base, plane, code_i, m, inside, OF_ROWS, MASKED, M)
        valid = inside
        if DIAGONAL:
            valid = valid & (i != j)
        if MASKED:
            valid = valid & candidates(code_i, code_j, m, SOUGHT)
            gram = _gram(inner, code_i, m, j, inside_j, num_tuples, M)
        factors = tl.load(of_anchors + k * num_anchors + i, mask=inside_i, other=0.0)
        if of_tuples is not None:
            factors = factors + tl.load(of_tuples + k * num_tuples + j, mask=inside_j, other=0.0)
        level = tl.zeros([TILE_A, TILE_T], tl.float32)
        if levels is not None:
            level += tl.load(levels + k * num_anchors + i, mask=inside_i, other=0.0)
        if tuple_levels is not None:
            level += tl.load(tuple_levels + k * num_tuples + j, mask=inside_j, other=0.0)
        if MASKED and WHOLE_GRADIENT is not None:
            value, state = WHOLE_GRADIENT(_whole(own, gram, N), M)
            weight = tl.where(valid, exponential(value, factor, beside, SIGMOID) * factors - level, 0.0)
            gradients = ()
            for s in tl.static_range(N):
                gradients = gradients + (weight * state[_gram_place(s, N, M)],)
            parts = ()
            for s in tl.static_range(N):
                for t in tl.static_range(s + 1, N):
                    parts = parts + (weight * state[_gram_place(s, t, M)],)
        else:
            if MASKED:
                entries = MEMBERS(gram, N)
            else:
                # start >> 30 is 0, which a compiler cannot know: it would load all entries before the loop, and spill
                place = table_place(k, j, num_tuples, COUNT) + (start >> 30)
                entries = _table(members, place, inside_j, COUNT)
            value, state = SCORE(own, entries, N)
            weight = tl.where(valid, exponential(value, factor, beside, SIGMOID) * factors - level, 0.0)
            gradients, parts = GRADIENT(own, entries, value, state, weight, N)
            if MASKED:
                parts = OWN(parts, entries, N)

        # Added up in memory, in places that this program alone writes: the registers are all taken.
        for e in tl.static_range(SUMS):
            part = parts[e]
            if MASKED:
                part = tl.where(_both(code_i, m, e, N), part, 0.0)
            old = tl.load(sums + e * 32, mask=outside < num_tuples, other=0.0)
            tl.store(sums + e * 32, old + tl.sum(part, 0), mask=outside < num_tuples)
        tl.debug_barrier()  # the thread that reads an entry need not be the one that wrote it

        for slot in tl.static_range(N):
            number, member = _plane(m, slot, OF_ROWS, M)
            gradient = gradients[slot]
            if MASKED:
                gradient = tl.where((code_i >> member) & 1 != 0, gradient, 0.0)
            pointers = out + number * plane + base
            if not OF_ROWS:
                gradient += tl.load(pointers, mask=inside & (j * 0 + ((written >> member) & 1) != 0), other=0.0)
            tl.store(pointers, gradient, mask=inside)


@triton.constexpr_function
def _first_of(e, N):
    s = 0
    while e >= N - 1 - s:
        e -= N - 1 - s
        s += 1
    return s


@triton.constexpr_function
def _second_of(e, N):
    s = 0
    while e >= N - 1 - s:
        e -= N - 1 - s
        s += 1
    return s + 1 + e


@triton.jit
def _both(code, m, e: tl.constexpr, N: tl.constexpr):
    """Whether both members of pair e are there."""
    p = _first_of(e, N) + (_first_of(e, N) >= m).to(tl.int32)
    q = _second_of(e, N) + (_second_of(e, N) >= m).to(tl.int32)
    return ((code >> p) & (code >> q) & 1) != 0
