// sigma_1 of three unit vectors and its gradient, one triple in each lane.
//
// With a, b, c the inner products, G = [[1, a, b], [a, 1, c], [b, c, 1]] has the largest eigenvalue 1 + mu,
//
//     mu = r (1 + v),  r = sqrt(m),  m = (a^2 + b^2 + c^2)/3,  v = 2 cos(2/3 acos s) - 1,  4 s^2 = 2 (1 + X),  X = abc/r^3
//
// with v a polynomial of 2 s without a constant term: near a double top eigenvalue (X = -1) the gap 3 mu^2 - 3 m is
// 3 m v (2 + v) and loses nothing. There 1 + X keeps half of its digits at best, so 4 s^2 is (1 - X^2) + (1 + X)^2,
// whose first term is d1^2 + d1 d2 + d2^2 + d1 d2 (d1 + d2) with d1 = (a^2 - m)/m, d2 = (b^2 - m)/m: no digits are lost
// there, and the square leaves nothing of the error of 1 + X.
#pragma once

#include "native/lanes.h"

struct Triple {
    Lanes sigma, mu, v, over_m;  // over_m: 1/m
};

inline Triple triple(Lanes a, Lanes b, Lanes c) {
    constexpr float LEAST = 1e-34f;  // m of nothing: its inverse still is a normal number
    const Lanes a2 = a * a, b2 = b * b;
    const Lanes m = (c * c + (a2 + b2)) * (1.0f / 3) + LEAST, over_r = inverse_root(m), over_m = over_r * over_r;
    const Lanes d1 = a2 * over_m - 1.0f, d2 = b2 * over_m - 1.0f, sum = d1 + d2, product = d1 * d2;
    const Lanes low = sum * product + (sum * sum - product);  // 1 - X^2
    const Lanes top = (a * b * over_m) * (c * over_r) + 1.0f;
    const Lanes twice_s = root(top * top + low);
    Lanes slope = twice_s * 1.8787861e-5f - 1.9867833e-4f;
    slope = slope * twice_s + 1.0267750e-3f;
    slope = slope * twice_s - 3.8133604e-3f;
    slope = slope * twice_s + 1.3235656e-2f;
    slope = slope * twice_s - 5.5528582e-2f;
    slope = slope * twice_s + 5.7734833e-1f;
    const Lanes r = m * over_r, f = slope * twice_s + 1.0f;
    return {root(r * f + 1.0f), r * f, slope * twice_s, over_m};
}

// What (a mu + b c, b mu + a c, c mu + a b) is to be multiplied with for weight * d sigma_1/d(a, b, c). Divided by the
// gap, those are products of two entries of a unit eigenvector, within [-1/2, 1/2]; near a double eigenvalue, where
// rounding could carry them out of there, what is added to the gap keeps them in.
inline Lanes slope(const Triple& t, Lanes weight) {
    const Lanes gap = t.v * (t.v + 2.0f) + 4 * EPS;  // (3 mu^2 - 3 m)/(3 m)
    return weight * (t.over_m * (1.0f / 3)) / (gap * t.sigma);
}
