// "paired" negatives: the functions of contract.py's `Backend`, one score a library (SCORE_HEADER).
//
// A score's header has, for N members of LANES samples,
//     Members<N>    from their Gram matrix; SUMS numbers are added up for its gradient, and own(sums, out) makes them that
//                   of the products (s, t) for s < t, row by row
//     Score<N>      of an anchor's N products and Members: value; gradient(weight, members, d_products, sums) adds to sums
// Members consist of Lanes alone.
//
// products [COUNT, COUNT - 1, a, b]: [m, slot] are those of the rows' modality m with the columns' modality
// slot + (slot >= m). A piece of work is LANES rows with all columns; lanes are columns. What is added up over rows goes to
// places of the piece's own, which the caller adds up, so that roundings do not depend on the number of threads.

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include SCORE_HEADER
#include "native/parallel.h"
#include "native/rows.h"

namespace {

constexpr int64_t PAIRS_PER_THREAD = 4096;
constexpr int KINDS = 3;  // sums, moments, totals

int64_t blocks(int64_t count) { return (count + LANES - 1) / LANES; }
int until(int64_t begin, int64_t end) { return int(end - begin < LANES ? end - begin : LANES); }

inline Bits counted() {
    Bits lanes;
    for (int lane = 0; lane < LANES; ++lane) lanes[lane] = lane;
    return lanes;
}

inline Lanes first_lanes(Lanes x, int count) { return counted() < count ? x : splat(0); }

inline Lanes load_first(const float* from, int count) {
    if (count == LANES) return load(from);
    Lanes value{};
    __builtin_memcpy(&value, from, 4 * count);
    return value;
}

inline void store_first(float* to, Lanes value, int count) {
    if (count == LANES)
        store(to, value);
    else
        __builtin_memcpy(to, &value, 4 * count);
}

// work(std::integral_constant of count), of those that the score takes
template <class Work>
void with_count(int64_t count, Work work) {
    switch (count) {
#if LEAST_COUNT <= 2 && MOST_COUNT >= 2
        case 2: return work(std::integral_constant<int, 2>());
#endif
#if LEAST_COUNT <= 3 && MOST_COUNT >= 3
        case 3: return work(std::integral_constant<int, 3>());
#endif
#if MOST_COUNT >= 8
        case 4: return work(std::integral_constant<int, 4>());
        case 5: return work(std::integral_constant<int, 5>());
        case 6: return work(std::integral_constant<int, 6>());
        case 7: return work(std::integral_constant<int, 7>());
        case 8: return work(std::integral_constant<int, 8>());
#endif
    }
}

int64_t enough(int64_t threads, int64_t pairs) { return std::min(threads, 1 + pairs / PAIRS_PER_THREAD); }

constexpr int pairs_of(int count) { return count * (count - 1) / 2; }
constexpr int pair_at(int count, int p, int q) { return p * (2 * count - p - 1) / 2 + q - p - 1; }
// Of the member at `slot` of an anchor of modality m, and the other way round.
constexpr int member(int m, int slot) { return slot + (slot >= m); }
constexpr int slot_of(int m, int other) { return other - (other > m); }

struct Anchors {
    int64_t mask;

    bool has(int m) const { return mask >> m & 1; }
    int64_t count() const { return __builtin_popcountll(mask); }
    int64_t place(int m) const { return __builtin_popcountll(mask & ((int64_t(1) << m) - 1)); }
};

// The members of samples [anchors][blocks of samples].
template <int COUNT>
struct Held {
    using Of = Members<COUNT - 1>;
    const Of* members;
    int64_t samples;

    const Of& of(int64_t k, int64_t block) const { return members[k * blocks(samples) + block]; }

