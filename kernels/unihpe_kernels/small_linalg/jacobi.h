// One-sided Jacobi (Hestenes 1958) for 3x3 matrices, one in each lane: the numerics of jacobi.py.
#pragma once

#include "small_linalg/vectors.h"

// A V = U S. v, u: right-handed and orthonormal, u to rounding whatever A is. s: s.x >= s.y >= |s.z| to rounding;
// s.z < 0 where det A < 0. A matrix of +0 has u = v = I.
struct Frame {
    Matrix v, u;
    Vector s;
};

namespace jacobi {

constexpr int SWEEPS = 4;  // jacobi.py says why

struct Column {
    Vector a, v;   // of A V and of V
    Lanes half;  // half of |a|^2
};

inline void halve(Column& p) { p.half = dot(p.a, p.a) * 0.5f; }

// Make two columns orthogonal.
inline void rotate(Column& p, Column& q) {
    const Lanes inner = dot(p.a, q.a), gap = q.half - p.half;
    // tan(angle) = inner / (gap + sign(gap) sqrt(gap^2 + inner^2)); TINY keeps 0/0 at 0
    const Lanes tan = inner / (gap + with_sign(root(gap * gap + inner * inner + TINY), gap));
    const Lanes cos = 1.0f / root(1.0f + tan * tan), sin = cos * tan, change = tan * inner * 0.5f;
    p.half -= change;
    q.half += change;
    const Column was = p;
    p.a = p.a * cos - q.a * sin;
    p.v = p.v * cos - q.v * sin;
    q.a = q.a * cos + was.a * sin;
    q.v = q.v * cos + was.v * sin;
}

// Put the longer column first, by a quarter turn, which leaves V a rotation.
inline void exchange(Column& p, Column& q) {
    const Bits swap = p.half < q.half;
    const Column was = p;
    p.a = choose(swap, q.a, p.a);
    p.v = choose(swap, q.v, p.v);
    p.half = swap ? q.half : p.half;
    q.a = choose(swap, was.a * splat(-1), q.a);
    q.v = choose(swap, was.v * splat(-1), q.v);
    q.half = swap ? was.half : q.half;
}

// Unit vectors across unit vectors, (0, 1, 0) for (1, 0, 0) (Duff et al. 2017, without branches).
inline Vector perpendicular(Vector unit) {
    const Lanes sign = with_sign(splat(1), unit.z), a = -1.0f / (sign + unit.z);
    return {unit.x * unit.y * a, sign + unit.y * unit.y * a, -unit.y};
}

inline Vector normalised(Vector a) { return a * (1.0f / root(dot(a, a))); }

inline Lanes largest(Vector a) {
    const Lanes x = absolute(a.x), y = absolute(a.y), z = absolute(a.z);
    const Lanes xy = x < y ? y : x;  // a NaN is found later, in the products
    return xy < z ? z : xy;
}

}  // namespace jacobi

inline Frame jacobi_frame(const Matrix& matrix) {
    using namespace jacobi;
    Lanes size = largest({largest(matrix.a), largest(matrix.b), largest(matrix.c)});
    size = at_least(size, splat(TINY));  // squares neither overflow nor underflow after this
    const Lanes one = splat(1), zero = splat(0);
    const auto scaled = [size](Vector a) { return Vector{a.x / size, a.y / size, a.z / size}; };
    Column p{scaled(matrix.a), {one, zero, zero}, zero}, q{scaled(matrix.b), {zero, one, zero}, zero},
        r{scaled(matrix.c), {zero, zero, one}, zero};
    for (int sweep = 0; sweep < SWEEPS; ++sweep) {
        halve(p), halve(q), halve(r);  // anew in every sweep: what is left of a short column is all rounding
        rotate(p, q), rotate(p, r), rotate(q, r);
    }
    halve(p), halve(q), halve(r);
    exchange(p, q), exchange(p, r), exchange(q, r);

    // Orthonormal right-handed u of orthogonal columns sorted by length, any of which may vanish. `least`: a length far
    // below rounding, whose square is still a normal number.
    const Lanes least = splat(EPS * EPS);
    p.a.x += least;  // its length is at least 1 / sqrt(3), unless the matrix is zero
    const Vector first = normalised(p.a);
    q.a = q.a - first * dot(first, q.a);
    // A vanished column takes any direction across the first one; the sign keeps the two from cancelling.
    const Vector across = perpendicular(first);
    q.a = q.a + across * with_sign(least, dot(q.a, across));
    Vector second = normalised(q.a);
    second = normalised(second - first * dot(first, second));  // once more: q may be all rounding
    const Vector third = cross(first, second);
    const Vector s = {dot(first, p.a) * size, dot(second, q.a) * size, dot(third, r.a) * size};
    return {{p.v, q.v, r.v}, {first, second, third}, s};
}
