// "paired" negatives: an anchor against the other members of one sample, for tiles of anchors and samples.
//
// Modality p of one side and q of the other have the inner products of place p < q in a table
// [p: rows, q: COUNT - 1 - p, columns], one p after the other, so that a table of p is one matrix product and its
// gradient two. A tile has two of them: `upper`, rows anchors and columns samples, for members that come after the
// anchor's modality; `lower`, rows samples and columns anchors, for those that come before it. Both are read and
// written in squares of LANES x LANES, which turns the lower ones round.

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include "native/parallel.h"
#include "native/rows.h"
#include "scores/singular_value/native.h"

namespace {

constexpr int64_t PAIRS_PER_THREAD = 4096;

int64_t blocks(int64_t count) { return (count + LANES - 1) / LANES; }
int until(int64_t begin, int64_t end) { return int(end - begin < LANES ? end - begin : LANES); }

struct Tables {
    float *upper, *lower;
    int64_t anchors, samples;
};

// Arrays by anchors go over those of all tiles.
struct All {
    int64_t first, anchors;

    int64_t place(int m, int64_t i) const { return m * anchors + first + i; }
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

// What is held for LANES samples at a time, by the modality m of the anchors: their members, and the sums for the
// gradients of the members' own products.
template <int COUNT>
struct Held {
    using Of = Members<COUNT - 1>;
    using Sums = Lanes[Of::SUMS];

    Of* const members;
    Sums* const sums;
    const int64_t samples;

    Of& of(int m, int64_t j) const { return members[m * blocks(samples) + j / LANES]; }
    Sums& sums_of(int m, int64_t j) const { return sums[m * blocks(samples) + j / LANES]; }
};

struct Logit {
    float scale, middle;  // score -> logit to base 2; the middle of the scores' range

    Lanes power(Lanes sigma) const { return exp2((sigma - middle) * scale); }
};

// For the gradient of the scale, with scores less the middle of their range. The weights of an anchor's tuples, its own
// among them, add up to 0 but for rounding: so a number may be taken off the scores, and with the mean of the own ones
// that rounding is multiplied with little where positives dominate.
struct Totals {
    double scores, weights;         // weight * score, weight
    double own_scores, own_weights;  // |own weight| * own score, |own weight|

