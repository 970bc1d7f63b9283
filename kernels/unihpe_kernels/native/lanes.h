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

inline Lanes splat(float value) { return Lanes{} + value; }

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

// A NaN in `x` stays one.
inline Lanes at_least(Lanes x, Lanes floor) { return x < floor ? floor : x; }
inline Lanes at_most(Lanes x, Lanes ceiling) { return x > ceiling ? ceiling : x; }

inline Lanes absolute(Lanes x) { return (Lanes)((Bits)x & INT32_MAX); }
inline Lanes with_sign(Lanes size, Lanes sign) {
    return (Lanes)(((Bits)size & INT32_MAX) | ((Bits)sign & INT32_MIN));
}

inline float sum(Lanes x) {
    float total = 0;
    for (int lane = 0; lane < LANES; ++lane) total += x[lane];
    return total;
}
