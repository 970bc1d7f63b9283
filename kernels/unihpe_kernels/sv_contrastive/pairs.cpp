// "paired" negatives: an anchor against the other members of one sample, for tiles of anchors and samples.
//
// Modality p of one side and q of the other have the inner products of place p < q in a table
// [p: rows, q: COUNT - 1 - p, columns], one p after the other, so that a table of p is one matrix product and its
// gradient two. A tile has two of them: `upper`, rows anchors and columns samples, for members that come after the
// anchor's modality; `lower`, rows samples and columns anchors, for those that come before it. Both are read and written
// in squares of LANES x LANES, which turns the lower ones round.

#include <cmath>
#include <type_traits>

#include "native/parallel.h"
#include "sv_contrastive/members.h"

namespace {

constexpr int64_t PAIRS_PER_THREAD = 8192;  // a thread takes some 20 us to start

int64_t blocks(int64_t count) { return (count + LANES - 1) / LANES; }
int64_t until(int64_t begin, int64_t end) { return end - begin < LANES ? end - begin : LANES; }

struct Tables {
    float *upper, *lower;
    int64_t anchors, samples;
};

// Of the member at `slot` of an anchor of modality m.
constexpr int member(int m, int slot) { return slot + (slot >= m); }

struct Row {
    float* at;
    int64_t stride;
};

// Where modality p of `row` meets q > p of `column`, and the way to the next row.
Row row_of(float* table, int count, int p, int q, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    const int64_t before = p * (2 * count - p - 1) / 2, stride = (count - 1 - p) * columns;
    return {table + before * rows * columns + row * stride + (q - p - 1) * columns + column, stride};
}

// The products of up to LANES anchors of modality m, from i on, with up to LANES samples, from j on.
template <int COUNT>
struct Square {
    Lanes of[COUNT - 1][LANES];  // by member and anchor, a sample in each lane; zero beyond the tile's edges

    void read(const Tables& tables, int m, int64_t i, int64_t j) {
        each(tables, m, i, j, [](Lanes* square, Row from, int rows, int columns, bool turn) {
            if (rows < LANES || columns < LANES)
                for (int k = 0; k < LANES; ++k) square[k] = splat(0);
            float* flat = (float*)square;
            for (int row = 0; row < rows; ++row, from.at += from.stride)
                if (!turn && columns == LANES)
                    square[row] = load(from.at);
                else
                    for (int column = 0; column < columns; ++column)
                        flat[turn ? column * LANES + row : row * LANES + column] = from.at[column];
        });
    }

    void add_to(const Tables& tables, int m, int64_t i, int64_t j) {
        each(tables, m, i, j, [](Lanes* square, Row to, int rows, int columns, bool turn) {
            const float* flat = (const float*)square;
            for (int row = 0; row < rows; ++row, to.at += to.stride)
                if (!turn && columns == LANES)
                    store(to.at, load(to.at) + square[row]);
                else
                    for (int column = 0; column < columns; ++column)
                        to.at[column] += flat[turn ? column * LANES + row : row * LANES + column];
        });
    }

   private:
    template <class Work>
    void each(const Tables& tables, int m, int64_t i, int64_t j, Work work) {
        const int rows = until(i, tables.anchors), columns = until(j, tables.samples);
        for (int slot = 0; slot < COUNT - 1; ++slot) {
            const int other = member(m, slot);
            if (other > m)
                work(of[slot], row_of(tables.upper, COUNT, m, other, i, tables.anchors, j, tables.samples), rows,
                     columns, false);
            else
                work(of[slot], row_of(tables.lower, COUNT, other, m, j, tables.samples, i, tables.anchors), columns,
                     rows, true);
        }
    }
};

template <int COUNT>
constexpr int SUMS = Members<COUNT - 1>::SUMS;

// LANES samples as members of the tuples of anchors of one modality.
template <int COUNT>
struct Samples {
    Members<COUNT - 1> members;
    Lanes d_inner[SUMS<COUNT>];  // gradients of the members' own products, as `Pair::gradient` adds them up
};

template <int COUNT>
Samples<COUNT>* samples_of(void* samples, int m, int64_t j, int64_t count) {
    return (Samples<COUNT>*)samples + m * blocks(count) + j / LANES;
}

template <int COUNT>
Lanes products(const Lanes (&square)[COUNT - 1][LANES], int row, Lanes (&out)[COUNT - 1]) {
    for (int slot = 0; slot < COUNT - 1; ++slot) out[slot] = square[slot][row];
    return out[0];
}

struct Logit {
    float scale, middle;  // score -> logit to base 2; the middle of the scores' range