    // One sample's in all lanes.
    Of splatted(int64_t k, int64_t j) const {
        constexpr int NUMBERS = sizeof(Of) / sizeof(Lanes);
        Of out;
        const float* const from = (const float*)&of(k, j / LANES) + j % LANES;
        Lanes* const to = (Lanes*)&out;
        for (int n = 0; n < NUMBERS; ++n) to[n] = splat(from[n * LANES]);
        return out;
    }
};

template <int COUNT>
struct Table {
    const float* products;
    int64_t a, b;

    int64_t place(int m, int slot, int64_t i, int64_t j) const { return ((m * (COUNT - 1) + slot) * a + i) * b + j; }

    // Of an anchor of the rows (i, modality m) with members of LANES columns, and of LANES anchors of the columns with
    // members of a row.
    void of_row(int m, int64_t i, int64_t j, int inside, Lanes (&to)[COUNT - 1]) const {
        for (int slot = 0; slot < COUNT - 1; ++slot) to[slot] = load_first(products + place(m, slot, i, j), inside);
    }
    void of_column(int m, int64_t i, int64_t j, int inside, Lanes (&to)[COUNT - 1]) const {
        for (int slot = 0; slot < COUNT - 1; ++slot) {
            const int row = member(m, slot);
            to[slot] = load_first(products + place(row, slot_of(row, m), i, j), inside);
        }
    }
};

struct Logit {
    float scale, middle, bias;

    Lanes power(Lanes score) const { return exp2((score - middle) * scale); }
    Lanes of(Lanes score) const { return score * scale + bias; }
};

// log2(1 + u) for u in [0, 1]
inline Lanes log2_of_one_plus(Lanes u) {
    const Lanes t = u / (u + 2.0f), t2 = t * t;
    Lanes series = t2 * (1.0f / 13) + 1.0f / 11;
    series = series * t2 + 1.0f / 9;
    series = series * t2 + 1.0f / 7;
    series = series * t2 + 1.0f / 5;
    series = series * t2 + 1.0f / 3;
    series = series * t2 + 1.0f;
    return t * series * 2.8853901f;
}

struct Sigmoid {
    Lanes softplus, value;  // log2(1 + 2^z), 1/(1 + 2^-z)

    explicit Sigmoid(Lanes z) {
        const Lanes small = exp2(-absolute(z)), over = 1.0f / (small + 1.0f);
        softplus = at_least(z, splat(0)) + log2_of_one_plus(small);
        value = z > 0.0f ? over : small * over;
    }
};

// What is added up of a score, by anchor or by tuple.
struct Kinds {
    Lanes of[KINDS];

    void add(const Kinds& other) {
        for (int kind = 0; kind < KINDS; ++kind) of[kind] += other.of[kind];
    }
};

struct Form {
    Logit logit;
    bool sigmoid;

    // center: the positive's score.
    Kinds kinds(Lanes score, Lanes center) const {
        if (sigmoid) {
            const Sigmoid s(logit.of(score));
            return {{s.softplus, s.value * score, s.value}};
        }
        const Lanes power = logit.power(score);
        return {{power, power * (score - center), score - logit.middle}};
    }
    Lanes weight(Lanes score, Lanes factor, Lanes level) const {
        return (sigmoid ? Sigmoid(logit.of(score)).value : logit.power(score)) * factor - level;
    }
};

inline Kinds kept(Kinds kinds, int inside, int64_t positive) {
    for (Lanes& x : kinds.of) {
        if (inside < LANES) x = first_lanes(x, inside);
        if ((uint64_t)positive < LANES) x[positive] = 0;
    }
    return kinds;
}

// Numbers [anchors, n], or none.
struct Numbers {
    const float* at;
    int64_t n;

    float one(int64_t k, int64_t i) const { return at ? at[k * n + i] : 0; }
    Lanes lanes(int64_t k, int64_t i, int inside) const {
        return at ? load_first(at + k * n + i, inside) : splat(0);
    }
};

struct Factors {
    Numbers anchor, tuple, anchor_level, tuple_level;

