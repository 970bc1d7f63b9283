// Vectors of as many floats as a register of this CPU holds, one problem in each lane; written with the vector
// extensions of GCC and Clang, so that it runs on any of their targets.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

constexpr float EPS = 1.1920929e-07f;   // of float32
constexpr float TINY = 1.17549435e-38f;  // the smallest normal number

inline Lanes splat(float value) { return value - Lanes{}; }

inline Lanes load(const float* from) {
    Lanes value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, Lanes value) { __builtin_memcpy(to, &value, sizeof value); }

inline Lanes root(Lanes x) {
    Lanes out;
    for (int lane = 0; lane < LANES; ++lane) out[lane] = __builtin_sqrtf(x[lane]);
    return out;
}

// 1/sqrt(x) to 1 ulp in multiplications alone, which take less long than a square root and a division. Of what is smaller
// than normal it is a finite number, of infinity NaN; x must not be negative.
inline Lanes inverse_root(Lanes x) {
    const Lanes guess = (Lanes)(0x5f370000 - ((Bits)x >> 1));
    const Lanes h = 1.0f - (x * guess) * guess;  // within 0.071: 1/sqrt(1 - h) takes a short polynomial
    Lanes series = h * 0.2781839f + 0.31386027f;
    series = series * h + 0.3749883f;
    series = series * h + 0.49999854f;
    return guess * h * series + guess;
}

// A NaN in `x` stays one.
inline Lanes at_least(Lanes x, Lanes floor) { return x < floor ? floor : x; }
inline Lanes at_most(Lanes x, Lanes ceiling) { return x > ceiling ? ceiling : x; }

// 2^x to 2 ulp for x in [-127, 128], NaN of NaN; 0 below -126.5, infinity above 127.5.
inline Lanes exp2_in_range(Lanes x) {
    constexpr float SHIFT = 12582912 + 127;  // 1.5 * 2^23: what is added to it is rounded to a whole number
    const Lanes shifted = x + SHIFT, part = x - (shifted - SHIFT);
    Lanes power = part * 1.3276472e-3f + 9.675541e-3f;
    power = power * part + 5.550713e-2f;
    power = power * part + 2.4022120e-1f;
    power = power * part + 6.9314694e-1f;
    power = power * part + 1.0000001f;
    return power * (Lanes)((Bits)shifted << 23);
}

inline Lanes exp2(Lanes x) { return exp2_in_range(at_most(at_least(x, splat(-127)), splat(128))); }

inline Lanes absolute(Lanes x) { return (Lanes)((Bits)x & INT32_MAX); }
inline Lanes with_sign(Lanes size, Lanes sign) {
    return (Lanes)(((Bits)size & INT32_MAX) | ((Bits)sign & INT32_MIN));
}

inline float sum(Lanes x) {
    float part[LANES];
    store(part, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; ++lane) part[lane] += part[lane + half];
    return part[0];
}
