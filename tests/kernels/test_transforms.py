"""Forward-mode differentiation, functorch's transforms, and modules that are loaded again."""

import pytest
import torch

from tests.kernels.test_import import run
from unihpe_kernels import (
    align,
    gram_singular_values,
    mpjpe,
    n_mpjpe,
    pa_mpjpe,
    pairwise_contrastive_loss,
    procrustes,
    singular_value_contrastive_loss,
    svd3x3,
    tuple_contrastive_loss,
)

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(2, 5, 6, 3, generator=GENERATOR, dtype=torch.float64)
E = list(torch.randn(3, 6, 5, generator=GENERATOR, dtype=torch.float64))
A = torch.randn(4, 3, 3, generator=GENERATOR, dtype=torch.float64)


def of_procrustes(x):
    found = procrustes(x, Y)
    return (found.rotation[:, 0, 1] + found.scale).sum() + found.translation[:, 2].sum()


# name: a function of one tensor to a number, and the tensor
OPERATIONS = {
    "singular_value_contrastive_loss": (lambda x: singular_value_contrastive_loss([x, E[1], E[2]]), E[0]),
    "tuple_contrastive_loss": (
        lambda x: tuple_contrastive_loss([x, E[1], E[2]], score="volume", direction="both", label_smoothing=0.1),
        E[0],
    ),
    "pairwise_contrastive_loss": (lambda x: pairwise_contrastive_loss([x, E[1], E[2]]), E[0]),
    "the loss of products": (lambda x: tuple_contrastive_loss([x, E[1], E[2]], score="product"), E[0]),
    "gram_singular_values": (lambda x: gram_singular_values([x, E[1]])[:, 0].sum(), E[0]),
    "svd3x3": (lambda x: svd3x3(x)[1][:, 0].sum(), A),
    "procrustes": (of_procrustes, X),
    "pa_mpjpe": (lambda x: pa_mpjpe(x, Y).sum(), X),
    "align": (lambda x: align(x, Y).joint_errors[:, 1].sum(), X),
}
PLAIN = {"n_mpjpe": (lambda x: n_mpjpe(x, Y).sum(), X), "mpjpe": (lambda x: mpjpe(x, Y).sum(), X)}


def gradient(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x)[0]