    Factors(const float* a, const float* t, const float* al, const float* tl, int64_t anchors, int64_t tuples)
        : anchor{a, anchors}, tuple{t, tuples}, anchor_level{al, anchors}, tuple_level{tl, tuples} {}
};

template <int COUNT>
void add_kinds(const Table<COUNT>& table, const Held<COUNT>& rows, const Held<COUNT>& columns, const Anchors& anchors,
               const Form& form, bool two_ways, bool diagonal, bool both, const float* row_centers,
               const float* column_centers, float* by_row, float* by_column, int64_t strip) {
    const int64_t first = strip * LANES, count = anchors.count(), b = table.b;
    const int height = until(first, table.a);
    Kinds of_anchors[COUNT][LANES], of_tuples[COUNT][LANES];
    std::fill(&of_anchors[0][0], &of_anchors[0][0] + COUNT * LANES, Kinds{});
    std::fill(&of_tuples[0][0], &of_tuples[0][0] + COUNT * LANES, Kinds{});
    // [way, kind, anchor, b], of this strip alone
    float* const own = by_column + strip * 2 * KINDS * count * b;
    for (int64_t j = 0; j < b; j += LANES) {
        const int inside = until(j, b);
        const Lanes column_center = column_centers ? load_first(column_centers + j, inside) : splat(0);
        for (int m = 0; m < COUNT; ++m) {
            if (!anchors.has(m)) continue;
            const int64_t k = anchors.place(m);
            const auto members = columns.of(k, j / LANES);
            Kinds by_tuple{}, by_anchor{};
            Lanes products[COUNT - 1];
            for (int row = 0; row < height; ++row) {
                const int64_t i = first + row, positive = diagonal ? i - j : -1;
                const Lanes row_center = splat(row_centers ? row_centers[i] : 0);
                table.of_row(m, i, j, inside, products);
                const Lanes score = Score<COUNT - 1>(products, members).value;
                of_anchors[k][row].add(kept(form.kinds(score, row_center), inside, positive));
                if (both) by_tuple.add(kept(form.kinds(score, column_center), inside, positive));
            }
            for (int row = 0; two_ways && row < height; ++row) {
                const int64_t i = first + row;
                table.of_column(m, i, j, inside, products);
                const Lanes score = Score<COUNT - 1>(products, rows.splatted(k, i)).value;
                by_anchor.add(form.kinds(score, column_center));
                if (both)
                    of_tuples[k][row].add(
                        kept(form.kinds(score, splat(row_centers ? row_centers[i] : 0)), inside, -1));
            }
            for (int kind = 0; kind < KINDS; ++kind) {
                if (both) store_first(own + (kind * count + k) * b + j, by_tuple.of[kind], inside);
                if (two_ways) store_first(own + ((KINDS + kind) * count + k) * b + j, by_anchor.of[kind], inside);
            }
        }
    }
    for (int64_t k = 0; k < count; ++k)
        for (int row = 0; row < height; ++row)
            for (int kind = 0; kind < KINDS; ++kind) {
                by_row[(kind * count + k) * table.a + first + row] = sum(of_anchors[k][row].of[kind]);
                if (two_ways && both)
                    by_row[((KINDS + kind) * count + k) * table.a + first + row] = sum(of_tuples[k][row].of[kind]);
            }
}

// Rows whose gradients are held at a time.
constexpr int rows_of(int count) { return count <= 4 ? LANES : 4; }

template <int COUNT>
void gradients(const Table<COUNT>& table, float* out, const Held<COUNT>& rows, const Held<COUNT>& columns,
               const Anchors& anchors, const Form& form, bool two_ways, bool diagonal, const Factors& of_rows,
               const Factors& of_columns, float* row_sums, float* column_sums, int64_t strip) {
    constexpr int N = COUNT - 1, SUMS = Members<N>::SUMS, ROWS = rows_of(COUNT);
    const int64_t begin = strip * LANES, count = anchors.count(), b = table.b, row_blocks = blocks(table.a);
    const int64_t end = begin + until(begin, table.a), column_blocks = blocks(b);
    // [anchor, block, SUMS, LANES]: as `Held` has its samples; those of columns of this strip alone
    float* const own = column_sums + strip * count * column_blocks * SUMS * LANES;
    std::vector<Lanes> memory(two_ways ? COUNT * LANES * SUMS : 0);
    auto sums_of_row = [&](int64_t k, int64_t i) { return memory.data() + (k * LANES + i - begin) * SUMS; };
    for (int64_t j = 0; j < b; j += LANES) {
        const int inside = until(j, b);
        Lanes sums[COUNT][SUMS] = {};
        for (int64_t first = begin; first < end; first += ROWS) {
            const int height = int(std::min<int64_t>(ROWS, end - first));
            Lanes held[COUNT][N][ROWS];
            if (two_ways || anchors.count() < COUNT) std::fill(&held[0][0][0], &held[0][0][0] + COUNT * N * ROWS, Lanes{});
            for (int m = 0; m < COUNT; ++m) {
                if (!anchors.has(m)) continue;
                const int64_t k = anchors.place(m);
                const auto members = columns.of(k, j / LANES);
                const Lanes tuple = of_rows.tuple.lanes(k, j, inside), level = of_rows.tuple_level.lanes(k, j, inside);
                for (int row = 0; row < height; ++row) {
                    const int64_t i = first + row, positive = diagonal ? i - j : -1;
                    Lanes products[N], d_products[N];
                    table.of_row(m, i, j, inside, products);
                    const Score<N> score(products, members);
                    Lanes weight = form.weight(score.value, tuple + of_rows.anchor.one(k, i),
                                               level + of_rows.anchor_level.one(k, i));
                    if (inside < LANES) weight = first_lanes(weight, inside);
                    if ((uint64_t)positive < LANES) weight[positive] = 0;
                    score.gradient(weight, members, d_products, sums[k]);
                    for (int slot = 0; slot < N; ++slot) held[m][slot][row] = d_products[slot];
                }
            }
            for (int m = 0; two_ways && m < COUNT; ++m) {
                if (!anchors.has(m)) continue;
                const int64_t k = anchors.place(m);
                const Lanes anchor = of_columns.anchor.lanes(k, j, inside);
                const Lanes level = of_columns.anchor_level.lanes(k, j, inside);
                for (int row = 0; row < height; ++row) {
                    const int64_t i = first + row;
                    Lanes products[N], d_products[N];
                    table.of_column(m, i, j, inside, products);
                    const auto members = rows.splatted(k, i);
                    const Score<N> score(products, members);
                    Lanes weight = form.weight(score.value, anchor + of_columns.tuple.one(k, i),
                                               level + of_columns.tuple_level.one(k, i));
                    if (inside < LANES) weight = first_lanes(weight, inside);
                    score.gradient(weight, members, d_products, sums_of_row(k, i));
                    for (int slot = 0; slot < N; ++slot) {
                        const int other = member(m, slot);
                        held[other][slot_of(other, m)][row] += d_products[slot];
                    }
                }
            }
            for (int m = 0; m < COUNT; ++m)
                for (int slot = 0; slot < N; ++slot)
                    for (int row = 0; row < height; ++row)
                        store_first(out + table.place(m, slot, first + row, j), held[m][slot][row], inside);
        }
        for (int64_t k = 0; k < count; ++k)
            for (int entry = 0; entry < SUMS; ++entry)
                store(own + ((k * column_blocks + j / LANES) * SUMS + entry) * LANES, sums[k][entry]);
    }
    for (int64_t k = 0; two_ways && k < count; ++k)
        for (int64_t i = begin; i < end; ++i)
            for (int entry = 0; entry < SUMS; ++entry)
                row_sums[((k * row_blocks + strip) * SUMS + entry) * LANES + i - begin] += sum(sums_of_row(k, i)[entry]);
}

// The Gram matrix of the members of LANES samples from j on, for anchors of modality m.
template <int COUNT>
void read_gram(const float* inner, int64_t samples, int64_t j, int m, Lanes (&gram)[COUNT - 1][COUNT - 1]) {
    const int inside = until(j, samples);
    for (int s = 0; s < COUNT - 1; ++s) {
        gram[s][s] = splat(1);
        for (int t = s + 1; t < COUNT - 1; ++t)
            gram[s][t] = gram[t][s] =
                load_first(inner + pair_at(COUNT, member(m, s), member(m, t)) * samples + j, inside);
    }
}

// The positives of LANES samples: modality 0 with the others.
template <int COUNT>
struct Positives {
    Lanes products[COUNT - 1];
    Members<COUNT - 1> members;
    Score<COUNT - 1> score;

