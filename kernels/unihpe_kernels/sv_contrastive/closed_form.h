#pragma once
#include "native/lanes.h"
// stand-in
inline Lanes exp2(Lanes x) {
    x = at_most(at_least(x, splat(-126.0f)), splat(126.0f));
    const Lanes magic = splat(12582912.0f), shifted = x + magic, f = x - (shifted - magic);
    const Bits n = (Bits)shifted << 23;
    Lanes p = f * 1.5403530e-4f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    return (Lanes)((Bits)p + n);
}
struct Grad3 { Lanes a, b, c; };
struct Triple {
    Lanes a, b, c, mu, m, f, sigma;
    Triple(Lanes a_, Lanes b_, Lanes c_) : a(a_), b(b_), c(c_) {
        const Lanes a2 = a * a, b2 = b * b;
        m = c * c * (1.0f / 3) + ((a2 * (1.0f / 3) + 1e-34f) + b2 * (1.0f / 3));
        const Lanes r = root(m), inverse = 1.0f / r, square = inverse * inverse;
        const Lanes d1 = a2 * square - 1.0f, d2 = b2 * square - 1.0f, d3 = -d1 - d2, product = d1 * d2 - 1e-30f;
        Lanes low = d3 * d3 - product;
        low = low - product * d3;
        const Lanes x = a * b * square * (c * inverse);
        const Lanes top = at_least(low, x + (1.0f - 1e-6f));
        const Lanes u = root(top / (1.0f - at_most(x, splat(0))));
        f = u * (2 * 0.00010628019160304878f) + 2 * -0.0007947133001053834f;
        f = f * u + 2 * 0.0029041582286233477f;
        f = f * u + 2 * -0.0076267207418898786f;
        f = f * u + 2 * 0.018718043531817906f;
        f = f * u + 2 * -0.055528581527822606f;
        f = f * u + 2 * 0.40824691884332653f;
        f = f * u + 1.0f;
        mu = r * f;
        sigma = root(mu + 1.0f);
    }
    Grad3 gradient() const {
        const Lanes na = a * mu + b * c, nb = b * mu + a * c, nc = c * mu + a * b;
        const Lanes half_gap = (f * f - (1 - 5e-7f)) * (1.5f * m);
        const Lanes bound = at_least(at_least(half_gap, absolute(na)), at_least(absolute(nb), absolute(nc)));
        const Lanes h = 0.5f / (bound * sigma);
        return {na * h, nb * h, nc * h};
    }
};