    Lanes exp(Lanes sigma) const { return exp2((sigma - middle) * scale); }
};

inline Bits counted() {
    Bits lanes;
    for (int lane = 0; lane < LANES; ++lane) lanes[lane] = lane;
    return lanes;
}

inline Lanes first_lanes(Lanes x, int64_t count) { return counted() < (int32_t)count ? x : splat(0); }

// work(std::integral_constant of count)
template <class Work>
void with_count(int count, Work work) {
    switch (count) {
        case 2: return work(std::integral_constant<int, 2>());
        case 3: return work(std::integral_constant<int, 3>());
        case 4: return work(std::integral_constant<int, 4>());
        case 5: return work(std::integral_constant<int, 5>());
        case 6: return work(std::integral_constant<int, 6>());
        case 7: return work(std::integral_constant<int, 7>());
        case 8: return work(std::integral_constant<int, 8>());
    }
}

int enough(int threads, int64_t pairs) {
    const int64_t useful = pairs / PAIRS_PER_THREAD;
    return useful < threads ? (int)useful : threads;
}

float dot(const float* a, const float* b, int64_t width) {
    Lanes sums = splat(0);
    int64_t k = 0;
    for (; k + LANES <= width; k += LANES) sums += load(a + k) * load(b + k);
    float total = sum(sums);
    for (; k < width; ++k) total += a[k] * b[k];
    return total;
}

template <int COUNT>
void prepare(const float* stack, int64_t count, int64_t width, void* out, int64_t j) {
    Lanes inner[COUNT][COUNT];
    for (int p = 0; p < COUNT; ++p)
        for (int q = 0; q <= p; ++q) inner[p][q] = inner[q][p] = splat(p == q);
    const float* rows = stack + j * width;
    for (int64_t lane = 0; lane < until(j, count); ++lane, rows += width)
        for (int p = 0; p < COUNT - 1; ++p)
            for (int q = p + 1; q < COUNT; ++q)
                inner[p][q][lane] = inner[q][p][lane] = dot(rows + p * count * width, rows + q * count * width, width);
    for (int m = 0; m < COUNT; ++m) {
        Lanes gram[COUNT - 1][COUNT - 1];
        for (int s = 0; s < COUNT - 1; ++s)
            for (int t = 0; t < COUNT - 1; ++t) gram[s][t] = inner[member(m, s)][member(m, t)];
        Samples<COUNT> samples{Members<COUNT - 1>(gram), {}};
        __builtin_memcpy((void*)samples_of<COUNT>(out, m, j, count), &samples, sizeof samples);
    }
}

template <int COUNT>
void add_sums(Tables tables, const Logit& logit, void* all_samples, int m, int64_t i, float* sums,
              const int64_t* own, float* positives) {
    const int64_t anchors = until(i, tables.anchors);
    Lanes totals[LANES] = {};
    for (int64_t j = 0; j < tables.samples; j += LANES) {
        const Members<COUNT - 1> members = samples_of<COUNT>(all_samples, m, j, tables.samples)->members;
        Square<COUNT> square;
        square.read(tables, m, i, j);
        const int64_t inside = until(j, tables.samples);
        for (int row = 0; row < anchors; ++row) {
            Lanes s[COUNT - 1];
            products<COUNT>(square.of, row, s);
            const Lanes sigma = Pair<COUNT - 1>(s, members).sigma, exp = logit.exp(sigma);
            totals[row] += inside < LANES ? first_lanes(exp, inside) : exp;
            if (own && m == 0 && own[i + row] >= j && own[i + row] < j + inside)
                positives[i + row] = sigma[own[i + row] - j];
        }
    }
    for (int row = 0; row < anchors; ++row) sums[m * tables.anchors + i + row] += sum(totals[row]);
}

template <int COUNT>
double add_gradients(Tables tables, Tables d_tables, const Logit& logit, void* all_samples, int m, int64_t j,
                     const float* factors, const int64_t* own, const float* d_score) {
    Samples<COUNT>* const samples = samples_of<COUNT>(all_samples, m, j, tables.samples);
    const Members<COUNT - 1> members = samples->members;
    Lanes d_inner[SUMS<COUNT>] = {};
    const int64_t inside = until(j, tables.samples);
    double total = 0;
    for (int64_t i = 0; i < tables.anchors; i += LANES) {
        Square<COUNT> square;
        square.read(tables, m, i, j);
        Lanes scores = splat(0);
        for (int row = 0; row < until(i, tables.anchors); ++row) {
            Lanes s[COUNT - 1], d_s[COUNT - 1];
            products<COUNT>(square.of, row, s);
            const Pair<COUNT - 1> pair(s, members);
            Lanes weight = logit.exp(pair.sigma) * factors[m * tables.anchors + i + row];
            if (inside < LANES) weight = first_lanes(weight, inside);
            if (own && own[i + row] >= j && own[i + row] < j + inside) weight[own[i + row] - j] -= d_score[i + row];
            scores += weight * pair.sigma;
            pair.gradient(weight, members, d_s, d_inner);
            for (int slot = 0; slot < COUNT - 1; ++slot) square.of[slot][row] = d_s[slot];
        }
        square.add_to(d_tables, m, i, j);
        total += sum(scores);
    }
    for (int entry = 0; entry < SUMS<COUNT>; ++entry) samples->d_inner[entry] += d_inner[entry];
    return total;
}

// d_stack += the gradients of the samples' own products times the other members.
template <int COUNT>
void finish(const float* stack, int64_t count, int64_t width, void* all_samples, float* d_stack, int64_t j) {
    Lanes inner[COUNT][COUNT] = {};
    for (int m = 0; m < COUNT; ++m) {
        const auto samples = samples_of<COUNT>(all_samples, m, j, count);
        Lanes d_inner[SUMS<COUNT>];
        samples->members.of_own(samples->d_inner, d_inner);
        const Lanes* next = d_inner;
        for (int s = 0; s < COUNT - 2; ++s)
            for (int t = s + 1; t < COUNT - 1; ++t) inner[member(m, s)][member(m, t)] += *next++;
    }
    for (int p = 0; p < COUNT - 1; ++p)
        for (int q = p + 1; q < COUNT; ++q) {
            const float *rows_p = stack + (p * count + j) * width, *rows_q = stack + (q * count + j) * width;
            float *d_p = d_stack + (p * count + j) * width, *d_q = d_stack + (q * count + j) * width;
            for (int64_t lane = 0; lane < until(j, count); ++lane) {
                const float factor = inner[p][q][lane];
                for (int64_t k = lane * width; k < (lane + 1) * width; ++k) {
                    d_p[k] += factor * rows_q[k];
                    d_q[k] += factor * rows_p[k];
                }
            }
        }
}

}  // namespace

