"""How the operators of this package are registered with torch: `define`, `register_fake`, then `differentiate`.

By `torch.library.Library` and not by `custom_op`, whose wrappers cost twice as much: 170 us a forward and backward
against 80 us, where the loss of 64 samples takes 2 ms on a CPU, the error of 64 poses 0.6 ms. And `custom_op` imports
torch's compiler at the first call, which takes seconds.

A module that registers may be loaded again, by `importlib.reload` or after it was taken from `sys.modules`: what torch
calls looks up the newest functions.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_NAMESPACE = "unihpe_kernels"
_Key = torch._C.DispatchKey
_OF_DEVICES = (_Key.CPU, _Key.CUDA)


@dataclass
class _Registered:
    schema: str
    library: torch.library.Library
    title: str  # of the public function
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)  # by what they are for, the newest

    def call(self, kind: str) -> Callable[..., Any]:
        return lambda *arguments: self.functions[kind](*arguments)


# kept by torch, as operators are, and not by this module, which may be loaded again
_registered: dict[str, _Registered] = vars(getattr(torch.ops, _NAMESPACE)).setdefault("_registered", {})


def define(kernel: Callable[..., Any], *, by_sample: bool = False, title: str | None = None) -> torch._ops.OpOverload:
    """The operator of this name and signature, with `kernel` for tensors of any device.

    Autocast is off inside of it, and its arguments keep their dtypes. by_sample: the first dimension of every tensor is
    of samples that do not know of each other; vmap is one call with more of them then, and otherwise one a slice.
    title: of the public function, where that is not the
    name.
    """
    name = kernel.__name__.lstrip("_")
    title = title or name.removesuffix("_backward")
    schema = torch.library.infer_schema(kernel, mutates_args=(), op_name=name)
    held = _registered.get(name)
    if held is not None and held.schema != schema:
        held.library._destroy()
        held = None
    if held is None:
        held = _registered[name] = _Registered(schema, torch.library.Library(_NAMESPACE, "FRAGMENT"), title)
        held.library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        for key in ("CPU", "CUDA"):
            held.library.impl(name, held.call("kernel"), key)
        for key in ("AutocastCPU", "AutocastCUDA"):
            held.library.impl(name, held.call("autocast"), key)
        held.library.impl(name, held.call("vmap"), "FuncTorchBatched")
    operator = getattr(getattr(torch.ops, _NAMESPACE), name).default
    held.functions.update(
        kernel=kernel,
        autocast=lambda *arguments: _without_autocast(operator, *arguments),
        vmap=lambda *arguments: _under_vmap(operator, by_sample, *arguments),
    )
    return operator


def register_fake(operator: torch._ops.OpOverload) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator of the function that makes tensors like the operator's results."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _register(operator, "fake", function, lambda held, name: _library_fake(held, name))
        return function

    return register


def differentiate(
    operator: torch._ops.OpOverload,
    setup: Callable[..., None] | None,
    backward: Callable[..., Any],
    prepare: Callable[..., Sequence[Any]] | None = None,
) -> None:
    """Give an operator a gradient.

    setup(ctx, arguments, outputs) saves what backward(ctx, *grads) needs, which returns a gradient for each argument, a
    list for a list; a grad that is zero comes as None, and ctx.needed tells of each tensor whether it wants one.
    prepare(*arguments) gives the arguments where a gradient is to be recorded. There is no forward-mode derivative:
    tensors that carry a tangent are refused. Of an operator that returns a list the first tensor alone has a gradient.
    """

    held, returns_list = _registered[_name(operator)], _returns_list(operator)
    for kind, function in (("setup", setup), ("backward", backward), ("prepare", prepare)):
        if function is not None:
            held.functions[kind] = function

    def below_autograd(keyset: Any, arguments: Sequence[Any]) -> Any:
        """The operator's own kernel, from within its kernel for autograd."""
        with torch._C._AutoDispatchBelowAutograd():
            # nothing comes between: torch need not look for it
            if (keyset & torch._C._after_ADInplaceOrView_keyset).highestPriorityTypeId() in _OF_DEVICES:
                return held.functions["kernel"](*arguments)
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    class Rule:
        @staticmethod
        def forward(ctx: Any, keyset: Any, shape: Any, *flat: Any) -> Any:
            arguments = _nested(flat, shape)
            outputs = below_autograd(keyset, arguments)
            ctx.set_materialize_grads(False)
            ctx.shape, ctx.is_direct = shape, False
            if setup is not None:
                if returns_list:
                    ctx.mark_non_differentiable(*outputs[1:])
                setup(ctx, arguments, outputs)
            return tuple(outputs) if returns_list else outputs

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            ctx.needed = ctx.needs_input_grad[2:]
            return None, None, *_flat(backward(ctx, *grads))

    class Function(Rule, torch.autograd.Function):
        pass

    # Tensors come to an operator's kernel for autograd as those of functorch's innermost level, whose graph is as any
    # other. Function refuses them; this is what torch itself takes at that place.
    class OfOneLevel(Rule, torch.autograd.function._SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            # for the levels around this one, which `apply` turns off
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                return Rule.forward(ctx, *arguments)

    def autograd(keyset: Any, *arguments: Any) -> Any:
        _refuse_tangents(operator, arguments)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            if prepare is not None:
                arguments = tuple(prepare(*arguments))
            shape = _shape(arguments)
            if torch._C._are_functorch_transforms_active():
                with _one_level_allowed():
                    outputs = OfOneLevel.apply(keyset, shape, *_flat(arguments))  # type: ignore[attr-defined]
            else:
                outputs = Function.apply(keyset, shape, *_flat(arguments))
            return list(outputs) if returns_list else outputs
        return below_autograd(keyset, arguments)

    _register(operator, "autograd", autograd, _library_autograd)


def refuse_gradients(operator: torch._ops.OpOverload, reason: str) -> None:
    """Let an operator raise NotImplementedError where a gradient through it is asked for, by either mode."""

    def refuse(ctx: Any, *_: Any) -> None:
        raise NotImplementedError(reason)

    differentiate(operator, None, refuse)


def direct(operator: torch._ops.OpOverload) -> Callable[..., Tensor]:
    """The first of an operator's results, past torch's dispatcher wherever that would come to the operator's own
    functions at once: with tensors of a CPU or a GPU under no mode, transform, tracer, profiler or autocast.

    The operator's first argument, and no other, is a list; it returns a list, and its gradient has a `prepare`.
    """
    functions = _registered[_name(operator)].functions

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, num_others: int, *flat: Any) -> Tensor:
            arguments = list(flat[num_others:]), *flat[:num_others]
            with torch._C._AutoDispatchBelowAutograd():
                outputs = functions["kernel"](*arguments)
            ctx.is_direct = True
            functions["setup"](ctx, arguments, outputs)
            return outputs[0]

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            of_list, *of_others = functions["backward"](ctx, grad)
            return None, *of_others, *of_list

    def call(tensors: list[Tensor], *others: Any) -> Tensor:
        if not _is_plain(*tensors, *[other for other in others if isinstance(other, Tensor)]):
            return operator(tensors, *others)[0]
        if torch.is_grad_enabled():
            _, *others = functions["prepare"](tensors, *others)
        return Direct.apply(len(others), *others, *tensors)

    return call


