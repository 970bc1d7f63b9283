// The cosine of the anchor and one member.
#pragma once

#include "native/lanes.h"

template <int N>
struct Members {
    static constexpr int SUMS = 1;  // none, in truth
    Lanes unused;

    Members() = default;
    explicit Members(const Lanes (&)[N][N]) : unused(splat(0)) {}
    void own(const Lanes*, Lanes*) const {}
};

template <int N>
struct Score;

template <>
struct Score<1> {
    Lanes value;

    Score(const Lanes (&products)[1], const Members<1>&) : value(products[0]) {}

    void gradient(Lanes weight, const Members<1>&, Lanes (&d_products)[1], Lanes*) const { d_products[0] = weight; }
};
