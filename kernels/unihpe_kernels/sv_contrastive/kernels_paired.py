# A Triton tuple grows by `+`, which changes its type.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,index,operator,var-annotated"
"""Kernels for negatives="paired": anchor i of one modality against the other members of one sample j.

Similarities are computed a tile at a time from the embeddings, each row times a power of two that takes its largest
magnitude into [1, 2), and multiplied with the inverse lengths after the product: exact for half types, no product of
rows leaves float32's range, and no B x B tensor. Per sample, as columns of tables:

    powers [M, n]; inverse_norms [M, n], of the rows times their power; shares [M, n], what an anchor's softmax weights
    come to without that of its positive; inner [M (M - 1)/2, n], the products of its own unit rows, pairs ordered
    (0, 1), (0, 2), ..
    and for M > 3, for each anchor modality m, the members' Gram matrix diagonalised: basis [M, blocks, rows, 32] with
    the rows alpha, M - 1 gaps, and component c of vector k at 1 + (M - 1) (1 + k) + c, as `kernels_arrowhead` wants
    them. It lies in blocks of 32 samples so that a row is a constant away from the next: as pointers of their own, the
    up to 57 rows would take all registers.

Members of anchor modality m are the others in order: slot s is modality s + (s >= m).
A sample's code has bit m set if it has modality m; codes say which anchors there are (anchor_codes, 0 for none) and
which samples have what an anchor's tuples need (pool_codes). They are read only if MASKED. The basis is read only if
not: which members there are then depends on the pair, and `kernels_zero_diagonal` takes their products as they are.
Where `anchors` is given, the anchors are the samples below it and tuples are formed from those from it on, `own` [n]
being the places of the anchors' samples among these, or numbers beyond; where it is None, every sample is both.

An anchor's positive is in no sum over its tuples: near convergence all others together are less than rounding of it,
so its part of the softmax and of the gradients is taken from theirs.
"""

import triton
import triton.language as tl

from unihpe_kernels.small_linalg.eigh_kernels import symmetric_eigen, triangle_index
from unihpe_kernels.sv_contrastive.kernels_arrowhead import arrowhead_entry, arrowhead_gradient, arrowhead_root
from unihpe_kernels.sv_contrastive.kernels_rows import LOG2_E, inverse_root, row_power, softplus2
from unihpe_kernels.sv_contrastive.kernels_score import triple_gradient, triple_mu
from unihpe_kernels.sv_contrastive.kernels_zero_diagonal import pair_place, zero_diagonal_root, zero_diagonal_vector


@triton.constexpr_function
def members_entries(num_modalities, masked):
    """Numbers that say how the members' Gram matrix of a sample moves a score: their products, but a triangle in the
    members' basis where there is one."""
    return (num_modalities - 1) * (num_modalities - 2 if masked or num_modalities <= 3 else num_modalities) // 2


@triton.jit
def _pair_at(p, q, num_modalities):
    """`_pair` of numbers known at run time."""
    low = tl.minimum(p, q)
    return low * num_modalities - low * (low + 1) // 2 + tl.maximum(p, q) - low - 1