extern "C" {

// Floats that `prepare_samples` writes for `count` modalities of so many samples.
int64_t samples_size(int count, int64_t samples) {
    int64_t size = 0;
    with_count(count, [&](auto c) { size = c * blocks(samples) * (int64_t)(sizeof(Samples<c>) / sizeof(float)); });
    return size;
}

// stack [count, samples, width].
void prepare_samples(int count, const float* stack, int64_t samples, int64_t width, void* out, int threads) {
    with_count(count, [&](auto c) {
        in_pieces(blocks(samples), 1, enough(threads, samples * width), [=](int64_t first, int64_t) {
            prepare<c>(stack, samples, width, out, first * LANES);
        });
    });
}

// Adds every anchor's exponentials to sums [count, anchors]. own, or null: the place of each anchor's sample among the
// tile's samples, whose score goes to `positives` [anchors].
void paired_sums(int count, float* upper, float* lower, int64_t anchors, int64_t samples, float scale, float middle,
                 void* of_samples, const int64_t* own, float* sums, float* positives, int threads) {
    const Tables tables{upper, lower, anchors, samples};
    const Logit logit{scale, middle};
    with_count(count, [&](auto c) {
        const int64_t strips = blocks(anchors);
        in_pieces(c * strips, 1, enough(threads, c * anchors * samples), [=](int64_t first, int64_t) {
            add_sums<c>(tables, logit, of_samples, first / strips, first % strips * LANES, sums, own, positives);
        });
    });
}

// Adds the gradients of the tables to d_upper and d_lower, which may be one, and of the members' own products to
// `of_samples`. factors [count, anchors]: what the exponentials are multiplied with. own, as above: there d_score is
// taken off. totals [count, blocks of samples]: sums of scores times their gradient, added to.
void paired_gradients(int count, float* upper, float* lower, float* d_upper, float* d_lower, int64_t anchors,
                      int64_t samples, float scale, float middle, void* of_samples, const int64_t* own,
                      const float* factors, const float* d_score, double* totals, int threads) {
    const Tables tables{upper, lower, anchors, samples}, d_tables{d_upper, d_lower, anchors, samples};
    const Logit logit{scale, middle};
    with_count(count, [&](auto c) {
        const int64_t parts = blocks(samples);
        // one modality after the other: in one table two anchors' modalities meet
        for (int m = 0; m < c; ++m)
            in_pieces(parts, 1, enough(threads, anchors * samples), [=](int64_t first, int64_t) {
                totals[m * parts + first] += add_gradients<c>(tables, d_tables, logit, of_samples, m, first * LANES,
                                                              factors, own, d_score);
            });
    });
}

// Adds to d_stack [count, samples, width] what `paired_gradients` left in `of_samples`.
void finish_samples(int count, const float* stack, int64_t samples, int64_t width, void* of_samples, float* d_stack,
                    int threads) {
    with_count(count, [&](auto c) {
        in_pieces(blocks(samples), 1, enough(threads, samples * width), [=](int64_t first, int64_t) {
            finish<c>(stack, samples, width, of_samples, d_stack, first * LANES);
        });
    });
}

}  // extern "C"