def direct_backward(operator: torch._ops.OpOverload) -> Callable[..., Any]:
    """The same in a gradient, as a function of its ctx, the incoming gradient, and what else the operator takes: that
    was looked at in the forward pass."""
    functions = _registered[_name(operator)].functions

    def call(ctx: Any, grad: Tensor, *saved: Any) -> Any:
        # with gradients recorded the operator refuses its own
        if ctx.is_direct and not torch.is_grad_enabled() and _is_plain(grad):
            with torch._C._AutoDispatchBelowAutograd():
                return functions["kernel"](grad, *saved)
        return operator(grad, *saved)

    return call


def _is_plain(*tensors: Tensor) -> bool:
    """Whether torch's dispatcher would see tensors of one kind of device that may want gradients, and nothing else."""
    if torch.compiler.is_compiling() or torch.autograd._profiler_enabled() or forward_ad._current_level >= 0:
        return False
    if torch.overrides.has_torch_function(tensors):
        return False
    keys = torch._C._dispatch_tls_local_include_set()
    for tensor in tensors:
        keys |= torch._C._dispatch_keys(tensor)
    return (keys - torch._C._dispatch_tls_local_exclude_set()).raw_repr() in _PLAIN


def _keys(*keys: torch._C.DispatchKey) -> torch._C.DispatchKeySet:
    return functools.reduce(lambda both, key: both | key, map(torch._C.DispatchKeySet, keys))


_PLAIN = {
    _keys(device, autograd, _Key.ADInplaceOrView, _Key.BackendSelect).raw_repr()
    for device, autograd in ((_Key.CPU, _Key.AutogradCPU), (_Key.CUDA, _Key.AutogradCUDA))
}


