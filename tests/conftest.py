"""Settings that must stand before torch is imported."""

import os

# a compiled graph of an earlier version of an operation must not answer for this one
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = "0"
os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"