@triton.jit
def paired_prepare(
    embeddings,  # M tensors [n, dim]
    used,  # uint8 [M, n], read only if MASKED: rows to take; others are zero, whatever stands there
    stack,  # out, [M, n, dim]: the embeddings times their powers, in the type of the products
    powers,  # out
    inverse_norms,  # out
    inner,  # out
    n,
    dim,
    M: tl.constexpr,
    MASKED: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One stack, lengths and own inner products of every sample."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    plane = tl.cast(n, tl.int64) * dim
    offset = tl.cast(row, tl.int64) * dim
    scales = ()
    for m in tl.static_range(M):
        scale = tl.full([ROWS], 1.0, tl.float32)
        if NORMALIZE:
            taken = _taken(used, m, row, n, inside, MASKED)
            scale = row_power(embeddings[m], offset, dim, taken, ROWS, BLOCK)
        tl.store(powers + m * n + row, scale, mask=inside)
        scales = scales + (scale,)
    sums = ()
    for _ in tl.static_range(M * (M + 1) // 2):
        sums = sums + (tl.zeros([ROWS, BLOCK], tl.float32),)
    for start in range(0, dim, BLOCK):
        column = start + tl.arange(0, BLOCK)[None, :]
        mask = inside[:, None] & (column < dim)
        values = ()
        for m in tl.static_range(M):
            read = mask & _taken(used, m, row, n, inside, MASKED)[:, None]
            place = offset[:, None] + column
            value = tl.load(embeddings[m] + place, mask=read, other=0.0).to(tl.float32)
            value = value * scales[m][:, None]
            tl.store(stack + m * plane + place, value.to(stack.dtype.element_ty), mask=mask)
            values = values + (value,)
        updated = ()
        for p in tl.static_range(M):
            for q in tl.static_range(p, M):
                updated = updated + (sums[triangle_index(p, q, M)] + values[p] * values[q],)
        sums = updated
    inverses = ()
    for m in tl.static_range(M):
        if NORMALIZE:
            inverse = inverse_root(tl.sum(sums[triangle_index(m, m, M)], 1), scales[m])
        else:
            inverse = tl.full([ROWS], 1.0, tl.float32)
        tl.store(inverse_norms + m * n + row, inverse, mask=inside)
        inverses = inverses + (inverse,)
    for p in tl.static_range(M):
        for q in tl.static_range(p + 1, M):
            product = tl.sum(sums[triangle_index(p, q, M)], 1) * inverses[p] * inverses[q]
            tl.store(inner + pair_place(p, q, M) * n + row, product, mask=inside)


@triton.jit
def _taken(used, m, row, n, inside, MASKED: tl.constexpr):
    """Whether rows of modality m are read."""
    if MASKED:
        inside = inside & (tl.load(used + m * n + row, mask=inside, other=0) != 0)
    return inside


@triton.jit
def paired_basis(inner, basis, n, M: tl.constexpr, BLOCK: tl.constexpr):
    """The members' Gram matrices diagonalised, of every sample and for anchor modality program_id(1)."""
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = tl.program_id(1)
    inside = j < n
    members: tl.constexpr = M - 1
    entries = ()
    for s in tl.static_range(members):
        entries = entries + (tl.full([BLOCK], 1.0, tl.float32),)
        for t in tl.static_range(s + 1, members):
            pair = _pair_at(s + (s >= m).to(tl.int32), t + (t >= m).to(tl.int32), M)
            entries = entries + (tl.load(inner + pair * n + j, mask=inside, other=0.0),)
    values, vectors = symmetric_eigen(entries, members)
    out = basis + _block_place(m, j, n, 1 + members + members * members)
    # maximum would swallow the NaN of a bad sample, and so would all that comes after
    tl.store(out, tl.where(values[0] < 1, 0.0, values[0] - 1), mask=inside)
    for k in tl.static_range(members):
        tl.store(out + (1 + k) * 32, tl.maximum(values[0] - values[k], 0.0), mask=inside)
    for c in tl.static_range(members * members):
        tl.store(out + (1 + members + c) * 32, vectors[c], mask=inside)


@triton.jit
def _block_place(m, j, n, rows: tl.constexpr):
    """Place of sample j in a table [.., blocks, rows, 32]."""
    return tl.cast(m * ((n + 31) // 32) + j // 32, tl.int64) * (rows * 32) + j % 32


@triton.jit
def _products(
    stack,
    inverse_norms,
    anchor_codes,
    pool_codes,
    own,
    anchors,
    m,
    start_i,
    i,
    inside_i,
    start_j,
    j,
    inside_j,
    n,
    dim,
    M: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPTH: tl.constexpr,
    SWAP: tl.constexpr,
):
    """Tiles [i, j] of the anchors' products with the members, M - 1 of them, and which pairs are tuples of others.

    SWAP: as products [j, i], turned over. AMD's matrix units leave four neighbours of a row of their result in a lane:
    so these are anchors of one sample j, and the lane holds one of the sample's basis rows instead of four.

    MASKED: products with modalities that the anchor's sample lacks are 0: such a member stands alone, and sigma_1 is
    that of the others.
    """
    members: tl.constexpr = M - 1
    plane = tl.cast(n, tl.int64) * dim
    # Places within a tile, shared by all members: a tensor of pointers for each would take most of the registers.
    d = tl.arange(0, DEPTH)
    place_i = (i - start_i)[:, None] * dim + d[None, :]
    place_j = (j - start_j)[None, :] * dim + d[:, None]
    row = stack + m * plane + tl.cast(start_i, tl.int64) * dim
    column = stack + tl.cast(start_j, tl.int64) * dim
    tiles = ()
    for _ in tl.static_range(members):
        if SWAP:
            tiles = tiles + (tl.zeros([j.shape[0], i.shape[0]], tl.float32),)
        else:
            tiles = tiles + (tl.zeros([i.shape[0], j.shape[0]], tl.float32),)
    for start in range(0, dim, DEPTH):
        inside = d < dim - start
        left = tl.load(row + start + place_i, mask=inside_i[:, None] & inside[None, :], other=0.0)
        updated = ()
        for s in tl.static_range(members):
            member = s + (s >= m).to(tl.int32)
            mask = inside_j[None, :] & inside[:, None]
            right = tl.load(column + (member * plane + start) + place_j, mask=mask, other=0.0)
            if SWAP:
                updated = updated + (tl.dot(right.T, left.T, tiles[s], input_precision=PRECISION),)
            else:
                updated = updated + (tl.dot(left, right, tiles[s], input_precision=PRECISION),)
        tiles = updated
    of_i = tl.load(inverse_norms + m * n + i, mask=inside_i, other=0.0)
    own_j = i
    if own is not None:
        own_j = anchors + tl.load(own + i, mask=inside_i, other=0).to(tl.int32)
    valid = inside_i[:, None] & inside_j[None, :] & (own_j[:, None] != j[None, :])
    if MASKED:
        code_i = tl.load(anchor_codes + i, mask=inside_i, other=0)
        code_j = tl.load(pool_codes + j, mask=inside_j, other=0)
        valid = valid & ((code_i >> m) & 1 != 0)[:, None] & ((code_i[:, None] & ~code_j[None, :]) == 0)
    products = ()
    for s in tl.static_range(members):
        member = s + (s >= m).to(tl.int32)
        of_row = of_i
        if MASKED:
            of_row = tl.where((code_i >> member) & 1 != 0, of_i, 0.0)
        of_j = tl.load(inverse_norms + member * n + j, mask=inside_j, other=0.0)
        tile = tiles[s]
        if SWAP:
            tile = tile.T
        products = products + (tile * of_row[:, None] * of_j[None, :],)
    return products, valid


@triton.jit
def _members_inner(inner, anchor_codes, m, i, inside_i, j, inside_j, n, MASKED: tl.constexpr):
    """Of three modalities, the product of the two members: [1, j], or [i, j] where the anchor's sample may lack one."""
    c = tl.load(inner + (2 - m) * n + j, mask=inside_j, other=0.0)[None, :]
    if MASKED:
        others = 7 & ~(1 << m)
        code = tl.load(anchor_codes + i, mask=inside_i, other=0)
        c = tl.where(((code & others) == others)[:, None], c, 0.0)
    return c


@triton.jit
def _zero_diagonal_products(products, inner, code, m, j, inside_j, n, M: tl.constexpr):
    """Of a stack, the inner products as `kernels_zero_diagonal` wants them, the anchor last, with 0 for those that the
    code lacks. j and inside_j: of the samples of the members, in a shape that broadcasts with that of `code`."""
    members: tl.constexpr = M - 1
    slots = _slots(code, m)
    h = ()
    for s in tl.static_range(members):
        for t in tl.static_range(s + 1, members):
            pair = _pair_at(s + (s >= m).to(tl.int32), t + (t >= m).to(tl.int32), M)
            product = tl.load(inner + pair * n + j, mask=inside_j, other=0.0)
            h = h + (tl.where((slots & ((1 << s) | (1 << t))) == ((1 << s) | (1 << t)), product, 0.0),)
        h = h + (products[s],)
    return h


@triton.jit
def _slots(code, m):
    """The bits of the members of anchor modality m."""
    return (code & ((1 << m) - 1)) | ((code >> (m + 1)) << m)


@triton.jit
def _zero_diagonal_gradient(h, code, m, M: tl.constexpr):
    """mu, M components of an eigenvector, 0 for members that the code lacks, and 1/its squared length."""
    mu, vector, inverse_square = zero_diagonal_vector(h, M)
    slots = _slots(code, m)
    masked = ()
    for s in tl.static_range(M - 1):
        masked = masked + (tl.where((slots >> s) & 1 != 0, vector[s], 0.0),)
    return mu, masked + (vector[M - 1],), inverse_square


@triton.jit
def _rotated(products, own, inside, M: tl.constexpr):
    """Products in the members' basis, alpha and gaps, for `kernels_arrowhead`. own: the samples' places in `basis`."""
    members: tl.constexpr = M - 1
    s = ()
    g = ()
    for k in tl.static_range(members):
        total = products[0] * tl.load(own + (1 + members + k * members) * 32, mask=inside, other=0.0)
        for c in tl.static_range(1, members):
            total += products[c] * tl.load(own + (1 + members + k * members + c) * 32, mask=inside, other=0.0)
        s = s + (total,)
        g = g + (tl.load(own + (1 + k) * 32, mask=inside, other=0.0),)
    return s, tl.load(own, mask=inside, other=0.0), g


@triton.jit
def _rotated_back(d_s, own, inside, c: tl.constexpr, M: tl.constexpr):
    """The gradient of the product with member c, from those of products in the members' basis."""
    members: tl.constexpr = M - 1
    total = d_s[0] * tl.load(own + (1 + members + c) * 32, mask=inside, other=0.0)
    for k in tl.static_range(1, members):
        total += d_s[k] * tl.load(own + (1 + members + k * members + c) * 32, mask=inside, other=0.0)
    return total


@triton.jit
def _quarter(tile, quarter, TILE_I: tl.constexpr, TILE_J: tl.constexpr):
    """The upper or lower half of the rows, by bit 0 of `quarter`, and of it the even or the odd columns, by bit 1.

    Of a product by NVIDIA's matrix units a thread holds one number of each quarter of 16 rows: nothing moves.
    """
    even, odd = tl.split(tl.permute(tl.reshape(tile, [2, TILE_I // 2, TILE_J // 2, 2]), (1, 2, 0, 3)))
    upper_even, lower_even = tl.split(even)
    upper_odd, lower_odd = tl.split(odd)
    upper = tl.where(quarter & 2 != 0, upper_odd, upper_even)
    return tl.where(quarter & 1 != 0, tl.where(quarter & 2 != 0, lower_odd, lower_even), upper)


@triton.jit
def _quarter_places(start_i, start_j, quarter, TILE_I: tl.constexpr, TILE_J: tl.constexpr):
    """Its anchors and its samples."""
    i = start_i + (quarter & 1) * (TILE_I // 2) + tl.arange(0, TILE_I // 2)
    return i, start_j + (quarter >> 1) + 2 * tl.arange(0, TILE_J // 2)


@triton.jit
def paired_forward(
    stack,
    inverse_norms,
    inner,
    basis,
    anchor_codes,
    pool_codes,
    own,
    temperature,
    highest,  # out, float32 [splits, M, n]: the largest logit to base 2 of an anchor's tuples
    sums,  # out, float32 [splits, M, n]: sum of exp2(logit - highest)
    anchors,
    n,
    dim,
    columns,  # of j that a program walks over, a multiple of TILE_J
    M: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
    DEPTH: tl.constexpr,
    SWAP: tl.constexpr,
):
    """Partial sums over the anchors' other tuples. Grid (tiles of i, anchor modality, splits of j)."""
    i = tl.program_id(0) * TILE_I + tl.arange(0, TILE_I)
    m = tl.program_id(1)
    split = tl.program_id(2)
    inside_i = i < (n if anchors is None else anchors)
    begin_j = 0 if anchors is None else anchors
    scale = LOG2_E / tl.load(temperature)
    top = tl.full([TILE_I], float("-inf"), tl.float32)
    total = tl.zeros([TILE_I], tl.float32)
    for start in range(begin_j + split * columns, min(begin_j + (split + 1) * columns, n), TILE_J):
        j = start + tl.arange(0, TILE_J)
        inside_j = j < n
        products, valid = _products(
            stack, inverse_norms, anchor_codes, pool_codes, own, anchors, m, tl.program_id(0) * TILE_I, i, inside_i,
            start, j, inside_j, n, dim, M, MASKED, PRECISION, DEPTH, SWAP,
        )  # fmt: skip
        if M == 2:
            square = 1 + tl.abs(products[0])
        elif M == 3:
            c = _members_inner(inner, anchor_codes, m, i, inside_i, j, inside_j, n, MASKED)
            square = 1 + triple_mu(products[0], products[1], c)[0]
        elif MASKED:
            # a quarter of the tile at a time: the registers hold one pair's matrix, not four
            upper_even = tl.zeros([TILE_I // 2, TILE_J // 2], tl.float32)
            upper_odd, lower_even, lower_odd = upper_even, upper_even, upper_even
            for quarter in range(4):
                rows, columns_j = _quarter_places(tl.program_id(0) * TILE_I, start, quarter, TILE_I, TILE_J)
                code = tl.load(anchor_codes + rows, mask=rows < n, other=0)[:, None]
                parts = ()
                for s in tl.static_range(M - 1):
                    parts = parts + (_quarter(products[s], quarter, TILE_I, TILE_J),)
                h = _zero_diagonal_products(parts, inner, code, m, columns_j[None, :], (columns_j < n)[None, :], n, M)
                part = zero_diagonal_root(h, M)
                upper_even = tl.where(quarter == 0, part, upper_even)
                lower_even = tl.where(quarter == 1, part, lower_even)
                upper_odd = tl.where(quarter == 2, part, upper_odd)
                lower_odd = tl.where(quarter == 3, part, lower_odd)
            whole = tl.join(tl.join(upper_even, lower_even), tl.join(upper_odd, lower_odd))
            square = 1 + tl.reshape(tl.permute(whole, (2, 0, 1, 3)), [TILE_I, TILE_J])
        else:
            of_j = (basis + _block_place(m, j, n, 1 + M * (M - 1)))[None, :]
            s, a, g = _rotated(products, of_j, inside_j[None, :], M)
            square = arrowhead_root(s, a, g, M - 1) + (a + 1)
        logit = tl.where(valid, tl.sqrt(square) * scale, float("-inf"))
        new_top = tl.maximum(top, tl.max(logit, 1))
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)  # rows without a tuple so far
        total = total * tl.exp2(top - reference) + tl.sum(tl.exp2(logit - reference[:, None]), 1)
        top = new_top
    place = tl.cast(split * M + m, tl.int64) * n + i
    tl.store(highest + place, top, mask=inside_i)
    tl.store(sums + place, total, mask=inside_i)


@triton.jit
def _own_products(inner, codes, m, i, inside, n, M: tl.constexpr, MASKED: tl.constexpr):
    """A sample's own products of modality m with its members; 0 for pairs that it lacks."""
    products = ()
    for s in tl.static_range(M - 1):
        member = s + (s >= m).to(tl.int32)
        product = tl.load(inner + _pair_at(m, member, M) * n + i, mask=inside, other=0.0)
        if MASKED:
            code = tl.load(codes + i, mask=inside, other=0)
            product = tl.where(((code >> m) & (code >> member) & 1) != 0, product, 0.0)
        products = products + (product,)
    return products


@triton.jit
def _own_members_inner(inner, codes, m, i, inside, n, MASKED: tl.constexpr):
    """Of three modalities, a sample's own product of the two that are not m; 0 if it lacks one."""
    c = tl.load(inner + (2 - m) * n + i, mask=inside, other=0.0)
    if MASKED:
        code = tl.load(codes + i, mask=inside, other=0)
        c = tl.where((code & ~(1 << m)) == (7 & ~(1 << m)), c, 0.0)
    return c


@triton.jit
def paired_finish(
    inner,
    basis,
    anchor_codes,
    temperature,
    highest,
    sums,
    logsumexp,  # out, float32 [M, n]: log2; 0 where there is no anchor
    shares,  # out
    sample_loss,  # out, float32 [n]: summed over the sample's anchors
    n,
    splits,
    M: tl.constexpr,
    MASKED: tl.constexpr,
    OTHERS: tl.constexpr,  # whether the logsumexp are of the other tuples, relative to the own one's exponential
    BLOCK: tl.constexpr,
):
    """Normalisers and losses of the samples from the partial sums of `paired_forward`."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    scale = LOG2_E / tl.load(temperature)
    # the positive has the same score from all of its anchors, but of three modalities the one taken must be there
    first = tl.zeros([BLOCK], tl.int32)
    if MASKED and M <= 3:
        first = tl.where(tl.load(anchor_codes + i, mask=inside, other=0) & 1 != 0, 0, 1)
    products = _own_products(inner, anchor_codes, first, i, inside, n, M, MASKED)
    if M == 2:
        square = 1 + tl.abs(products[0])
    elif M == 3:
        c = _own_members_inner(inner, anchor_codes, first, i, inside, n, MASKED)
        square = 1 + triple_mu(products[0], products[1], c)[0]
    elif MASKED:
        code = tl.load(anchor_codes + i, mask=inside, other=0)
        square = 1 + zero_diagonal_root(_zero_diagonal_products(products, inner, code, first, i, inside, n, M), M)
    else:
        s, a, g = _rotated(products, basis + _block_place(0, i, n, 1 + M * (M - 1)), inside, M)
        square = arrowhead_root(s, a, g, M - 1) + (a + 1)
    positive = tl.sqrt(square) * scale
    loss = tl.zeros([BLOCK], tl.float32)
    for m in tl.static_range(M):
        top = tl.full([BLOCK], float("-inf"), tl.float32)
        for split in range(splits):
            place = tl.cast(split * M + m, tl.int64) * n + i
            top = tl.maximum(top, tl.load(highest + place, mask=inside, other=0.0))
        anchor = inside  # whatever its logits are: a NaN among them must come out
        if MASKED:
            anchor = anchor & ((tl.load(anchor_codes + i, mask=inside, other=0) >> m) & 1 != 0)
        top = tl.where(anchor & (top > float("-inf")), top, 0.0)
        total = tl.zeros([BLOCK], tl.float32)
        for split in range(splits):
            place = tl.cast(split * M + m, tl.int64) * n + i
            part = tl.load(highest + place, mask=anchor, other=0.0)
            total += tl.load(sums + place, mask=anchor, other=1.0) * tl.exp2(part - top)
        # -infinity where there are no others; a NaN goes through every comparison
        none = (total == 0) & (positive == positive)
        others = tl.where(none, float("-inf"), tl.log2(tl.where(anchor & (total != 0), total, 1.0)) + (top - positive))
        part, share = softplus2(tl.where(anchor, others, float("-inf")))
        if OTHERS:
            tl.store(logsumexp + m * n + i, others, mask=inside)
        else:
            tl.store(logsumexp + m * n + i, tl.where(anchor, positive + part, 0.0), mask=inside)
        tl.store(shares + m * n + i, share, mask=inside)
        loss += part
    tl.store(sample_loss + i, loss / LOG2_E, mask=inside)


@triton.jit
def _d_score(grad, weights, inverse_total, temperature, i, inside, WEIGHTED: tl.constexpr):
    """d loss/d score of the tuples of sample i, but for the softmax."""
    d_score = tl.where(inside, tl.load(grad) * tl.load(inverse_total) / tl.load(temperature), 0.0)
    if WEIGHTED:
        d_score *= tl.load(weights + i, mask=inside, other=0.0).to(tl.float32)
    return d_score


@triton.jit
def _half_sign(x):
    return tl.where(x > 0, 0.5, tl.where(x < 0, -0.5, 0.0))


@triton.jit
def store_masked_gradients(
    products,
    valid,
    quarter,
    inverse_norms,
    inner,
    anchor_codes,
    scale,
    temperature,
    grad,
    weights,
    inverse_total,
    logsumexp,
    panel,
    d_members,
    m,
    start_i,
    start_j,
    n,
    begin,
    end,
    begin_j,
    end_j,
    split,
    later,  # than the first tile of this program
    M: tl.constexpr,
    WEIGHTED: tl.constexpr,
    FIRST: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
):
    """What `paired_backward` does with a tile, for a quarter of one of samples that may lack modalities."""
    members: tl.constexpr = M - 1
    i, j = _quarter_places(start_i, start_j, quarter, TILE_I, TILE_J)
    inside_i = i < end
    inside_j = j < end_j
    parts = ()
    for s in tl.static_range(members):
        parts = parts + (_quarter(products[s], quarter, TILE_I, TILE_J),)
    code = tl.load(anchor_codes + i, mask=inside_i, other=0)
    h = _zero_diagonal_products(parts, inner, code[:, None], m, j[None, :], inside_j[None, :], n, M)
    mu, vector, inverse_square = _zero_diagonal_gradient(h, code[:, None], m, M)
    sigma = tl.sqrt(1 + mu)
    log_sum = tl.load(logsumexp + m * n + i, mask=inside_i, other=0.0)[:, None]
    d_score = _d_score(grad, weights, inverse_total, temperature, i, inside_i, WEIGHTED)[:, None]
    counts = _quarter(valid.to(tl.int32), quarter, TILE_I, TILE_J) != 0
    weight = tl.where(counts, d_score * tl.exp2(sigma * scale - log_sum), 0.0)
    sum_scale = tl.sum(weight * sigma, 0)
    weight = weight * (inverse_square / sigma)

    of_i = tl.load(inverse_norms + m * n + i, mask=inside_i, other=0.0)
    columns = end_j - begin_j
    out = panel + (m * tl.cast(end - begin, tl.int64) + (i - begin))[:, None] * M * columns + (j - begin_j)[None, :]
    mask = inside_i[:, None] & inside_j[None, :]
    tl.store(out + m * columns, tl.zeros_like(weight).to(panel.dtype.element_ty), mask=mask)
    written = inside_j
    if FIRST:
        written = inside_j & (j * 0 + later.to(tl.int32) + (quarter & 1) > 0)
    members_out = d_members + _block_place(split * M + m, j, n, members * (members - 1) // 2)
    for p in tl.static_range(members):
        member = p + (p >= m).to(tl.int32)
        weighted = weight * vector[p]
        of_row = tl.where((code >> member) & 1 != 0, of_i, 0.0)
        of_j = tl.load(inverse_norms + member * n + j, mask=inside_j, other=0.0)
        value = weighted * vector[members] * of_row[:, None] * of_j[None, :]
        tl.store(out + member * columns, value.to(panel.dtype.element_ty), mask=mask)
        for q in tl.static_range(p + 1, members):
            pointers = members_out + pair_place(p, q, members) * 32
            part = tl.sum(weighted * vector[q], 0)
            tl.store(pointers, tl.load(pointers, mask=written, other=0.0) + part, mask=inside_j)
    tl.debug_barrier()  # the thread that reads an entry need not be the one that wrote it
    return sum_scale


@triton.jit(do_not_specialize=["begin", "end"])
def paired_backward(
    stack,
    inverse_norms,
    inner,
    basis,
    anchor_codes,
    pool_codes,
    own,
    temperature,
    grad,
    weights,
    inverse_total,
    logsumexp,
    panel,  # out, [M, end - begin, M, end_j - begin_j]: d loss/d (anchor row . member row); 0 within a modality
    d_members,  # out, float32 [splits, M, blocks, entries, 32]: for the members' products, see `members_entries`
    d_scale,  # out, float32 [tiles of j x M x splits]: sum of scores times their gradient
    anchors,
    n,
    dim,
    begin,  # the anchors of this panel
    end,
    begin_j,  # the samples of its tuples, from whole tiles behind the first of all samples on
    end_j,
    rows,  # of them for one program, a multiple of TILE_I
    M: tl.constexpr,
    MASKED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    FIRST: tl.constexpr,  # whether this is the first panel: later ones add to d_members and d_scale
    PRECISION: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
    DEPTH: tl.constexpr,
    SWAP: tl.constexpr,
):
    """Gradients of a panel of inner products. Grid (tiles of j, anchor modality, splits of i)."""
    members: tl.constexpr = M - 1
    entries: tl.constexpr = members_entries(M, MASKED)
    tile_j = tl.program_id(0) + (begin_j - (0 if anchors is None else anchors)) // TILE_J
    start_j = begin_j + tl.program_id(0) * TILE_J
    j = start_j + tl.arange(0, TILE_J)
    m = tl.program_id(1)
    split = tl.program_id(2)
    inside_j = j < end_j
    scale = LOG2_E / tl.load(temperature)
    sum_scale = tl.zeros([TILE_J // 2 if M > 3 and MASKED else TILE_J], tl.float32)
    sum_inner = tl.zeros([TILE_J], tl.float32)
    members_out = d_members + _block_place(split * M + m, j, n, entries)
    length = tl.cast(end - begin, tl.int64)
    columns = end_j - begin_j
    first = begin + split * rows
    for start in range(first, min(first + rows, end), TILE_I):
        i = start + tl.arange(0, TILE_I)
        inside_i = i < end
        products, valid = _products(
            stack, inverse_norms, anchor_codes, pool_codes, own, anchors, m, start, i, inside_i, start_j, j,
            inside_j, n, dim, M, MASKED, PRECISION, DEPTH, SWAP,
        )  # fmt: skip
        if M > 3 and MASKED:
            # a quarter of the tile at a time: the registers hold one pair's matrix, not four
            for quarter in range(4):
                sum_scale += store_masked_gradients(
                    products, valid, quarter, inverse_norms, inner, anchor_codes, scale, temperature, grad, weights,
                    inverse_total, logsumexp, panel, d_members, m, start, start_j, n, begin, end,
                    begin_j, end_j, split,
                    start > first, M, WEIGHTED, FIRST, TILE_I, TILE_J,
                )  # fmt: skip
        else:
            log_sum = tl.load(logsumexp + m * n + i, mask=inside_i, other=0.0)[:, None]
            d_score = _d_score(grad, weights, inverse_total, temperature, i, inside_i, WEIGHTED)[:, None]
            if M == 2:
                sigma = tl.sqrt(1 + tl.abs(products[0]))
            elif M == 3:
                c = _members_inner(inner, anchor_codes, m, i, inside_i, j, inside_j, n, MASKED)
                mu, square, f = triple_mu(products[0], products[1], c)
                sigma = tl.sqrt(1 + mu)
            else:
                # start >> 30 is 0, which a compiler cannot know: it would load all rows before the loop and spill them
                places = (basis + _block_place(m, j, n, 1 + M * (M - 1)) + (start >> 30))[None, :]
                s, a, g = _rotated(products, places, inside_j[None, :], M)
                root = arrowhead_root(s, a, g, members)
                sigma = tl.sqrt(root + (a + 1))
            weight = tl.where(valid, d_score * tl.exp2(sigma * scale - log_sum), 0.0)
            sum_scale += tl.sum(weight * sigma, 0)
            d_products = ()
            if M == 2:
                d_products = (weight * _half_sign(products[0]) / sigma,)
            elif M == 3:
                n_a, n_b, n_c, h = triple_gradient(products[0], products[1], c, mu, square, f, sigma)
                weight = weight * h
                d_products = (weight * n_a, weight * n_b)
                d_inner = weight * n_c
                if MASKED:  # a member that the anchor's sample lacks has no say in the pair of members either
                    code = tl.load(anchor_codes + i, mask=inside_i, other=0)
                    d_inner = tl.where((code == 7)[:, None], d_inner, 0.0)
                sum_inner += tl.sum(d_inner, 0)
            else:
                d_s, vector = arrowhead_gradient(s, a, g, root, weight, members)
                # Added up in memory, in places that this program alone writes: the registers are all taken.
                written = inside_j
                if FIRST:
                    written = inside_j & (j * 0 + start > first)
                for p in tl.static_range(members):
                    for q in tl.static_range(p, members):
                        pointers = members_out + triangle_index(p, q, members) * 32
                        part = tl.sum(arrowhead_entry(s, vector, p, q), 0)
                        tl.store(pointers, tl.load(pointers, mask=written, other=0.0) + part, mask=inside_j)
                tl.debug_barrier()  # the thread that reads an entry need not be the one that wrote it

            of_i = tl.load(inverse_norms + m * n + i, mask=inside_i, other=0.0)
            place = (m * length + (i - begin))[:, None] * M * columns + (j - begin_j)[None, :]
            mask = inside_i[:, None] & inside_j[None, :]
            tl.store(panel + place + m * columns, tl.zeros([TILE_I, TILE_J], panel.dtype.element_ty), mask=mask)
            for slot in tl.static_range(members):
                member = slot + (slot >= m).to(tl.int32)
                of_row = of_i
                if MASKED:
                    code = tl.load(anchor_codes + i, mask=inside_i, other=0)
                    of_row = tl.where((code >> member) & 1 != 0, of_i, 0.0)
                of_j = tl.load(inverse_norms + member * n + j, mask=inside_j, other=0.0)
                if M > 3:
                    d_product = _rotated_back(d_s, places, inside_j[None, :], slot, M)
                else:
                    d_product = d_products[slot]
                value = d_product * of_row[:, None] * of_j[None, :]
                tl.store(panel + place + member * columns, value.to(panel.dtype.element_ty), mask=mask)

    if M == 3:
        if not FIRST:
            sum_inner += tl.load(members_out, mask=inside_j, other=0.0)
        tl.store(members_out, sum_inner, mask=inside_j)
    d_scale += (tile_j * M + m) * tl.num_programs(2) + split
    total_scale = tl.sum(sum_scale)
    if not FIRST:
        total_scale += tl.load(d_scale)
    tl.store(d_scale, total_scale)


@triton.jit
def paired_own(
    inner,
    basis,
    anchor_codes,
    temperature,
    grad,
    weights,
    inverse_total,
    shares,
    d_members,
    d_own,  # out, float32 [M, pairs, n]: d loss/d a sample's own inner products, to be added up over the anchors
    d_scale,  # out, float32 [programs]
    n,
    splits,
    M: tl.constexpr,
    MASKED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What a sample's own inner products get from anchors of one modality: as members of their tuples, and as the
    positive of its own. Grid (blocks of samples, anchor modality)."""
    members: tl.constexpr = M - 1
    entries: tl.constexpr = members_entries(M, MASKED)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = tl.program_id(1)
    inside = i < n
    d_score = -_d_score(grad, weights, inverse_total, temperature, i, inside, WEIGHTED)
    d_score *= tl.load(shares + m * n + i, mask=inside, other=0.0)
    if MASKED:
        code = tl.load(anchor_codes + i, mask=inside, other=0)
        d_score = tl.where((code >> m) & 1 != 0, d_score, 0.0)
    products = _own_products(inner, anchor_codes, m, i, inside, n, M, MASKED)
    sums = ()
    for e in tl.static_range(entries):
        total = tl.zeros([BLOCK], tl.float32)
        for split in range(splits):
            place = _block_place(split * M + m, i, n, entries)
            total += tl.load(d_members + place + e * 32, mask=inside, other=0.0)
        sums = sums + (total,)
    if M == 2:
        sigma = tl.sqrt(1 + tl.abs(products[0]))
        d_products = (d_score * _half_sign(products[0]) / sigma,)
        d_inner = ()
    elif M == 3:
        c = _own_members_inner(inner, anchor_codes, m, i, inside, n, MASKED)
        mu, square, f = triple_mu(products[0], products[1], c)
        sigma = tl.sqrt(1 + mu)
        n_a, n_b, n_c, h = triple_gradient(products[0], products[1], c, mu, square, f, sigma)
        d_products = (d_score * (h * n_a), d_score * (h * n_b))
        d_own_inner = d_score * (h * n_c)
        if MASKED:
            d_own_inner = tl.where(code == 7, d_own_inner, 0.0)
        d_inner = (sums[0] + d_own_inner,)
    elif MASKED:
        h = _zero_diagonal_products(products, inner, code, m, i, inside, n, M)
        mu, vector, inverse_square = _zero_diagonal_gradient(h, code, m, M)
        sigma = tl.sqrt(1 + mu)
        weight = d_score * (inverse_square / sigma)
        d_products = ()
        d_inner = ()
        for p in tl.static_range(members):
            d_products = d_products + (weight * vector[p] * vector[members],)
            for q in tl.static_range(p + 1, members):
                d_inner = d_inner + (sums[pair_place(p, q, members)] + weight * vector[p] * vector[q],)
    else:
        own = basis + _block_place(m, i, n, 1 + M * members)
        s, a, g = _rotated(products, own, inside, M)
        root = arrowhead_root(s, a, g, members)
        sigma = tl.sqrt(root + (a + 1))
        d_s, vector = arrowhead_gradient(s, a, g, root, d_score, members)
        d_products = ()
        for c in tl.static_range(members):
            d_products = d_products + (_rotated_back(d_s, own, inside, c, M),)
        both = ()
        for p in tl.static_range(members):
            for q in tl.static_range(p, members):
                both = both + (sums[triangle_index(p, q, members)] + arrowhead_entry(s, vector, p, q),)
        d_inner = _from_basis(both, own, inside, members)
    tl.store(d_scale + m * tl.num_programs(0) + tl.program_id(0), tl.sum(d_score * sigma))

    out = d_own + m * (M * members // 2) * n + i
    for s in tl.static_range(members):
        member = s + (s >= m).to(tl.int32)
        d_product = d_products[s]
        if MASKED:
            d_product = tl.where(((code >> m) & (code >> member) & 1) != 0, d_product, 0.0)
        tl.store(out + _pair_at(m, member, M) * n, d_product, mask=inside)
        for t in tl.static_range(s + 1, members):
            place = _pair_at(member, t + (t >= m).to(tl.int32), M) * n
            tl.store(out + place, d_inner[pair_place(s, t, members)], mask=inside)


@triton.jit
def _from_basis(h, own, inside, members: tl.constexpr):
    """(Q H Q^T)[s, t] for s < t, row by row, H given by its upper triangle."""
    half = ()  # Q H, row s, column k
    for s in tl.static_range(members):
        for k in tl.static_range(members):
            total = tl.zeros(h[0].shape, tl.float32)
            for q in tl.static_range(members):
                q_s = tl.load(own + (1 + members + q * members + s) * 32, mask=inside, other=0.0)
                total += h[triangle_index(q, k, members)] * q_s
            half = half + (total,)
    result = ()
    for s in tl.static_range(members):
        for t in tl.static_range(s + 1, members):
            total = tl.zeros(h[0].shape, tl.float32)
            for k in tl.static_range(members):
                k_t = tl.load(own + (1 + members + k * members + t) * 32, mask=inside, other=0.0)
                total += half[s * members + k] * k_t
            result = result + (total,)
    return result


@triton.jit
def paired_embedding_gradient(
    stack,
    powers,
    inverse_norms,
    d_stack,  # float32 [M, n, dim]: from the inner products of anchors with members
    d_own,
    outs,  # out, M tensors [n, dim]
    n,
    dim,
    M: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The own inner products' part added, and what is along a row taken out, as its length has no say; then those of
    the rows before they were multiplied with their powers."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    plane = tl.cast(n, tl.int64) * dim
    offset = tl.cast(row, tl.int64)[:, None] * dim
    inverses = ()
    for m in tl.static_range(M):
        inverses = inverses + (tl.load(inverse_norms + m * n + row, mask=inside, other=0.0),)
    factors = ()
    for p in tl.static_range(M):
        for q in tl.static_range(p + 1, M):
            total = tl.zeros([ROWS], tl.float32)
            for m in tl.static_range(M):
                place = (m * (M * (M - 1) // 2) + pair_place(p, q, M)) * n
                total += tl.load(d_own + place + row, mask=inside, other=0.0)
            factors = factors + (total * inverses[p] * inverses[q],)
    for m in tl.static_range(M):
        along = tl.zeros([ROWS, BLOCK], tl.float32)
        if NORMALIZE:
            for start in range(0, dim, BLOCK):
                column = start + tl.arange(0, BLOCK)[None, :]
                mask = inside[:, None] & (column < dim)
                gradient = _row_gradient(stack, d_stack, factors, plane, offset + column, mask, m, M)
                value = tl.load(stack + m * plane + offset + column, mask=mask, other=0.0).to(tl.float32)
                along += gradient * (value * inverses[m][:, None])
        along_unit = tl.sum(along, 1) * inverses[m]
        power = tl.load(powers + m * n + row, mask=inside, other=1.0)
        for start in range(0, dim, BLOCK):
            column = start + tl.arange(0, BLOCK)[None, :]
            mask = inside[:, None] & (column < dim)
            gradient = _row_gradient(stack, d_stack, factors, plane, offset + column, mask, m, M)
            if NORMALIZE:
                value = tl.load(stack + m * plane + offset + column, mask=mask, other=0.0).to(tl.float32)
                gradient = (gradient - value * along_unit[:, None]) * power[:, None]
            tl.store(outs[m] + offset + column, gradient.to(outs[m].dtype.element_ty), mask=mask)


@triton.jit
def _row_gradient(stack, d_stack, factors, plane, place, mask, m: tl.constexpr, M: tl.constexpr):
    gradient = tl.load(d_stack + m * plane + place, mask=mask, other=0.0)
    for q in tl.static_range(M):
        if q != m:
            other = tl.load(stack + q * plane + place, mask=mask, other=0.0).to(tl.float32)
            gradient += factors[pair_place(m, q, M)][:, None] * other
    return gradient