def _register(
    operator: torch._ops.OpOverload, kind: str, function: Callable[..., Any], first: Callable[[_Registered, str], None]
) -> None:
    name = _name(operator)
    held = _registered[name]
    new = kind not in held.functions
    held.functions[kind] = function
    if new:
        first(held, name)


def _library_fake(held: _Registered, name: str) -> None:
    torch.library.register_fake(f"{_NAMESPACE}::{name}", held.call("fake"), lib=held.library)


def _library_autograd(held: _Registered, name: str) -> None:
    held.library.impl(name, held.call("autograd"), "Autograd", with_keyset=True)


def _refuse_tangents(operator: torch._ops.OpOverload, arguments: Sequence[Any]) -> None:
    """Forward-mode differentiation, which torch would take for zero below this."""
    if forward_ad._current_level < 0:
        return
    for argument in _flat(arguments):
        if isinstance(argument, Tensor) and forward_ad.unpack_dual(argument).tangent is not None:
            raise NotImplementedError(
                f"{_registered[_name(operator)].title} has no forward-mode derivative "
                "(jvp, jacfwd, linearize, dual tensors): use reverse mode "
                "(backward, vjp, jacrev)"
            )


@contextlib.contextmanager
def _one_level_allowed() -> Iterator[None]:
    allowed = torch._C._functorch.get_single_level_autograd_function_allowed()
    torch._C._functorch.set_single_level_autograd_function_allowed(True)
    try:
        yield
    finally:
        torch._C._functorch.set_single_level_autograd_function_allowed(allowed)


def _without_autocast(operator: torch._ops.OpOverload, *arguments: Any) -> Any:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
        torch._C.DispatchKey.AutocastCUDA
    )
    cpu, cuda = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cpu", False)
    torch.set_autocast_enabled("cuda", False)
    try:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return operator(*arguments)
    finally:
        torch.set_autocast_enabled("cpu", cpu)
        torch.set_autocast_enabled("cuda", cuda)


def _under_vmap(operator: torch._ops.OpOverload, by_sample: bool, *arguments: Any) -> Any:
    from torch._functorch.autograd_function import custom_function_call_vmap_helper  # it brings torch's compiler
    from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

    def over_slices(info: Any, in_dims: Sequence[Any], *given: Any) -> tuple[Any, Any]:
        shape = _shape(given)
        flat = [_slices_first(x, dim, info.batch_size) for x, dim in zip(_flat(given), _flat(in_dims), strict=True)]
        if by_sample:
            merged = [x.flatten(0, 1) if isinstance(x, Tensor) else x for x in flat]
            results = _flat([operator(*_nested(merged, shape))])
            split = [x.reshape(info.batch_size, len(x) // max(info.batch_size, 1), *x.shape[1:]) for x in results]
        else:
            if not info.batch_size:
                raise NotImplementedError(f"{_name(operator)} does not take vmap over no slices")
            parts = [
                operator(*_nested([x[n] if isinstance(x, Tensor) else x for x in flat], shape))
                for n in range(info.batch_size)
            ]
            split = [torch.stack(same) for same in zip(*map(_flat, ([part] for part in parts)), strict=True)]
        kind = list if _returns_list(operator) else tuple
        return (
            (kind(split), kind([0] * len(split)))
            if len(operator._schema.returns) > 1 or kind is list
            else (split[0], 0)
        )

    interpreter = retrieve_current_functorch_interpreter()
    return custom_function_call_vmap_helper(interpreter, over_slices, operator, *arguments)  # type: ignore[arg-type]


def _slices_first(value: Any, dim: int | None, count: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.expand(count, *value.shape) if dim is None else value.movedim(dim, 0)


def _name(operator: torch._ops.OpOverload) -> str:
    return operator._schema.name.split("::")[1]


def _flat(arguments: Sequence[Any]) -> list[Any]:
    return [x for argument in arguments for x in (argument if isinstance(argument, list | tuple) else [argument])]


def _shape(arguments: Sequence[Any]) -> list[int]:
    """-1 for an argument that is no list, else its length."""
    return [len(argument) if isinstance(argument, list | tuple) else -1 for argument in arguments]


def _nested(flat: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    """The arguments whose `_flat` and `_shape` these are."""
    left = iter(flat)
    return [next(left) if size < 0 else [next(left) for _ in range(size)] for size in shape]


def _returns_list(operator: torch._ops.OpOverload) -> bool:
    returns = operator._schema.returns
    return len(returns) == 1 and isinstance(returns[0].type, torch.ListType)