@pytest.mark.parametrize("mode", ["jvp", "jacfwd", "linearize", "dual", "hessian", "jacobian"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_forward_mode_is_refused_and_not_zero(name, mode):
    function, x = OPERATIONS[name]
    named = "align|procrustes" if name == "align" else name
    with pytest.raises(NotImplementedError, match=rf"({named}).* has no forward-mode derivative"):  # noqa: PT012
        if mode == "jvp":
            torch.func.jvp(function, (x,), (torch.ones_like(x),))
        elif mode == "dual":
            with torch.autograd.forward_ad.dual_level():
                function(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        elif mode == "linearize":
            torch.func.linearize(function, x)
        elif mode == "jacobian":
            torch.autograd.functional.jacobian(function, x, strategy="forward-mode", vectorize=True)
        else:
            getattr(torch.func, mode)(function)(x)


@pytest.mark.parametrize("name", PLAIN)
def test_forward_mode_of_what_is_plain_torch(name):
    function, x = PLAIN[name]
    tangent = torch.randn_like(x)
    got = torch.func.jvp(function, (x,), (tangent,))[1]
    torch.testing.assert_close(got, (gradient(function, x) * tangent).sum())


@pytest.mark.parametrize("name", [*OPERATIONS, *PLAIN])
def test_reverse_mode_transforms(name):
    function, x = (OPERATIONS | PLAIN)[name]
    other = 0.5 * x + 1
    wanted, wanted_other = gradient(function, x), gradient(function, other)
    both = torch.stack([x, other])
    one = torch.ones((), dtype=x.dtype)
    close = torch.testing.assert_close
    close(torch.func.grad(function)(x), wanted)
    close(torch.func.vjp(function, x)[1](one)[0], wanted)
    close(
        torch.func.jacrev(lambda x: torch.stack([function(x), 2 * function(x)]))(x), torch.stack([wanted, 2 * wanted])
    )
    close(torch.func.vmap(function)(both), torch.stack([function(x), function(other)]))
    close(torch.func.vmap(function, in_dims=1)(both.movedim(0, 1)), torch.stack([function(x), function(other)]))
    close(torch.func.vmap(torch.func.grad(function))(both), torch.stack([wanted, wanted_other]))
    close(
        torch.func.grad(lambda both: torch.func.vmap(function)(both).sum())(both), torch.stack([wanted, wanted_other])
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_second_derivative_is_refused_by_transforms_too(name):
    function, x = OPERATIONS[name]
    with pytest.raises(NotImplementedError, match="second derivative"):
        torch.func.grad(lambda x: torch.func.grad(function)(x).sum())(x)


def test_the_temperature_under_vmap_and_grad():
    taus = torch.tensor([0.1, 0.3], dtype=torch.float64)
    got = torch.func.vmap(torch.func.grad(lambda tau: singular_value_contrastive_loss(E, temperature=tau)))(taus)
    wanted = [gradient(lambda tau: singular_value_contrastive_loss(E, temperature=tau), tau) for tau in taus]
    torch.testing.assert_close(got, torch.stack(wanted))


MODULES = (
    "sv_contrastive.op",
    "contrastive.op",
    "procrustes.op",
    "small_linalg.svd3x3",
    "small_linalg.gram",
    "registration",
)


def test_modules_may_be_loaded_again():
    """In an interpreter of their own: the rest of the tests have theirs loaded once."""
    done = run(
        "import importlib, torch, unihpe_kernels as u\n"
        "def use(u):\n"
        "    x = torch.randn(5, 6, 3, requires_grad=True)\n"
        "    e = [torch.randn(6, 5, requires_grad=True) for _ in range(3)]\n"
        "    u.pa_mpjpe(x, x.detach() ** 2).sum().backward(); u.procrustes(x, x ** 2).rotation.sum().backward()\n"
        "    u.singular_value_contrastive_loss(e).backward(); u.pairwise_contrastive_loss(e).backward()\n"
        "    u.svd3x3(x[:, :3])[1].sum().backward(); u.gram_singular_values(e).sum().backward()\n"
        "    u.align(x.detach(), x.detach() ** 2)\n"
        "    assert x.grad.abs().sum() > 0 and e[0].grad.abs().sum() > 0\n"
        "use(u)\n"
        f"for name in {MODULES!r}:\n"
        "    importlib.reload(importlib.import_module(f'unihpe_kernels.{name}')); use(u)\n"
        "for name in [name for name in sys.modules if name.startswith('unihpe_kernels')]: del sys.modules[name]\n"
        "import unihpe_kernels as again\n"
        "assert again is not u; use(again); use(u)\n"
        "print('done')"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


def test_the_first_call_does_not_bring_torch_s_compiler():
    done = run(
        "import torch, unihpe_kernels as u\n"
        "x = torch.randn(4, 3, 3, requires_grad=True)\n"
        "u.svd3x3(x)[1].sum().backward(); u.gram_singular_values([x[0], x[1]]).sum().backward()\n"
        "u.pa_mpjpe(x, x.detach() ** 2).sum().backward(); u.singular_value_contrastive_loss(list(x)).backward()\n"
        "print(*(name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules))"
    ).stdout
    assert done.strip() == ""


class Seen(torch.utils._python_dispatch.TorchDispatchMode):
    """Names of the operators that come to a mode."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.add(function.__name__.split(".")[0])
        return function(*arguments, **(options or {}))


LOSSES = {
    "sv_contrastive": lambda e: singular_value_contrastive_loss(e, negatives="all"),
    "contrastive": lambda e: tuple_contrastive_loss(e, score="volume"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_who_watches_operators_sees_those_of_both_passes(name):
    """The losses go past torch's dispatcher only where nobody does."""
    leaves = [e.clone().requires_grad_() for e in E]
    with Seen() as seen:
        LOSSES[name](leaves).backward()
    assert {name, f"{name}_backward"} <= seen.names
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        LOSSES[name](leaves).backward()
    assert {f"unihpe_kernels::{name}", f"unihpe_kernels::{name}_backward"} <= {event.name for event in profile.events()}
    loss = LOSSES[name](leaves)
    with Seen() as seen:  # the forward pass was not watched
        loss.backward()
    assert f"{name}_backward" in seen.names


@pytest.mark.parametrize("name", LOSSES)
def test_views_that_are_negated_when_they_are_read(name):
    """Their memory has the other sign, which torch's dispatcher sees to."""
    wanted = [e.float().requires_grad_() for e in E]
    leaf = (-wanted[0].detach()).requires_grad_()
    results = []
    for embeddings, first in ((wanted, wanted[0]), ([torch._neg_view(leaf), *wanted[1:]], leaf)):
        loss = LOSSES[name](embeddings)
        results.append((loss.detach(), torch.autograd.grad(loss, first)[0]))
    (loss, gradient), (other, negative) = results
    torch.testing.assert_close(other, loss, rtol=0, atol=0)
    torch.testing.assert_close(-negative, gradient, rtol=0, atol=0)
