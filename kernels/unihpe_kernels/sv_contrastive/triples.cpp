// negatives="all" of three modalities: every triple (i, j, k) once in each direction, in registers.
//
// Gram matrices a = x_i.y_j, b = x_i.z_k, c = y_j.z_k lie one after the other, [3, ld, ld] with ld the batch n rounded up
// to whole vectors of any CPU; what is beyond the batch is zero. Lanes are consecutive k, and j is the innermost loop:
// what belongs to i and k stays in registers. Scores lie in [1, sqrt(3)]; about the middle of that range exp2 needs no
// running maximum.
#include <algorithm>
#include <cmath>

#include "native/parallel.h"
#include "native/rows.h"
#include "scores/singular_value/closed_form.h"

namespace {

constexpr float MIDDLE = 1.3660254f;
constexpr int64_t MIDDLE_ROWS = 128;  // j whose part of a column of c, and of sums, the innermost cache holds

struct Grams {
    const float *a, *b, *c;
    int64_t n, ld;

    Grams(const float* all, int64_t n, int64_t ld) : a(all), b(all + ld * ld), c(all + 2 * ld * ld), n(n), ld(ld) {}
};

// Of i, and of j in the backward pass: enough for a piece of work, and few enough pieces for their sums to stay small
// beside a Gram matrix. The same whatever the number of threads, and so are all roundings.
int64_t rows_of_a_piece(int64_t n) { return n > 8 * 64 ? (n + 63) / 64 : 8; }

// Of consecutive k: exp2 of their logits, and 0 beyond the batch.
struct Logits {
    Lanes scale, shift;

    Logits(float of_all, int64_t k, int64_t n) : scale(splat(of_all)), shift(splat(-MIDDLE * of_all)) {
        for (int64_t lane = n - k; lane < LANES; ++lane) scale[lane] = 0, shift[lane] = -127;
    }

    Lanes power(Lanes sigma) const { return exp2_from_range(sigma * scale + shift); }
};

// Of threads: no more than the work is worth.
int64_t enough(int64_t threads, int64_t n) { return std::min(threads, 1 + n * n * n / 16384); }

template <class Use>
void own_triples(const Grams& grams, Use use) {
    for (int64_t first = 0; first < grams.n; first += LANES) {
        Lanes own[3] = {};
        const int count = int(grams.n - first < LANES ? grams.n - first : LANES);
        for (int lane = 0; lane < count; ++lane) {
            const int64_t place = (first + lane) * (grams.ld + 1);
            own[0][lane] = grams.a[place], own[1][lane] = grams.b[place], own[2][lane] = grams.c[place];
        }
        use(first, count, own[0], own[1], own[2]);
    }
}

}  // namespace

