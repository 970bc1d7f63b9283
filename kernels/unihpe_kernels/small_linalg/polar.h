// The rotation nearest to a 3x3 matrix, and how it answers to a change of the matrix: polar.py, one in each lane.
#pragma once

#include "small_linalg/jacobi.h"

inline Matrix rotation(const Frame& frame) { return frame.u * transposed(frame.v); }

namespace polar {

inline Lanes inverse_pivot(Lanes pivot, Lanes floor) { return pivot > floor ? 1.0f / pivot : Lanes{}; }

}  // namespace polar

// From the rotation's turn to the turn of the matrix; `aligned` is R^T A, of which the upper triangle is read.
inline Vector polar_cotangent(const Matrix& aligned, Vector turn) {
    using polar::inverse_pivot;
    const Lanes xx = aligned.a.x, xy = aligned.b.x, yy = aligned.b.y, xz = aligned.c.x, yz = aligned.c.y,
                zz = aligned.c.z;
    const Lanes floor = at_least((xx + yy + zz) * (8 * EPS), splat(TINY));

    // L D L^T of the positive semidefinite trace(K') I - K', pivots below the floor left out
    const Lanes d0 = inverse_pivot(yy + zz, floor), l10 = -xy * d0, l20 = -xz * d0;
    const Lanes rest = l10 * xz - yz, d1 = inverse_pivot(xx + zz + l10 * xy, floor), l21 = rest * d1;
    const Lanes d2 = inverse_pivot(xx + yy + l20 * xz - l21 * rest, floor);

    const Lanes h1 = turn.y - l10 * turn.x, h2 = turn.z - l20 * turn.x - l21 * h1;
    const Lanes z2 = h2 * d2, z1 = h1 * d1 - l21 * z2;
    return {turn.x * d0 - l10 * z1 - l20 * z2, z1, z2};
}
