// Rows of an embedding [samples, width], which lie one after the other.
#pragma once

#include <cmath>

#include "native/lanes.h"

constexpr float MIN_NORM = 1e-12f;  // a shorter row has no direction

inline float dot(const float* a, const float* b, int64_t width) {
    Lanes total{};
    int64_t d = 0;
    for (; d + LANES <= width; d += LANES) total += load(a + d) * load(b + d);
    float rest = 0;
    for (; d < width; ++d) rest += a[d] * b[d];
    return sum(total) + rest;
}

// to = from / |from|, 0 for a row without direction; returns what it was multiplied with.
inline float to_unit(const float* from, int64_t width, float* to) {
    const float norm = std::sqrt(dot(from, from, width)), inverse = norm < MIN_NORM ? 0 : 1 / norm;
    for (int64_t d = 0; d < width; ++d) to[d] = from[d] * inverse;
    return inverse;
}

// The gradient of the row that `to_unit` made `unit` of, from that of the unit; `to` may be `d_unit`.
inline void through_unit(const float* unit, float inverse, const float* d_unit, int64_t width, float* to) {
    const float along = dot(unit, d_unit, width);
    for (int64_t d = 0; d < width; ++d) to[d] = (d_unit[d] - along * unit[d]) * inverse;
}
