// `svd3x3` of float32 matrices on a CPU, one in each lane: svd3x3_torch.py.
#include "native/parallel.h"
#include "small_linalg/jacobi.h"

namespace {

constexpr int64_t PIECE = 4096;  // matrices that a thread takes at a time: fewer are not worth starting one

template <class Work>
void for_each_lanes(int64_t samples, int64_t threads, Work work) {
    in_pieces(samples, PIECE, threads, [work](int64_t first, int64_t last) {
        for (; first < last; first += LANES) work(first, int(last - first < LANES ? last - first : LANES));
    });
}

// 1 / x, and 0 where x is rounding: singular values are good to 12 eps of the largest.
Lanes inverse(Lanes x) { return absolute(x) > 32 * EPS ? 1.0f / x : Lanes{}; }

// The entries pq and qp of the matrix between U and Vh, from the turns' entries pq and the values over the largest.
struct Entries {
    Lanes pq, qp;

    Entries(Lanes turn_u, Lanes turn_v, Lanes s_p, Lanes s_q) {
        const Lanes apart = (turn_u + turn_v) * inverse(s_q - s_p), together = (turn_u - turn_v) * inverse(s_q + s_p);
        pq = apart + together;
        qp = apart - together;
    }
};

}  // namespace

extern "C" {

// a [N, 3, 3] -> u [N, 3, 3], s [N, 3], vh [N, 3, 3].
void svd3x3(const float* a, int64_t samples, int64_t threads, float* u, float* s, float* vh) {
    for_each_lanes(samples, threads, [=](int64_t first, int count) {
        Frame frame = jacobi_frame(read_matrix(a + 9 * first, count));
        frame.u.c = frame.u.c * with_sign(splat(1), frame.s.z);
        frame.s.y = at_most(frame.s.y, frame.s.x);  // rounding may have left equal values out of order
        frame.s.z = at_most(absolute(frame.s.z), frame.s.y);
        write_matrix(u + 9 * first, count, frame.u);
        write_vector(s + 3 * first, 3, count, frame.s);
        write_matrix(vh + 9 * first, count, transposed(frame.v));
    });
}

// Their gradients -> d_a [N, 3, 3].
void svd3x3_backward(const float* d_u, const float* d_s, const float* d_vh, const float* u, const float* s,
                     const float* vh, int64_t samples, int64_t threads, float* d_a) {
    for_each_lanes(samples, threads, [=](int64_t first, int count) {
        const auto matrix = [=](const float* from) { return read_matrix(from + 9 * first, count); };
        const Matrix left = matrix(u), right = matrix(vh);
        const Vector values = read_vector(s + 3 * first, 3, count), d_values = read_vector(d_s + 3 * first, 3, count);
        const Vector turn_u = axial(transposed(left) * matrix(d_u)), turn_v = axial(right * transposed(matrix(d_vh)));
        const Lanes largest = at_least(values.x, splat(TINY));
        const Vector relative = values * (1.0f / largest);
        const Entries zy{turn_u.x, turn_v.x, relative.z, relative.y}, xz{turn_u.y, turn_v.y, relative.x, relative.z},
            yx{turn_u.z, turn_v.z, relative.y, relative.x};
        const Matrix off_diagonal{{Lanes{}, yx.pq, xz.qp}, {yx.qp, Lanes{}, zy.pq}, {xz.pq, zy.qp, Lanes{}}};
        Matrix middle = off_diagonal * (0.5f / largest);
        middle.a.x = d_values.x;
        middle.b.y = d_values.y;
        middle.c.z = d_values.z;
        write_matrix(d_a + 9 * first, count, left * middle * right);
    });
}

}  // extern "C"
