#include "sv_contrastive/closed_form.h"

extern "C" void triple_scores(const float* a, const float* b, const float* c, int64_t count, float* sigma, float* d_a,
                              float* d_b, float* d_c) {
    for (int64_t first = 0; first + LANES <= count; first += LANES) {
        const Lanes x = load(a + first), y = load(b + first), z = load(c + first);
        const Triple t = triple(x, y, z);
        const Lanes s = slope(t, splat(1));
        store(sigma + first, t.sigma);
        store(d_a + first, (x * t.mu + y * z) * s);
        store(d_b + first, (y * t.mu + x * z) * s);
        store(d_c + first, (z * t.mu + x * y) * s);
    }
}

extern "C" void powers(const float* x, int64_t count, float* out, float* roots) {
    for (int64_t first = 0; first + LANES <= count; first += LANES) {
        store(out + first, exp2(load(x + first)));
        store(roots + first, inverse_root(load(x + first)));
    }
}
