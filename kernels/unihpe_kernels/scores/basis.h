// The basis in which the Gram matrix of a sample's N members is diagonal; basis.py says what for.
#pragma once

#include "native/lanes.h"

// Eigenvectors: column k of v. `a` becomes diagonal. Cyclic Jacobi: for N = 7 in float32 all is rounding after six
// sweeps, but for vectors of repeated values, which take two more.
template <int N>
void diagonalise(Lanes (&a)[N][N], Lanes (&v)[N][N]) {
    for (int i = 0; i < N; ++i)
        for (int k = 0; k < N; ++k) v[i][k] = splat(i == k);
    for (int sweep = 0; sweep < (N + 9) / 2; ++sweep)
        for (int p = 0; p < N - 1; ++p)
            for (int q = p + 1; q < N; ++q) {
                const Lanes inner = a[p][q], gap = (a[q][q] - a[p][p]) * 0.5f;
                const Lanes tan = inner / (gap + with_sign(root(gap * gap + inner * inner + TINY), gap));
                const Lanes cos = 1.0f / root(1.0f + tan * tan), sin = cos * tan;
                a[p][p] -= tan * inner;
                a[q][q] += tan * inner;
                a[p][q] = a[q][p] = splat(0);
                for (int k = 0; k < N; ++k) {
                    if (k != p && k != q) {
                        const Lanes to_p = a[k][p];
                        a[p][k] = a[k][p] = to_p * cos - a[k][q] * sin;
                        a[q][k] = a[k][q] = a[k][q] * cos + to_p * sin;
                    }
                    const Lanes was = v[k][p];
                    v[k][p] = was * cos - v[k][q] * sin;
                    v[k][q] = v[k][q] * cos + was * sin;
                }
            }
}

template <int N>
struct Basis {
    static constexpr int SUMS = N * (N + 1) / 2;  // an upper triangle
    Lanes q[N][N];

    // nu, the largest first, from the Gram matrix, which is overwritten.
    void of(Lanes (&gram)[N][N], Lanes (&nu)[N]) {
        diagonalise(gram, q);
        for (int k = 1; k < N; ++k) {
            const Bits swap = gram[k][k] > gram[0][0];
            const Lanes was = gram[0][0];
            gram[0][0] = swap ? gram[k][k] : was;
            gram[k][k] = swap ? was : gram[k][k];
            for (int i = 0; i < N; ++i) {
                const Lanes first = q[i][0];
                q[i][0] = swap ? q[i][k] : first;
                q[i][k] = swap ? first : q[i][k];
            }
        }
        for (int k = 0; k < N; ++k) nu[k] = gram[k][k];
    }

    // Q^T products
    void rotate(const Lanes (&products)[N], Lanes (&s)[N]) const {
        for (int k = 0; k < N; ++k) {
            s[k] = q[0][k] * products[0];
            for (int n = 1; n < N; ++n) s[k] += q[n][k] * products[n];
        }
    }

    // Q gradients
    void rotate_back(const Lanes (&d_s)[N], Lanes (&d_products)[N]) const {
        for (int n = 0; n < N; ++n) {
            d_products[n] = q[n][0] * d_s[0];
            for (int k = 1; k < N; ++k) d_products[n] += q[n][k] * d_s[k];
        }
    }

    // (Q H Q^T)[s][t] for s < t, row by row; H by its upper triangle.
    void own(const Lanes* sums, Lanes* out) const {
        Lanes h[N][N];
        for (int p = 0; p < N; ++p)
            for (int n = p; n < N; ++n) h[p][n] = h[n][p] = *sums++;
        for (int s = 0; s < N - 1; ++s) {
            Lanes row[N];
            for (int k = 0; k < N; ++k) {
                row[k] = q[s][0] * h[0][k];
                for (int p = 1; p < N; ++p) row[k] += q[s][p] * h[p][k];
            }
            for (int t = s + 1; t < N; ++t) {
                Lanes total = row[0] * q[t][0];
                for (int k = 1; k < N; ++k) total += row[k] * q[t][k];
                *out++ = total;
            }
        }
    }
};
