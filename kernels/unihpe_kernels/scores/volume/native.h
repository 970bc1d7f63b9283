// GRAM's score, minus the volume of the unit vectors of an anchor and N members; torch.py has its formulas.
#pragma once

#include "native/lanes.h"
#include "scores/basis.h"

constexpr float LEAST_VOLUME = 1e-4f;  // that the gradient is divided by

template <int N>
struct Members;
template <int N>
struct Score;

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
    Lanes s, value;

    Score(const Lanes (&products)[1], const Members<1>&)
        : s(products[0]), value(-root(at_least((1.0f - s) * (1.0f + s), splat(0)))) {}

    void gradient(Lanes weight, const Members<1>&, Lanes (&d_products)[1], Lanes*) const {
        d_products[0] = weight * s / at_least(-value, splat(LEAST_VOLUME));
    }
};

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
    Lanes a, b, value;

    Score(const Lanes (&products)[2], const Members<2>& members) : a(products[0]), b(products[1]) {
        const Lanes c = members.inner, det = (1.0f - c) * (1.0f + c) - a * a - b * b + 2.0f * a * b * c;
        value = -root(at_least(det, splat(0)));
    }

    void gradient(Lanes weight, const Members<2>& members, Lanes (&d_products)[2], Lanes* sums) const {
        const Lanes c = members.inner;
        weight = weight / at_least(-value, splat(LEAST_VOLUME));
        d_products[0] = weight * (a - b * c);
        d_products[1] = weight * (b - a * c);
        *sums += weight * (c - a * b);
    }
};

template <int N>
struct Members {
    static constexpr int SUMS = Basis<N>::SUMS;
    Lanes det, minors[N], of_two[N * (N - 1) / 2];  // of diag(nu), without one of nu and without two
    Basis<N> basis;

    Members() = default;
    explicit Members(Lanes (&gram)[N][N]) {
        Lanes nu[N];
        basis.of(gram, nu);
        for (int k = 0; k < N; ++k) nu[k] = at_least(nu[k], splat(0));
        det = without(nu, N, N);
        Lanes* next = of_two;
        for (int p = 0; p < N; ++p) {
            minors[p] = without(nu, p, p);
            for (int r = p + 1; r < N; ++r) *next++ = without(nu, p, r);
        }
    }

    void own(const Lanes* sums, Lanes* out) const { basis.own(sums, out); }

   private:
    static Lanes without(const Lanes (&nu)[N], int p, int r) {
        Lanes product = splat(1);
        for (int k = 0; k < N; ++k)
            if (k != p && k != r) product *= nu[k];
        return product;
    }
};

template <int N>
struct Score {
    Lanes s[N], value;

    Score(const Lanes (&products)[N], const Members<N>& members) {
        members.basis.rotate(products, s);
        Lanes det = members.det;
        for (int k = 0; k < N; ++k) det -= s[k] * s[k] * members.minors[k];
        value = -root(at_least(det, splat(0)));
    }

    void gradient(Lanes weight, const Members<N>& members, Lanes (&d_products)[N], Lanes* sums) const {
        weight = weight / at_least(-value, splat(LEAST_VOLUME));
        Lanes d_s[N], diagonal[N], squares[N];
        for (int k = 0; k < N; ++k) {
            d_s[k] = weight * s[k] * members.minors[k];
            diagonal[k] = members.minors[k];
            squares[k] = s[k] * s[k];
        }
        members.basis.rotate_back(d_s, d_products);
        // the cofactors of the tuple's Gram matrix
        const Lanes* next = members.of_two;
        for (int p = 0; p < N; ++p)
            for (int r = p + 1; r < N; ++r, ++next) {
                diagonal[p] -= squares[r] * *next;
                diagonal[r] -= squares[p] * *next;
            }
        next = members.of_two;
        for (int p = 0; p < N; ++p) {
            *sums++ -= weight * diagonal[p];
            for (int r = p + 1; r < N; ++r) *sums++ -= weight * s[p] * s[r] * *next++;
        }
    }
};