    Positives(const float* inner, int64_t samples, int64_t j)
        : members(gram(inner, samples, j)), score(read(inner, samples, j), members) {}

   private:
    static Members<COUNT - 1> gram(const float* inner, int64_t samples, int64_t j) {
        Lanes of_members[COUNT - 1][COUNT - 1];
        read_gram<COUNT>(inner, samples, j, 0, of_members);
        return Members<COUNT - 1>(of_members);
    }
    const Lanes (&read(const float* inner, int64_t samples, int64_t j))[COUNT - 1] {
        for (int slot = 0; slot < COUNT - 1; ++slot)
            products[slot] = load_first(inner + slot * samples + j, until(j, samples));
        return products;
    }
};

}  // namespace

extern "C" {

// Floats of `Members` and of their sums for LANES samples, and LANES.
void block_sizes(int64_t count, int64_t* sizes) {
    with_count(count, [&](auto c) {
        sizes[0] = sizeof(Members<c - 1>) / 4;
        sizes[1] = Members<c - 1>::SUMS * LANES;
        sizes[2] = LANES;
    });
}

// Of `count` arrays [samples, width]: units [count, samples, width] and inverse_norms [count, samples], or null for rows
// that are taken as they are; and inner [pairs, samples].
void block_units(int64_t count, int64_t threads, int64_t samples, int64_t width, float* units, float* inverse_norms,
                 const float* row_0, const float* row_1, const float* row_2, const float* row_3, const float* row_4,
                 const float* row_5, const float* row_6, const float* row_7) {
    const std::array<const float*, 8> rows{row_0, row_1, row_2, row_3, row_4, row_5, row_6, row_7};
    in_pieces(blocks(samples), 1, enough(threads, samples * width), [=](int64_t block, int64_t) {
        for (int64_t m = 0; m < count; ++m)
            for (int64_t j = block * LANES; j < std::min((block + 1) * LANES, samples); ++j) {
                const int64_t place = m * samples + j;
                const float* const from = rows[m] + j * width;
                if (inverse_norms)
                    inverse_norms[place] = to_unit(from, width, units + place * width);
                else
                    std::copy(from, from + width, units + place * width);
            }
    });
}

void block_inner(int64_t count, int64_t threads, int64_t samples, int64_t width, int64_t stride, const float* units,
                 float* inner) {
    in_pieces(blocks(samples), 1, enough(threads, samples * width), [=](int64_t block, int64_t) {
        for (int64_t j = block * LANES; j < std::min((block + 1) * LANES, samples); ++j) {
            float* to = inner + j;
            for (int64_t p = 0; p < count; ++p)
                for (int64_t q = p + 1; q < count; ++q, to += samples)
                    *to = dot(units + p * stride + j * width, units + q * stride + j * width, width);
        }
    });
}

// members: of every anchor modality and LANES samples.
void block_members(int64_t count, int64_t threads, int64_t anchors, int64_t samples, const float* inner, void* members) {
    with_count(count, [&](auto c) {
        in_pieces(blocks(samples), 1, enough(threads, samples * c * c), [=](int64_t block, int64_t) {
            for (int m = 0; m < c; ++m) {
                if (!Anchors{anchors}.has(m)) continue;
                Lanes gram[c - 1][c - 1];
                read_gram<c>(inner, samples, block * LANES, m, gram);
                ((Members<c - 1>*)members)[Anchors{anchors}.place(m) * blocks(samples) + block] = Members<c - 1>(gram);
            }
        });
    });
}

// The scores of positives [samples].
void block_positives(int64_t count, int64_t samples, const float* inner, float* scores) {
    with_count(count, [&](auto c) {
        for (int64_t j = 0; j < samples; j += LANES)
            store_first(scores + j, Positives<c>(inner, samples, j).score.value, until(j, samples));
    });
}

// d_inner [pairs, samples]: weight [samples] times the gradient of the positives' scores.
void block_positives_gradient(int64_t count, int64_t samples, const float* inner, const float* weight, float* d_inner) {
    with_count(count, [&](auto c) {
        for (int64_t j = 0; j < samples; j += LANES) {
            const int inside = until(j, samples);
            const Positives<c> positives(inner, samples, j);
            Lanes out[pairs_of(c) + 1], d_products[c - 1], sums[Members<c - 1>::SUMS] = {};
            positives.score.gradient(load_first(weight + j, inside), positives.members, d_products, sums);
            for (int slot = 0; slot < c - 1; ++slot) out[slot] = d_products[slot];
            if (c > 2) positives.members.own(sums, out + c - 1);
            for (int pair = 0; pair < pairs_of(c); ++pair) store_first(d_inner + pair * samples + j, out[pair], inside);
        }
    });
}

// by_row [2, KINDS, anchors, a]: of the rows as anchors of their own way, and as tuples of the columns'. by_column
// [strips of rows, 2, KINDS, anchors, b]: of the columns as tuples of the rows' way, and as anchors of their own.
void block_forward(int64_t count, int64_t threads, const float* products, int64_t a, int64_t b, int64_t anchors,
                   int64_t two_ways, int64_t diagonal, int64_t both, int64_t sigmoid, double scale, double middle,
                   double bias, const void* row_members, const void* column_members, const float* row_centers,
                   const float* column_centers, float* by_row, float* by_column) {
    const Form form{{(float)scale, (float)middle, (float)bias}, sigmoid != 0};
    with_count(count, [&](auto c) {
        using Of = typename Held<c>::Of;
        const Table<c> table{products, a, b};
        const Held<c> rows{(const Of*)row_members, a}, columns{(const Of*)column_members, b};
        in_pieces(blocks(a), 1, enough(threads, c * a * b), [=](int64_t strip, int64_t) {
            add_kinds<c>(table, rows, columns, Anchors{anchors}, form, two_ways, diagonal, both, row_centers,
                         column_centers, by_row, by_column, strip);
        });
    });
}

// out: like products, which it may be. row_sums [anchors, blocks of rows, SUMS, LANES]: added to. column_sums [strips of
// rows, anchors, blocks of columns, SUMS, LANES].
void block_backward(int64_t count, int64_t threads, const float* products, float* out, int64_t a, int64_t b,
                    int64_t anchors, int64_t two_ways, int64_t diagonal, int64_t sigmoid, double scale, double middle,
                    double bias, const void* row_members, const void* column_members, const float* row_anchor,
                    const float* row_tuple, const float* row_anchor_level, const float* row_tuple_level,
                    const float* column_anchor, const float* column_tuple, const float* column_anchor_level,
                    const float* column_tuple_level, float* row_sums, float* column_sums) {
    const Form form{{(float)scale, (float)middle, (float)bias}, sigmoid != 0};
    const Factors of_rows(row_anchor, row_tuple, row_anchor_level, row_tuple_level, a, b);
    const Factors of_columns(column_anchor, column_tuple, column_anchor_level, column_tuple_level, b, a);
    with_count(count, [&](auto c) {
        using Of = typename Held<c>::Of;
        const Table<c> table{products, a, b};
        const Held<c> rows{(const Of*)row_members, a}, columns{(const Of*)column_members, b};
        in_pieces(blocks(a), 1, enough(threads, c * a * b), [=](int64_t strip, int64_t) {
            gradients<c>(table, out, rows, columns, Anchors{anchors}, form, two_ways, diagonal, of_rows, of_columns,
                         row_sums, column_sums, strip);
        });
    });
}

// d_inner [pairs, samples] from the sums [anchors, blocks of samples, SUMS, LANES].
void block_own(int64_t count, int64_t anchors, int64_t samples, const void* members, const float* sums, float* d_inner) {
    with_count(count, [&](auto c) {
        constexpr int N = c - 1, SUMS = Members<N>::SUMS;
        const Held<c> held{(const Members<N>*)members, samples};
        for (int64_t j = 0; j < samples; j += LANES) {
            Lanes total[pairs_of(c)] = {};
            for (int m = 0; m < c && c > 2; ++m) {
                if (!Anchors{anchors}.has(m)) continue;
                const int64_t k = Anchors{anchors}.place(m), block = k * blocks(samples) + j / LANES;
                Lanes own[pairs_of(c)], given[SUMS];
                for (int entry = 0; entry < SUMS; ++entry) given[entry] = load(sums + (block * SUMS + entry) * LANES);
                held.of(k, j / LANES).own(given, own);
                const Lanes* next = own;
                for (int s = 0; s < N; ++s)
                    for (int t = s + 1; t < N; ++t) total[pair_at(c, member(m, s), member(m, t))] += *next++;
            }
            for (int pair = 0; pair < pairs_of(c); ++pair)
                store_first(d_inner + pair * samples + j, total[pair], until(j, samples));
        }
    });
}

// Gradients of the rows that `block_units` had, from those of the units and, through their products with each other,
// d_inner.
void block_through_units(int64_t count, int64_t threads, int64_t samples, int64_t width, const float* units,
                         const float* inverse_norms, const float* d_units, float* row_0, float* row_1, float* row_2,
                         float* row_3, float* row_4, float* row_5, float* row_6, float* row_7) {
    const std::array<float*, 8> d_rows{row_0, row_1, row_2, row_3, row_4, row_5, row_6, row_7};
    in_pieces(blocks(samples), 1, enough(threads, samples * width), [=](int64_t block, int64_t) {
        for (int64_t m = 0; m < count; ++m)
            for (int64_t j = block * LANES; j < std::min((block + 1) * LANES, samples); ++j) {
                const int64_t place = m * samples + j;
                through_unit(units + place * width, inverse_norms[place], d_units + place * width, width,
                             d_rows[m] + j * width);
            }
    });
}

// Adds d_inner times the other units to d_units, stride apart by modality as the units are.
void block_add_own(int64_t count, int64_t threads, int64_t samples, int64_t width, const float* units,
                   const float* d_inner, float* d_units) {
    in_pieces(blocks(samples), 1, enough(threads, samples * width), [=](int64_t block, int64_t) {
        for (int64_t j = block * LANES; j < std::min((block + 1) * LANES, samples); ++j) {
            const float* factor = d_inner + j;
            for (int64_t p = 0; p < count; ++p)
                for (int64_t q = p + 1; q < count; ++q, factor += samples) {
                    const float *const x = units + (p * samples + j) * width, *const y = units + (q * samples + j) * width;
                    float *const d_x = d_units + (p * samples + j) * width, *const d_y = d_units + (q * samples + j) * width;
                    for (int64_t d = 0; d < width; ++d) d_x[d] += *factor * y[d];
                    for (int64_t d = 0; d < width; ++d) d_y[d] += *factor * x[d];
                }
        }
    });
}

}  // extern "C"
