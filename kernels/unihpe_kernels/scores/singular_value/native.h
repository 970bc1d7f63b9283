// sigma_1 of one unit vector, the anchor's, stacked on the N unit vectors of one sample, its members, in lanes.
//
// Members: of a sample. Score: an anchor's products with the members of a sample.
// Score::gradient: d_products = weight d sigma_1/d products; adds to `sums` what `Members::own` turns into the
// gradients of the members' own products, (s, t) for s < t, row by row.
#pragma once

#include "native/lanes.h"
#include "scores/basis.h"
#include "scores/singular_value/closed_form.h"

template <int N>
struct Members;
template <int N>
struct Score;

// One member.

template <>
struct Members<1> {
    static constexpr int SUMS = 1;  // none, in truth
    Lanes unused;

    Members() = default;
    explicit Members(const Lanes (&)[1][1]) : unused(splat(0)) {}
    void own(const Lanes*, Lanes*) const {}
};

template <>
struct Score<1> {
    Lanes s, inverse, value;

    Score(const Lanes (&products)[1], const Members<1>&)
        : s(products[0]), inverse(inverse_root(1.0f + absolute(s))), value((1.0f + absolute(s)) * inverse) {}

    void gradient(Lanes weight, const Members<1>&, Lanes (&d_products)[1], Lanes*) const {
        d_products[0] = s == 0.0f ? splat(0) : with_sign(0.5f * inverse, s) * weight;
    }
};

// Two: the closed form.

template <>
struct Members<2> {
    static constexpr int SUMS = 1;
    Lanes inner;

    Members() = default;
    explicit Members(const Lanes (&gram)[2][2]) : inner(gram[0][1]) {}
    void own(const Lanes* sums, Lanes* out) const { *out = *sums; }
};

template <>
struct Score<2> {
    Lanes a, b, c;
    Triple of;
    Lanes value;

    Score(const Lanes (&products)[2], const Members<2>& members)
        : a(products[0]), b(products[1]), c(members.inner), of(triple(a, b, c)), value(of.sigma) {}

    void gradient(Lanes weight, const Members<2>&, Lanes (&d_products)[2], Lanes* sums) const {
        const Lanes factor = slope(of, weight);
        d_products[0] = (a * of.mu + b * c) * factor;
        d_products[1] = (b * of.mu + a * c) * factor;
        *sums += (c * of.mu + a * b) * factor;
    }
};

// More: the secular equation of an arrowhead matrix. torch.py says why.

namespace arrowhead {

constexpr float FLOOR = 1e-28f;
constexpr int STEPS = 5;  // the worst of 10^6 cases comes to 1e-10

}  // namespace arrowhead

// A sample's N members: their Gram matrix Q diag(nu) Q^T, nu[0] the largest.
template <int N>
struct Members {
    static constexpr int SUMS = Basis<N>::SUMS;
    Lanes alpha;    // nu[0] - 1
    Lanes gaps[N];  // nu[0] - nu[k]
    Basis<N> basis;

    Members() = default;
    explicit Members(Lanes (&gram)[N][N]) {
        Lanes nu[N];
        basis.of(gram, nu);
        alpha = at_least(nu[0] - 1.0f, splat(0));
        for (int k = 0; k < N; ++k) gaps[k] = nu[0] - nu[k];
    }

    void own(const Lanes* sums, Lanes* out) const { basis.own(sums, out); }
};

template <int N>
struct Score {
    Lanes s[N];  // Q^T (products of the anchor with the members)
    Lanes t;     // the largest eigenvalue is nu[0] + t
    Lanes value;

    Score(const Lanes (&products)[N], const Members<N>& members) {
        Lanes squares[N];
        members.basis.rotate(products, s);
        for (int k = 0; k < N; ++k) squares[k] = s[k] * s[k];
        const Lanes alpha = members.alpha;
        t = splat(arrowhead::FLOOR);
        for (int k = 0; k < N; ++k) {  // each pole alone bounds t from below: the root of (t + alpha) (t + g) = s^2
            const Lanes gap = members.gaps[k], difference = alpha - gap;
            const Lanes both = root(4.0f * squares[k] + (difference * difference + arrowhead::FLOOR)) + (alpha + gap);
            t = at_least(t, 2.0f * (squares[k] - alpha * gap) / both);
        }
        for (int step = 0; step < arrowhead::STEPS; ++step) {
            // (1 + slope) t^2 + linear t = s_1^2
            Lanes others = splat(0), slope = splat(0);
            for (int k = 1; k < N; ++k) {
                const Lanes inverse = 1.0f / (t + members.gaps[k]), term = squares[k] * inverse;
                others += term;
                slope += term * inverse;
            }
            const Lanes linear = alpha - others - slope * t;
            slope += 1.0f;
            const Lanes size = root(linear * linear + 4.0f * slope * squares[0]) + absolute(linear);
            const Lanes half = at_least(size * 0.5f, splat(arrowhead::FLOOR));
            const Bits rising = linear > 0.0f;
            t = at_least(t, (rising ? squares[0] : half) / (rising ? half : slope));
        }
        t += s[0] - s[0];  // NaN of all products, which maxima drop
        value = root(t + (alpha + 1.0f));
    }

    // d_products: weight d sigma_1/d products. Adds weight d sigma_1/d Gram matrix, in the basis Q, to `sums`, an upper
    // triangle.
    void gradient(Lanes weight, const Members<N>& members, Lanes (&d_products)[N], Lanes* sums) const {
        // The eigenvector scaled by sqrt(t): v_0^2 = t, v_0 v_1 = s_1, v_1^2 = s_1^2/t, v_0 v_k = t r_k with
        // r_k = s_k/(t + g_k). For s_1 -> 0 the quotient s_1^2/t is taken from the secular equation instead.
        Lanes top = t + members.alpha, norm = splat(0), ratios[N];
        for (int k = 1; k < N; ++k) {
            ratios[k] = s[k] / (t + members.gaps[k]);
            top -= s[k] * ratios[k];
            norm += ratios[k] * ratios[k];
        }
        top = at_least(top, s[0] * s[0] / t);
        weight = weight / ((norm * t + t + top) * value);  // d sigma = v^T dG v / (2 sigma)
        const Lanes weight_t = weight * t;
        Lanes d_s[N];
        d_s[0] = weight * s[0];
        for (int k = 1; k < N; ++k) d_s[k] = weight_t * ratios[k];
        *sums++ += weight * top;
        for (int k = 1; k < N; ++k) *sums++ += d_s[0] * ratios[k];
        for (int p = 1; p < N; ++p)
            for (int q = p; q < N; ++q) *sums++ += d_s[p] * ratios[q];
        members.basis.rotate_back(d_s, d_products);
    }
};
