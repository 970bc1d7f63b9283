// Rows of an embedding [samples, width], which lie one after the other.
#pragma once

#include <algorithm>
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

// A power of two that takes the row's largest magnitude into [1/2, 1), less than 4 near the ends of the range; 1 for a
// row of zeros and for one with a NaN or an infinity in it.
inline float inverse_power(const float* row, int64_t width) {
    float largest = 0;
    bool finite = true;
    for (int64_t d = 0; d < width; ++d) {
        const float size = std::fabs(row[d]);
        largest = size > largest ? size : largest;
        finite &= size <= 3.40282347e38f;
    }
    int exponent = 0;
    if (largest > 0 && finite) std::frexp(largest, &exponent);
    return std::ldexp(1.0f, -std::min(std::max(exponent, -125), 126));
}

// to = from / |from|, 0 for a row without direction; returns what it was multiplied with. Squares neither overflow nor
// underflow.
inline float to_unit(const float* from, int64_t width, float* to) {
    const float scale = inverse_power(from, width);
    for (int64_t d = 0; d < width; ++d) to[d] = from[d] * scale;
    const float norm = std::sqrt(dot(to, to, width)), inverse = norm < MIN_NORM * scale ? 0 : 1 / norm;
    for (int64_t d = 0; d < width; ++d) to[d] *= inverse;
    return inverse * scale;
}

// The gradient of the row that `to_unit` made `unit` of, from that of the unit; `to` may be `d_unit`.
inline void through_unit(const float* unit, float inverse, const float* d_unit, int64_t width, float* to) {
    const float along = dot(unit, d_unit, width);
    for (int64_t d = 0; d < width; ++d) to[d] = (d_unit[d] - along * unit[d]) * inverse;
}