    void add_own(double weight, double own_weight, double score) {
        scores += weight * score, weights += weight;
        own_scores += own_weight * score, own_weights += own_weight;
    }
};

inline Bits counted() {
    Bits lanes;
    for (int lane = 0; lane < LANES; ++lane) lanes[lane] = lane;
    return lanes;
}

inline Lanes first_lanes(Lanes x, int count) { return counted() < count ? x : splat(0); }

// work(std::integral_constant of count)
template <class Work>
void with_count(int64_t count, Work work) {
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

int64_t enough(int64_t threads, int64_t pairs) { return std::min(threads, 1 + pairs / PAIRS_PER_THREAD); }

struct Stack {
    float* units;          // [COUNT, samples, width]
    float* inverse_norms;  // [COUNT, samples], or null for rows that are taken to be of unit length
    int64_t samples, width;

    float* row(int m, int64_t j) const { return units + (m * samples + j) * width; }
};

void normalise(const Stack& stack, int m, int64_t j, const float* from) {
    if (stack.inverse_norms)
        stack.inverse_norms[m * stack.samples + j] = to_unit(from, stack.width, stack.row(m, j));
    else
        std::copy(from, from + stack.width, stack.row(m, j));
}

template <int COUNT>
void prepare(const Stack& stack, const Held<COUNT>& held, int64_t j) {
    Lanes inner[COUNT][COUNT];
    for (int p = 0; p < COUNT; ++p)
        for (int q = 0; q <= p; ++q) inner[p][q] = inner[q][p] = splat(p == q);
    for (int lane = 0; lane < until(j, stack.samples); ++lane)
        for (int p = 0; p < COUNT - 1; ++p)
            for (int q = p + 1; q < COUNT; ++q)
                inner[p][q][lane] = inner[q][p][lane] =
                    dot(stack.row(p, j + lane), stack.row(q, j + lane), stack.width);
    for (int m = 0; m < COUNT; ++m) {
        Lanes gram[COUNT - 1][COUNT - 1];
        for (int s = 0; s < COUNT - 1; ++s)
            for (int t = 0; t < COUNT - 1; ++t) gram[s][t] = inner[member(m, s)][member(m, t)];
        held.of(m, j) = Members<COUNT - 1>(gram);
    }
}

struct Own {
    int64_t shift;  // of the first anchor from the first sample

    // The place of anchor i's sample among LANES samples from j on, or some number beyond.
    uint64_t place(int64_t i, int64_t j) const { return i + shift - j; }
};

template <int COUNT>
void add_sums(const Tables& tables, const Logit& logit, const Held<COUNT>& held, const All& all, const Own& own,
              int m, int64_t i, float* sums, float* own_powers) {
    const int anchors = until(i, tables.anchors);
    Lanes totals[LANES] = {};
    for (int64_t j = 0; j < tables.samples; j += LANES) {
        const auto members = held.of(m, j);
        Square<COUNT> square;
        square.read(tables, m, i, j);
        const int inside = until(j, tables.samples);
        for (int row = 0; row < anchors; ++row) {
            Lanes s[COUNT - 1];
            for (int slot = 0; slot < COUNT - 1; ++slot) s[slot] = square.of[slot][row];
            Lanes power = logit.power(Score<COUNT - 1>(s, members).value);
            if (inside < LANES) power = first_lanes(power, inside);
            const uint64_t place = own.place(i + row, j);
            if (place < (uint64_t)inside) {
                own_powers[all.place(m, i + row)] = power[place];
                power[place] = 0;  // beside it the others may be less than its rounding
            }
            totals[row] += power;
        }
    }
    for (int row = 0; row < anchors; ++row) sums[all.place(m, i + row)] += sum(totals[row]);
}

template <int COUNT>
void add_gradients(const Tables& tables, const Tables& d_tables, const Logit& logit, const Held<COUNT>& held,
                   const All& all, const Own& own, int m, int64_t j, const float* factors, const float* own_weights,
                   Totals& totals) {
    const auto members = held.of(m, j);
    typename Held<COUNT>::Sums sums = {};
    const int inside = until(j, tables.samples);
    for (int64_t i = 0; i < tables.anchors; i += LANES) {
        Square<COUNT> square;
        square.read(tables, m, i, j);
        Lanes scores = splat(0), weights = splat(0);
        for (int row = 0; row < until(i, tables.anchors); ++row) {
            Lanes s[COUNT - 1], d_s[COUNT - 1];
            for (int slot = 0; slot < COUNT - 1; ++slot) s[slot] = square.of[slot][row];
            const Score<COUNT - 1> pair(s, members);
            const Lanes power = logit.power(pair.value), score = pair.value - logit.middle;
            Lanes weight = power * factors[all.place(m, i + row)];
            if (inside < LANES) weight = first_lanes(weight, inside);
            const uint64_t place = own.place(i + row, j);
            const bool has_own = place < (uint64_t)inside;
            if (has_own) weight[place] = 0;
            scores += weight * score;
            weights += weight;
            if (has_own) {
                weight[place] = own_weights[all.place(m, i + row)];
                totals.add_own(weight[place], std::abs(weight[place]), score[place]);
            }
            pair.gradient(weight, members, d_s, sums);
            for (int slot = 0; slot < COUNT - 1; ++slot) square.of[slot][row] = d_s[slot];
        }
        square.add_to(d_tables, m, i, j);
        totals.scores += sum(scores);
        totals.weights += sum(weights);
    }
    for (int entry = 0; entry < Members<COUNT - 1>::SUMS; ++entry) held.sums_of(m, j)[entry] += sums[entry];
}

// Gradients of the samples' own products, and through the normalisation.
template <int COUNT>
void finish(const Stack& stack, const Held<COUNT>& held, int64_t j, float* d_units, float* const* d_rows) {
    Lanes inner[COUNT][COUNT] = {};
    for (int m = 0; m < COUNT; ++m) {
        Lanes own[Members<COUNT - 1>::SUMS];
        held.of(m, j).own(held.sums_of(m, j), own);
        const Lanes* next = own;
        for (int s = 0; s < COUNT - 2; ++s)
            for (int t = s + 1; t < COUNT - 1; ++t, ++next) {
                inner[member(m, s)][member(m, t)] += *next;
                inner[member(m, t)][member(m, s)] += *next;
            }
    }
    const int64_t width = stack.width;
    for (int lane = 0; lane < until(j, stack.samples); ++lane)
        for (int p = 0; p < COUNT; ++p) {
            float* const d_unit = d_units + (p * stack.samples + j + lane) * width;
            for (int q = 0; q < COUNT && COUNT > 2; ++q) {
                if (q == p) continue;
                const float factor = inner[p][q][lane], *const other = stack.row(q, j + lane);
                for (int64_t k = 0; k < width; ++k) d_unit[k] += factor * other[k];
            }
            float* const d_row = d_rows[p] + (j + lane) * width;
            if (stack.inverse_norms)
                through_unit(stack.row(p, j + lane), stack.inverse_norms[p * stack.samples + j + lane], d_unit, width,
                             d_row);
            else
                std::copy(d_unit, d_unit + width, d_row);
        }
}

}  // namespace

extern "C" {

// Of `count` arrays [samples, width] at `rows`: units [count, samples, width] of length 1 and inverse_norms
// [count, samples], or null for rows that are taken as they are; and what `Held` has of them.
void prepare_block(int64_t count, int64_t threads, int64_t samples, int64_t width, float* units,
                   float* inverse_norms, void* members, const float* row_0, const float* row_1, const float* row_2,
                   const float* row_3, const float* row_4, const float* row_5, const float* row_6,
                   const float* row_7) {
    const std::array<const float*, 8> rows{row_0, row_1, row_2, row_3, row_4, row_5, row_6, row_7};
    const Stack stack{units, inverse_norms, samples, width};
    with_count(count, [&](auto c) {
        const Held<c> held{(typename Held<c>::Of*)members, nullptr, samples};
        in_pieces(blocks(samples), 1, enough(threads, samples * width), [=](int64_t block, int64_t) {
            const int64_t first = block * LANES;
            for (int m = 0; m < c; ++m)
                for (int64_t j = first; j < first + until(first, samples); ++j)
                    normalise(stack, m, j, rows[m] + j * width);
            prepare<c>(stack, held, first);
        });
    });
}

// Adds the exponentials of every anchor's tuples but its own to sums [count, all anchors], of which the tile's come after
// first_anchor. An anchor's place plus shift is that of its sample among the samples, if there; its own exponentials go to
// own_powers [count, all anchors].
void paired_sums(int64_t count, int64_t threads, float* upper, float* lower, int64_t anchors, int64_t samples,
                 int64_t first_anchor, int64_t all_anchors, double scale, double middle, void* members,
                 int64_t shift, float* sums, float* own_powers) {
    const Tables tables{upper, lower, anchors, samples};
    const Logit logit{(float)scale, (float)middle};
    const All all{first_anchor, all_anchors};
    with_count(count, [&](auto c) {
        const Held<c> held{(typename Held<c>::Of*)members, nullptr, samples};
        const int64_t strips = blocks(anchors);
        in_pieces(c * strips, 1, enough(threads, c * anchors * samples), [=](int64_t first, int64_t) {
            const int64_t i = first % strips * LANES;
            add_sums<c>(tables, logit, held, all, {shift}, first / strips, i, sums, own_powers);
        });
    });
}

// Adds the gradients of the tables to d_upper and d_lower, which may be one, and those of the members' own products to
// `own_sums`. factors [count, all anchors]: what the exponentials are multiplied with. own_weights [count, all anchors]:
// the gradients of the positives' scores. totals [count, samples]: added to, in places of their own for every anchor's
// modality.
void paired_gradients(int64_t count, int64_t threads, float* upper, float* lower, float* d_upper, float* d_lower,
                      int64_t anchors, int64_t samples, int64_t first_anchor, int64_t all_anchors, double scale,
                      double middle, void* members, int64_t shift, void* own_sums,
                      const float* factors, const float* own_weights, Totals* totals) {
    const Tables tables{upper, lower, anchors, samples}, d_tables{d_upper, d_lower, anchors, samples};
    const Logit logit{(float)scale, (float)middle};
    const All all{first_anchor, all_anchors};
    with_count(count, [&](auto c) {
        const Held<c> held{(typename Held<c>::Of*)members, (typename Held<c>::Sums*)own_sums, samples};
        const int64_t parts = blocks(samples);
        // one modality after the other: in one table two anchors' modalities meet
        for (int m = 0; m < c; ++m)
            in_pieces(parts, 1, enough(threads, anchors * samples), [=](int64_t first, int64_t) {
                add_gradients<c>(tables, d_tables, logit, held, all, {shift}, m, first * LANES, factors, own_weights,
                                 totals[m * samples + first]);
            });
    });
}

// d_rows: `count` arrays [samples, width] for the gradients of `prepare_block`'s rows, from those of the units, which
// are overwritten, and own_sums.
void finish_block(int64_t count, int64_t threads, int64_t samples, int64_t width, float* units, float* inverse_norms,
                  void* members, void* own_sums, float* d_units, float* row_0, float* row_1, float* row_2,
                  float* row_3, float* row_4, float* row_5, float* row_6, float* row_7) {
    const std::array<float*, 8> d_rows{row_0, row_1, row_2, row_3, row_4, row_5, row_6, row_7};
    const Stack stack{units, inverse_norms, samples, width};
    with_count(count, [&](auto c) {
        const Held<c> held{(typename Held<c>::Of*)members, (typename Held<c>::Sums*)own_sums, samples};
        in_pieces(blocks(samples), 1, enough(threads, samples * width),
                  [=](int64_t block, int64_t) { finish<c>(stack, held, block * LANES, d_units, d_rows.data()); });
    });
}

}  // extern "C"
