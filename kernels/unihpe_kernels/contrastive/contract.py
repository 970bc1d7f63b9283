"""What a backend of "paired" supplies, and what a score supplies to it. The driver is paired.py.

Letters: M modalities, A of them anchors, P = M (M - 1) / 2 pairs of modalities p < q, row by row; N = M - 1 members of
a tuple beside its anchor, in the order of modalities; a block has `a` samples as rows and `b` as columns.

A score's three files, torch.py, native.h and triton.py, each say four things of one anchor and the N members of one
sample (or of as many as broadcast, fill lanes or a tile):

    members(gram)                    the N (N - 1) / 2 products of a sample's members with each other, row by row, made
                                     into what the score wants to know of them: a list of numbers, once a sample
    score(products, members)         the value, from the anchor's N products with the members
    gradient(.., weight)             weight * d value / d products, N of them; and what is to be added up over anchors
    for
                                     the members' own products: a list of numbers ("sums")
    own(sums, members)               the sums made into gradients of the N (N - 1) / 2 products

In torch.py `score` returns the value and a function of the weight, its gradient. contrastive/native/block.cpp and
contrastive/triton/ say the same of their languages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from unihpe_kernels.scores import Score

Pullback = Callable[[Tensor], tuple[list[Tensor], list[Tensor]]]


class TorchScore(Protocol):
    """A score's torch.py. Tensors broadcast; any floating dtype."""

    def members(self, gram: Sequence[Tensor], num_members: int) -> list[Tensor]: ...

    def score(self, products: Sequence[Tensor], members: Sequence[Tensor]) -> tuple[Tensor, Pullback]: ...

    def own(self, sums: Sequence[Tensor], members: Sequence[Tensor], num_members: int) -> list[Tensor]: ...


@dataclass(frozen=True)
class Options:
    """What stays the same through a loss. The arguments of every function of a backend, listed once.

    scale: log2(e) over the temperature: a float on a CPU, a tensor [] on a GPU. shift, likewise: what a logit has
    besides score * scale, the bias of the sigmoid form, to base 2, or what keeps exponentials of the softmax and their
    sums from overflowing, which is -middle * scale but for temperatures at which exponentials of the lowest scores
    underflow. middle: of the scores' range.
    """

    score: Score
    num_modalities: int
    anchors: tuple[int, ...]  # modalities, ascending
    scale: Any
    shift: Any
    middle: float
    sigmoid: bool = False
    both: bool = False  # directions: also every tuple against all anchors
    with_scores: bool = True  # `Statistics` have `moments`: for the gradients of the temperature and the bias
    with_totals: bool = False  # `Statistics` have `totals`: for label smoothing
    sought: bool = False  # with codes: a tuple is a candidate where it has what is sought, the members' modalities
    wide: bool = False  # exponentials and sums in float64
    # whether float32 lacks exponentials of the lowest scores, so that sums may vanish: a bool, or a tensor [] on a GPU
    beyond: Any = False


@dataclass
class Samples:
    """Consecutive samples: a block's rows or its columns."""

    units: Tensor  # [M, n, D], contiguous, in the compute dtype (bfloat16 on a GPU where embeddings are)
    members: Any  # the backend's own: of every anchor modality, what `members` makes of the other modalities' products
    inner: Tensor  # [P, n]
    codes: Tensor | None = None  # int32 [n], bit m: has modality m; for a backend that `masks`
    d_units: Tensor | None = None  # [M, n, D], added to in the backward pass
    sums: Any = None  # the backend's own: of every anchor modality, added to in the backward pass


class Block(NamedTuple):
    """Rows against columns.

    products: [M, M - 1, a, b], contiguous: [m, slot] holds the inner products of the rows' modality m with the columns'
    modality slot + (slot >= m). Those that neither way needs (for anchors that are a subset) are not filled.

    Ways: "of rows", always: rows are anchors (of modality m: products[m, :]), columns give the tuples, with the
    columns' `members`. "Of columns", where `two_ways`: columns are anchors (of modality n: the N products that rows'
    modalities m != n have with it, products[m, n - (n > m)]), rows give the tuples, with the rows' `members`. diagonal:
    rows are the columns. Then there is one way, and the positives, on the diagonal, are left out of everything.
    """

    products: Tensor
    rows: Samples
    columns: Samples
    two_ways: bool
    diagonal: bool