extern "C" {

// Three times [n, width] -> unit rows, zero beyond the batch, [5, ld, width]: x, x, y, z, z, the first three by the last
// three of which are all pairs; and inverse_norms [3, n], or null for rows that are taken as they are.
void triple_units(const float* x, const float* y, const float* z, int64_t n, int64_t ld, int64_t width, float* units,
                  float* inverse_norms) {
    const float* const all_rows[3] = {x, y, z};
    for (int64_t modality = 0; modality < 3; ++modality) {
        float* const out = units + (modality + 1) * ld * width;
        for (int64_t i = 0; i < n; ++i) {
            const float* const row = all_rows[modality] + i * width;
            if (inverse_norms)
                inverse_norms[modality * n + i] = to_unit(row, width, out + i * width);
            else
                std::copy(row, row + width, out + i * width);
        }
        std::fill(out + n * width, out + ld * width, 0.0f);
    }
    std::copy(units + ld * width, units + 2 * ld * width, units);
    std::copy(units + 3 * ld * width, units + 4 * ld * width, units + 4 * ld * width);
}

// From left and right, the gradients of the Gram matrices times the last three of `units` and, transposed, times the
// first three, [3, ld, width] each: those of the rows.
void triple_rows_gradient(const float* units, const float* inverse_norms, const float* left, const float* right,
                          int64_t n, int64_t ld, int64_t width, float* d_x, float* d_y, float* d_z) {
    const int64_t size = ld * width;
    float* const outs[3] = {d_x, d_y, d_z};
    const float* const parts[3][2] = {{left, left + size}, {right, left + 2 * size}, {right + size, right + 2 * size}};
    for (int64_t modality = 0; modality < 3; ++modality)
        for (int64_t i = 0; i < n; ++i) {
            const float *const one = parts[modality][0] + i * width, *const other = parts[modality][1] + i * width;
            const float* const unit = units + (modality + 1) * size + i * width;
            float* const out = outs[modality] + i * width;
            for (int64_t d = 0; d < width; ++d) out[d] = one[d] + other[d];
            if (inverse_norms) through_unit(unit, inverse_norms[modality * n + i], out, width, out);
        }
}

// The sums of exp2(scale * (sigma_1 - MIDDLE)) over the triples of every i, j and k, [3, n]; the softmax weights of all
// triples but a sample's own, summed over its anchors, [n]; and the losses [n]. The positive stands apart: where it
// dominates, nothing of the others is lost in a difference.
void triple_sums(const float* all_grams, int64_t n, int64_t ld, double exact_scale, int64_t threads, float* sums,
                 float* other_weights, float* sample_loss) {
    const float scale = float(exact_scale);
    const Grams grams(all_grams, n, ld);
    const int64_t rows = rows_of_a_piece(n), pieces = (n + rows - 1) / rows;
    std::vector<double> sums_i(n), sums_jk(pieces * 2 * ld);
    std::vector<Lanes> memory_j(n), memory_k(ld / LANES);
    in_pieces(n, rows, enough(threads, n), [=, &grams, &sums_i, &sums_jk](int64_t first, int64_t last) mutable {
        double* const sums_j = &sums_jk[first / rows * 2 * ld];
        double* const sums_k = sums_j + ld;
        Lanes* const by_j = memory_j.data();
        Lanes* const by_k = memory_k.data();
        std::fill(memory_j.begin(), memory_j.end(), Lanes{});
        for (int64_t i = first; i < last; ++i) {
            const float* const a = grams.a + i * ld;
            std::fill(memory_k.begin(), memory_k.end(), Lanes{});
            double by_i = 0;
            for (int64_t begin = 0; begin < n; begin += MIDDLE_ROWS) {
                const int64_t end = std::min(begin + MIDDLE_ROWS, n);
                for (int64_t k = 0; k < n; k += LANES) {
                    const Lanes b = load(grams.b + i * ld + k);
                    const Logits logits(scale, k, n);
                    const int64_t own_j = k <= i && i < k + LANES ? i : -1;
                    Lanes total{};
                    for (int64_t j = begin; j < end; ++j) {
                        const Triple t = triple(splat(a[j]), b, load(grams.c + j * ld + k));
                        Lanes power = logits.power(t.sigma);
                        if (j == own_j) power[i - k] = 0;
                        by_j[j] += power;
                        total += power;
                    }
                    by_k[k / LANES] += total;
                }
            }
            for (int64_t k = 0; k < n; ++k) {
                const double part = by_k[k / LANES][k % LANES];
                sums_k[k] += part;
                by_i += part;
            }
            sums_i[i] = by_i;
            if ((i - first) % 8 == 7 || i + 1 == last)  // few terms in a float
                for (int64_t j = 0; j < n; ++j) {
                    sums_j[j] += sum(by_j[j]);
                    by_j[j] = Lanes{};
                }
        }
    });
    own_triples(grams, [=, &sums_i, &sums_jk](int64_t first, int count, Lanes a, Lanes b, Lanes c) {
        const Lanes own = Logits(scale, first, n).power(triple(a, b, c).sigma);
        for (int lane = 0; lane < count; ++lane) {
            const int64_t i = first + lane;
            double by_j = 0, by_k = 0, loss = 0, others = 0;
            for (int64_t piece = 0; piece < pieces; ++piece) {
                by_j += sums_jk[piece * 2 * ld + i];
                by_k += sums_jk[(piece * 2 + 1) * ld + i];
            }
            const double all_sums[3] = {sums_i[i], by_j, by_k};
            for (int64_t axis = 0; axis < 3; ++axis) {
                const double sum = all_sums[axis] + own[lane];
                sums[axis * n + i] = float(sum);
                loss += std::log1p(all_sums[axis] / own[lane]);
                others += all_sums[axis] / sum;
            }
            other_weights[i] = float(others);
            sample_loss[i] = float(loss);
        }
    });
}

// Gradients of the Gram matrices, like them, zero before; and the sum of scores times their gradient. sums and
// other_weights: of `triple_sums`. d_score [n]: what the softmax weights of a sample's anchors are multiplied with.
//
// A tile is some i and as many j with all k. A tile of d_a is of one tile alone, one of d_b of those with the same i, one
// of d_c of those with the same j: of N x N tiles the p-th of i goes with j = i + p, so that no two of one p share
// anything, and waits for the two of p - 1 that it shares with.
void triple_gradients(const float* all_grams, int64_t n, int64_t ld, double exact_scale, int64_t threads,
                      const float* sums, const float* other_weights, const float* d_score, float* d_grams,
                      double* d_scale) {
    const float scale = float(exact_scale);
    const Grams grams(all_grams, n, ld);
    float *const d_a = d_grams, *const d_b = d_a + ld * ld, *const d_c = d_b + ld * ld;
    std::vector<float> factors(3 * ld);
    for (int64_t axis = 0; axis < 3; ++axis)
        for (int64_t i = 0; i < n; ++i)
            factors[axis * ld + i] = d_score[i] / sums[axis * n + i];
    const float *const of_i = factors.data(), *const of_j = of_i + ld, *const of_k = of_j + ld;

    // The positive's weight is minus the sum of all others. So a number may be taken off the scores, and with the mean
    // of the own ones little is lost where positives dominate.
    std::vector<float> own_scores(n);
    double own_sum = 0, own_weights = 0;
    own_triples(grams, [=, &own_scores, &own_sum, &own_weights](int64_t first, int count, Lanes a, Lanes b, Lanes c) {
        Lanes weight{};
        for (int lane = 0; lane < count; ++lane) weight[lane] = -other_weights[first + lane] * d_score[first + lane];
        const Triple t = triple(a, b, c);
        const Lanes s = slope(t, weight), own[3] = {a * t.mu + b * c, b * t.mu + a * c, c * t.mu + a * b};
        for (int lane = 0; lane < count; ++lane) {
            const int64_t i = first + lane;
            for (int axis = 0; axis < 3; ++axis) d_grams[axis * ld * ld + i * (ld + 1)] += own[axis][lane] * s[lane];
            own_scores[i] = t.sigma[lane];
            own_sum += std::abs(double(d_score[i])) * t.sigma[lane], own_weights += std::abs(double(d_score[i]));
        }
    });
    const float center = own_weights ? float(own_sum / own_weights) : MIDDLE;
    std::vector<double> d_scores(n);
    for (int64_t i = 0; i < n; ++i) d_scores[i] = -double(other_weights[i]) * d_score[i] * (own_scores[i] - center);

    const int64_t rows = rows_of_a_piece(n), tiles = (n + rows - 1) / rows;
    std::vector<std::atomic<int64_t>> done(tiles);
    std::vector<Lanes> memory(rows);
    in_pieces(tiles * tiles, 1, enough(threads, n), [=, &grams, &done, &d_scores](int64_t tile, int64_t) mutable {
        const int64_t turn = tile / tiles, tile_i = tile % tiles, tile_j = (tile_i + turn) % tiles;
        for (const int64_t other : {tile_i, (tile_i + 1) % tiles})
            while (done[other].load(std::memory_order_acquire) < turn) std::this_thread::yield();
        const int64_t begin = tile_j * rows, end = std::min(begin + rows, n);
        Lanes* const by_j = memory.data();
        for (int64_t i = tile_i * rows; i < std::min((tile_i + 1) * rows, n); ++i) {
            std::fill(memory.begin(), memory.end(), Lanes{});
            Lanes scores{};
            for (int64_t k = 0; k < n; k += LANES) {
                const Lanes b = load(grams.b + i * ld + k);
                const Logits logits(scale, k, n);
                const Lanes of_ik = load(of_k + k) + of_i[i];
                float* const place = d_b + i * ld + k;
                const int64_t own_j = k <= i && i < k + LANES ? i : -1;
                Lanes total = load(place);
                for (int64_t j = begin; j < end; ++j) {
                    const Lanes a = splat(grams.a[i * ld + j]), c = load(grams.c + j * ld + k);
                    const Triple t = triple(a, b, c);
                    Lanes weight = logits.power(t.sigma) * (of_ik + of_j[j]);
                    if (j == own_j) weight[i - k] = 0;
                    scores += weight * (t.sigma - center);
                    const Lanes s = slope(t, weight);
                    by_j[j - begin] += s * (a * t.mu + b * c);
                    total += s * (b * t.mu + a * c);
                    float* const d_jk = d_c + j * ld + k;
                    store(d_jk, load(d_jk) + s * (c * t.mu + a * b));
                }
                store(place, total);
            }
            for (int64_t j = begin; j < end; ++j) d_a[i * ld + j] += sum(by_j[j - begin]);
            d_scores[i] += sum(scores);
        }
        done[tile_i].store(turn + 1, std::memory_order_release);
    });
    *d_scale = 0;
    for (const double part : d_scores) *d_scale += part;
}

// sigma_1 [count] and its gradient for a, b and c [3, count] of triples [3, count], for tests.
void triple_scores(const float* triples, int64_t count, float* scores, float* gradients) {
    for (int64_t first = 0; first < count; first += LANES) {
        const int used = int(count - first < LANES ? count - first : LANES);
        Lanes own[3] = {};
        for (int axis = 0; axis < 3; ++axis)
            for (int lane = 0; lane < used; ++lane) own[axis][lane] = triples[axis * count + first + lane];
        const auto [a, b, c] = own;
        const Triple t = triple(a, b, c);
        const Lanes s = slope(t, splat(1)), d[3] = {a * t.mu + b * c, b * t.mu + a * c, c * t.mu + a * b};
        for (int lane = 0; lane < used; ++lane) {
            scores[first + lane] = t.sigma[lane];
            for (int axis = 0; axis < 3; ++axis) gradients[axis * count + first + lane] = d[axis][lane] * s[lane];
        }
    }
}

}  // extern "C"
