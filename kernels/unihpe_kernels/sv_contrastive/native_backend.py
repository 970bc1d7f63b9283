"""The loss of float32 CPU tensors with its inner loops in C++."""

import functools

from unihpe_kernels.sv_contrastive import native_pairs, torch_backend

_ENGINE = torch_backend.Engine(native_pairs.make_pairs, native_pairs.saved_size)

forward = functools.partial(torch_backend.forward, engine=_ENGINE)
backward = functools.partial(torch_backend.backward, engine=_ENGINE)
saved_size = functools.partial(torch_backend.saved_size, engine=_ENGINE)