class Statistics(NamedTuple):
    """Sums over one way of a block, [A, n] each, in float32 (float64 for `wide` and float64 products); positives are
    not among them. By anchor, n = anchors, or by tuple, n = tuples.

    With s the score and z = s * scale + shift its logit, E = exp2(z), of the softmax:
        sums     sum of E
        moments  sum of E * (s - center), center [n]: the positive's score of the anchor, or of the tuple; or None
        totals   sum of (s - middle); or None
    of the sigmoid form, in which all these tuples are negatives (by anchor only):
        sums     sum of log2(1 + exp2(z)) = softplus / ln 2
        moments  sum of sigma(z) * s, sigma(z) = 1 / (1 + exp2(-z))
        totals   sum of sigma(z)
    A backend may leave it to the driver to add up parts: any tensor may have further leading dimensions, over which the
    driver sums.
    """

    sums: Tensor
    moments: Tensor | None = None
    totals: Tensor | None = None


class Centers(NamedTuple):
    """The scores of positives [n], where `with_scores`, of the rows and of the columns: a positive has one score,
    whatever its anchor."""

    rows: Tensor | None
    columns: Tensor | None


class Forward(NamedTuple):
    """`Statistics` of a block's ways. Of the way of rows: by_anchor of rows, by_tuple of columns (where `both`). Of the
    way of columns: by_anchor of columns, by_tuple of rows."""

    of_rows: Statistics
    of_rows_by_tuple: Statistics | None
    of_columns: Statistics | None
    of_columns_by_tuple: Statistics | None


class Factors(NamedTuple):
    """What makes the weights of a block's scores in the backward pass, [A, n] each, of a way's anchors and tuples.

    softmax:  weight = E * (anchor + tuple) - (anchor_level + tuple_level)
    sigmoid:  weight = sigma(z) * anchor
    and 0 for positives. None counts as 0.
    """

    anchor: Tensor
    tuple: Tensor | None = None
    anchor_level: Tensor | None = None
    tuple_level: Tensor | None = None


class Backend(Protocol):
    """Block functions of one language. All run on the tensors' device without synchronising it, and give equal bits in
    two runs."""

    masks: bool  # takes `codes` in its kernels; otherwise the driver hands it dense sets of samples
    cpu_block: int  # products of a block on a CPU, for its second cache

    def in_place(self, options: Options) -> bool:
        """Whether `backward` may write gradients over the products."""

    def units(self, embeddings: list[Tensor], normalize: bool, used: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Unit rows [M, n, D] in the dtype that products are made in, and what rows were multiplied with [M, n], or
        None where normalize is False. used: bool [M, n]; other rows are 0 whatever stands there."""

    def through_units(
        self, units: Tensor, inverse_norms: Tensor | None, d_units: Tensor, like: list[Tensor]
    ) -> list[Tensor]:
        """Gradients of the embeddings, of the dtype of `like`. d_units may be overwritten."""

    def inner(self, units: Tensor) -> Tensor:
        """[P, n]: the products of every two modalities of a sample."""

    def members(self, inner: Tensor, options: Options) -> Any:
        """`Samples.members`."""

    def positives(self, inner: Tensor, options: Options) -> Tensor:
        """[n]: scores of the samples' own tuples."""

    def positives_gradient(self, inner: Tensor, options: Options, weight: Tensor) -> Tensor:
        """[P, n]: weight [n] times d score / d inner."""

    def products(self, out: Tensor, left: Tensor, rights: Tensor) -> None:
        """out [k, a, b] = left [a, D] @ rights [k, b, D].mT"""

    def add_to_left(self, d_left: Tensor, d_products: Tensor, rights: Tensor) -> None:
        """d_left [a, D] += sum over k of d_products [k, a, b] @ rights [k, b, D]"""

    def add_to_rights(self, d_rights: Tensor, d_products: Tensor, left: Tensor) -> None:
        """d_rights [k, b, D] += d_products [k, a, b].mT @ left [a, D]"""

    def forward(self, block: Block, options: Options, centers: Centers) -> Forward: ...

    def new_sums(self, samples: Samples, options: Options) -> Any:
        """Zeros for `Samples.sums`."""

    def backward(
        self, block: Block, options: Options, of_rows: Factors, of_columns: Factors | None, out: Tensor
    ) -> None:
        """Write the gradients of the products to `out`, of the shape of block.products, which may be block.products
        itself; add to `sums` of the columns, for the way of rows, and of the rows, for that of columns."""

    def own(self, samples: Samples, options: Options) -> Tensor:
        """[P, n]: gradients of `inner` from `sums`."""
