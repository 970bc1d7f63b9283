"""How far from its reference a number may be: the one table, with the reason of each entry.

Limits that only one test needs stand in that test.

References are in float64 on the same inputs. The half types are computed in float32: what they add is one rounding.
"""

import torch

EPS = torch.finfo(torch.float32).eps

# The singular-value loss (about 5) and its gradients (entries below 0.3), absolute. float32 scores are good to 5e-7,
# divided by a temperature of 0.1. The half types differ in the rounding of the gradient alone: half an ulp of entries
# below 0.25.
SV_LOSS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}
SV_GRADIENT = {torch.float64: 1e-11, torch.float32: 5e-6, torch.bfloat16: 1e-3, torch.float16: 1e-4}

# Over ranks, relative to the largest entry; in float32 twice what one process is off by, if that is more. The gradient
# of the temperature is a difference of scores over tau^2, some fifteen times as large; the half types round their
# gradients, once, and are compared with float32 on the same numbers.
SV_GROUP = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-8}

# The largest singular value of three unit vectors, absolute: from 1 to sqrt(3), of some four roundings.
SIGMA = {torch.float32: 5e-7, torch.float64: 3e-15}

# Losses of tuples and their gradients, relative to the largest entry, or to 1. Scores of float32 are off by some 5e-7,
# logits by that over tau = 0.2, and the volume's gradient by that over the smallest volume again.
TUPLE_LOSS = {torch.float64: 1e-11, torch.float32: 1e-5}

# The losses of others, relative to the largest entry, or to 1: losses are below 12, gradients below 5.
PUBLISHED_LOSS = {torch.float64: 1e-12, torch.float32: 1e-6}

# Singular vectors and values of 3 x 3, relative to the largest singular value; in float64 the same number of roundings.
SVD3X3 = {torch.float32: 2e-6, torch.float64: 4e-15}

# mm, float32: errors of aligned poses with a spread of 500 mm, whose rounding is 3e-5
ALIGNED_ERROR = 1e-3

# mm: metrics of float32 joints of size 1e3, whose rounding is 6e-5, summed over 17 joints
POSE_METRIC = 2e-3

# The pipeline's losses over ranks, float32, relative to the largest entry: sums of 17 joints a sample in another order.
POSE_LOSS_GROUP = 2e-6
