// TRIANGLE's score of the anchor and two members; torch.py has its formula.
#pragma once

#include "native/lanes.h"

template <int N>
struct Members;
template <int N>
struct Score;

template <>
struct Members<2> {
    static constexpr int SUMS = 1;
    Lanes r;

    Members() = default;
    explicit Members(const Lanes (&gram)[2][2]) : r(1.0f - gram[0][1]) {}
    void own(const Lanes* sums, Lanes* out) const { *out = *sums; }
};

template <>
struct Score<2> {
    Lanes p, q, value;

    Score(const Lanes (&products)[2], const Members<2>& members)
        : p(1.0f - products[0]),
          q(1.0f - products[1]),
          value((p - q) * (p - q) * 0.5f + members.r * (members.r * 0.5f - p - q)) {}

    void gradient(Lanes weight, const Members<2>& members, Lanes (&d_products)[2], Lanes* sums) const {
        d_products[0] = weight * (q + members.r - p);
        d_products[1] = weight * (p + members.r - q);
        *sums += weight * (p + q - members.r);
    }
};
