# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator,var-annotated"
"""Kernels over samples: unit rows and the gradient through them, samples' own products and the scores of positives."""

import triton
import triton.language as tl

from unihpe_kernels.contrastive.triton.kernels_one_way import pair_at, table_place
from unihpe_kernels.small_linalg.eigh_kernels import triangle_index
from unihpe_kernels.sv_contrastive.kernels_rows import unit_scales


@triton.jit
def unit_rows(
    embeddings,  # M tensors [n, dim], contiguous
    used,  # uint8 [M, n], read only if MASKED: other rows are 0 whatever stands there
    units,  # out, [M, n, dim]
    inverse_norms,  # out, float32 [M, n], written only if NORMALIZE
    n,
    dim,
    M: tl.constexpr,
    MASKED: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    plane = tl.cast(n, tl.int64) * dim
    offset = tl.cast(row, tl.int64) * dim
    for m in tl.static_range(M):
        taken = inside
        if MASKED:
            taken = inside & (tl.load(used + m * n + row, mask=inside, other=0) != 0)
        scale, inverse = unit_scales(embeddings[m], offset, dim, taken, NORMALIZE, ROWS, BLOCK)
        if NORMALIZE:
            tl.store(inverse_norms + m * n + row, inverse * scale, mask=inside)
        for start in range(0, dim, BLOCK):
            column = start + tl.arange(0, BLOCK)[None, :]
            mask = taken[:, None] & (column < dim)
            place = offset[:, None] + column
            value = tl.load(embeddings[m] + place, mask=mask, other=0.0).to(tl.float32)
            value = value * scale[:, None] * inverse[:, None]
            written = inside[:, None] & (column < dim)
            tl.store(units + m * plane + place, value.to(units.dtype.element_ty), mask=written)


@triton.jit
def through_unit_rows(
    units,  # [M, n, dim]
    inverse_norms,  # float32 [M, n], read only if NORMALIZE
    d_units,  # float32 [M, n, dim]
    outs,  # out, M tensors [n, dim]
    n,
    dim,
    M: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What is along a row taken out, as its length is of no effect."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    plane = tl.cast(n, tl.int64) * dim
    offset = tl.cast(row, tl.int64)[:, None] * dim
    for m in tl.static_range(M):
        inverse = tl.zeros([ROWS], tl.float32)
        along = tl.zeros([ROWS, BLOCK], tl.float32)
        if NORMALIZE:
            inverse = tl.load(inverse_norms + m * n + row, mask=inside, other=0.0)
            for start in range(0, dim, BLOCK):
                column = start + tl.arange(0, BLOCK)[None, :]
                mask = inside[:, None] & (column < dim)
                unit = tl.load(units + m * plane + offset + column, mask=mask, other=0.0).to(tl.float32)
                along += unit * tl.load(d_units + m * plane + offset + column, mask=mask, other=0.0)
        part = tl.sum(along, 1)[:, None]
        for start in range(0, dim, BLOCK):
            column = start + tl.arange(0, BLOCK)[None, :]
            mask = inside[:, None] & (column < dim)
            gradient = tl.load(d_units + m * plane + offset + column, mask=mask, other=0.0)
            if NORMALIZE:
                unit = tl.load(units + m * plane + offset + column, mask=mask, other=0.0).to(tl.float32)
                gradient = (gradient - unit * part) * inverse[:, None]
            tl.store(outs[m] + offset + column, gradient.to(outs[m].dtype.element_ty), mask=mask)


@triton.jit
def own_products(units, inner, n, dim, M: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """inner, out, float32 [P, n]: the products of every two modalities of a sample."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    plane = tl.cast(n, tl.int64) * dim
    offset = tl.cast(row, tl.int64)[:, None] * dim
    totals = ()
    for _ in tl.static_range(M * (M - 1) // 2):
        totals = totals + (tl.zeros([ROWS, BLOCK], tl.float32),)
    for start in range(0, dim, BLOCK):
        column = start + tl.arange(0, BLOCK)[None, :]
        mask = inside[:, None] & (column < dim)
        values = ()
        for m in tl.static_range(M):
            values = values + (tl.load(units + m * plane + offset + column, mask=mask, other=0.0).to(tl.float32),)
        updated = ()
        for p in tl.static_range(M):
            for q in tl.static_range(p + 1, M):
                updated = updated + (totals[triangle_index(p, q, M) - p - 1] + values[p] * values[q],)
        totals = updated
    for pair in tl.static_range(M * (M - 1) // 2):
        tl.store(inner + pair * n + row, tl.sum(totals[pair], 1), mask=inside)


@triton.jit
def members_tables(inner, tables, n, modalities, M: tl.constexpr, MEMBERS: tl.constexpr, COUNT: tl.constexpr,
                   BLOCK: tl.constexpr):  # fmt: skip
    """tables, out, float32 [A, blocks of 32, COUNT, 32]: what the score wants of members. Grid (blocks, A).

    modalities: the anchors', four bits each."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(1)
    m = (modalities >> (4 * k)) & 15
    inside = index < n
    gram = ()
    for s in tl.static_range(M - 1):
        for t in tl.static_range(s + 1, M - 1):
            pair = pair_at(s + (s >= m).to(tl.int32), t + (t >= m).to(tl.int32), M)
            gram = gram + (tl.load(inner + pair * n + index, mask=inside, other=0.0),)
    entries = MEMBERS(gram, M - 1)
    out = tables + table_place(k, index, n, COUNT)
    for e in tl.static_range(COUNT):
        tl.store(out + e * 32, entries[e], mask=inside)


@triton.jit
def _positive(inner, tables, index, inside, n, M: tl.constexpr, MEMBERS: tl.constexpr, COUNT: tl.constexpr):
    """Products of modality 0 with its members, and what the score wants of those."""
    products = ()
    for s in tl.static_range(M - 1):
        products = products + (tl.load(inner + s * n + index, mask=inside, other=0.0),)
    if tables is None:
        gram = ()
        if M == 3:
            gram = (tl.load(inner + 2 * n + index, mask=inside, other=0.0),)
        return products, MEMBERS(gram, M - 1)
    else:  # noqa: RET505 - Triton compiles what follows a return
        entries = ()
        for e in tl.static_range(COUNT):
            place = table_place(0, index, n, COUNT) + e * 32
            entries = entries + (tl.load(tables + place, mask=inside, other=0.0),)
        return products, entries


@triton.jit
def positive_scores(inner, tables, scores, n, M: tl.constexpr, MEMBERS: tl.constexpr, SCORE: tl.constexpr,
                    COUNT: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """scores, out, float32 [n]. tables: `members_tables` of modality 0, or None for up to three modalities."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    products, entries = _positive(inner, tables, index, inside, n, M, MEMBERS, COUNT)
    value, _state = SCORE(products, entries, M - 1)
    tl.store(scores + index, value, mask=inside)


@triton.jit
def positive_gradients(inner, tables, weights, d_inner, n, M: tl.constexpr, MEMBERS: tl.constexpr,
                       SCORE: tl.constexpr, GRADIENT: tl.constexpr, OWN: tl.constexpr, COUNT: tl.constexpr,
                       BLOCK: tl.constexpr):  # fmt: skip
    """d_inner, out, float32 [P, n]: weights [n] times the gradients of the scores."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    products, entries = _positive(inner, tables, index, inside, n, M, MEMBERS, COUNT)
    value, state = SCORE(products, entries, M - 1)
    weight = tl.load(weights + index, mask=inside, other=0.0)
    gradients, sums = GRADIENT(products, entries, value, state, weight, M - 1)
    for s in tl.static_range(M - 1):
        tl.store(d_inner + s * n + index, gradients[s], mask=inside)
    rest = OWN(sums, entries, M - 1)
    for pair in tl.static_range((M - 1) * (M - 2) // 2):
        tl.store(d_inner + (M - 1 + pair) * n + index, rest[pair], mask=inside)


@triton.jit
def members_gradients(
    sums,  # float32 [A, blocks of 32, SUMS, 32]
    tables,  # `members_tables`; not read if MASKED
    inner,
    d_inner,  # out, float32 [A, P, n], to be added up over A
    n,
    modalities,
    M: tl.constexpr,
    MEMBERS: tl.constexpr,
    OWN: tl.constexpr,
    COUNT: tl.constexpr,
    SUMS: tl.constexpr,
    MASKED: tl.constexpr,  # sums are gradients of members' products already
    BLOCK: tl.constexpr,
):
    """Gradients of samples' own products from what blocks have added up. Grid (blocks, A)."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(1)
    m = (modalities >> (4 * k)) & 15
    inside = index < n
    gathered = ()
    for e in tl.static_range(SUMS):
        gathered = gathered + (tl.load(sums + table_place(k, index, n, SUMS) + e * 32, mask=inside, other=0.0),)
    if not MASKED:
        if M == 3:
            entries = MEMBERS((tl.load(inner + (2 - m) * n + index, mask=inside, other=0.0),), 2)
        else:
            entries = ()
            for e in tl.static_range(COUNT):
                entries = entries + (
                    tl.load(tables + table_place(k, index, n, COUNT) + e * 32, mask=inside, other=0.0),
                )
        gathered = OWN(gathered, entries, M - 1)
    out = d_inner + tl.cast(k, tl.int64) * (M * (M - 1) // 2) * n + index
    zero = tl.zeros([BLOCK], tl.float32)
    for s in tl.static_range(M - 1):
        p = s + (s >= m).to(tl.int32)
        tl.store(out + pair_at(m, p, M) * n, zero, mask=inside)
        for t in tl.static_range(s + 1, M - 1):
            q = t + (t >= m).to(tl.int32)
            tl.store(out + pair_at(p, q, M) * n, gathered[triangle_index(s, t, M - 1) - s - 1], mask=inside)
