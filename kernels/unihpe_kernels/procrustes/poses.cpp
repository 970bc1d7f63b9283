// `procrustes` and `pa_mpjpe` of float32 poses on a CPU, one in each lane: torch_backend.py, in its letters.
#include <vector>

#include "native/parallel.h"
#include "small_linalg/polar.h"

namespace {

constexpr int64_t PIECE = 1024;  // poses that a thread takes at a time: fewer are not worth starting one

struct Poses {
    const float *pred, *target;  // [N, J, 3]
    const float* weights;        // [N, J], or null: all 1
    int64_t samples, joints;
};

// Gradients in R^T K, as the matrix v -> turn x v + size v, and in -sum w |x|^2 / 2.
struct Change {
    Vector turn;
    Lanes size, shrink;

    Vector times(Vector v) const { return cross(turn, v) + v * size; }
    Vector transposed_times(Vector v) const { return cross(v, turn) + v * size; }
};

// As many poses as there are lanes, centred.
struct Pair {
    const Poses& poses;
    int64_t joints;
    int64_t first = 0;  // the first of its poses
    int count = 0;      // of its poses; the lanes from there on repeat the last
    std::vector<Vector> x, y;
    std::vector<Lanes> w;
    Vector x_mean{}, y_mean{};
    Lanes total{};             // of the weights; 1 where that is 0
    Lanes inverse_variance{};  // 1 / sum w |x|^2; 0 where the prediction has no variance
    Matrix k{};                // 0 where the prediction has no variance

    explicit Pair(const Poses& poses)
        : poses(poses), joints(poses.joints), x(joints), y(joints), w(joints, splat(1)) {}

    void take(int64_t from, int64_t last) {
        first = from;
        count = int(last - from < LANES ? last - from : LANES);
        for (int64_t j = 0; j < joints; ++j) {
            // those after them: read across the lanes, they come in an order that a CPU does not foresee
            for (const float* next : {poses.pred, poses.target})
                for (int line = 0; line < 3 * LANES; line += 16)
                    __builtin_prefetch(next + 3 * ((first + LANES) * joints + j * LANES) + line);
            x[j] = read(poses.pred, j);
            y[j] = read(poses.target, j);
        }
        if (poses.weights) leave_out_missing();
        centre();
        multiply();
    }

    // Of poses [N, J, 3], joint j of these.
    Vector read(const float* from, int64_t j) const {
        return read_vector(from + 3 * (first * joints + j), 3 * joints, count);
    }
    void write(float* to, int64_t j, Vector value) const {
        write_vector(to + 3 * (first * joints + j), 3 * joints, count, value);
    }

    void leave_out_missing() {
        for (int64_t j = 0; j < joints; ++j) {
            w[j] = at_least(read_lanes(poses.weights + first * joints + j, joints, count), Lanes{});
            const Bits missing = w[j] == 0.0f;
            x[j] = choose(missing, Vector{}, x[j]);
            y[j] = choose(missing, Vector{}, y[j]);
        }
    }

    void centre() {
        total = Lanes{};
        x_mean = y_mean = Vector{};
        for (int64_t j = 0; j < joints; ++j) {
            total += w[j];
            x_mean = x_mean + x[j] * w[j];
            y_mean = y_mean + y[j] * w[j];
        }
        total = total == 0.0f ? splat(1) : total;
        x_mean = x_mean * (1.0f / total);
        y_mean = y_mean * (1.0f / total);
        for (int64_t j = 0; j < joints; ++j) {
            x[j] = x[j] - x_mean;
            y[j] = y[j] - y_mean;
        }
    }

    void multiply() {
        Lanes variance{};
        k = Matrix{};
        for (int64_t j = 0; j < joints; ++j) {
            const Vector weighted = x[j] * w[j];
            variance += dot(x[j], weighted);
            k = k + outer(y[j], weighted);
        }
        // coordinates of equal joints differ from their mean by its rounding
        const Lanes rounding = dot(x_mean, x_mean) * total * (64 * EPS * EPS);
        const Lanes live = variance > rounding ? splat(1) : Lanes{};
        inverse_variance = live / (variance + (1.0f - live));
        k = k * live + Matrix{};  // a product: NaN stays; a sum: no -0, of which the rotation would not be I
    }

    Change through_alignment(const Matrix& r, Lanes s, Vector d_turn, Lanes d_scale) const {
        const Lanes size = d_scale * inverse_variance;
        return {polar_cotangent(transposed(r) * k, d_turn), size, size * s * 2.0f};
    }
};

// R and s; I and 1 where the prediction has no variance.
struct Alignment {
    Matrix r;
    Lanes maximum, s;  // maximum: trace(R^T K)

    Alignment(const Pair& pair, bool scaled) {
        const Frame frame = jacobi_frame(pair.k);
        r = rotation(frame);
        maximum = frame.s.x + frame.s.y + frame.s.z;
        s = scaled ? maximum * pair.inverse_variance + (pair.inverse_variance == 0.0f ? splat(1) : Lanes{}) : splat(1);
    }
};

template <class Work>
void for_each_pair(const Poses& poses, int64_t threads, Work work) {
    in_pieces(poses.samples, PIECE, threads, [pair = Pair(poses), work](int64_t first, int64_t last) mutable {
        for (; first < last; first += LANES) {
            pair.take(first, last);
            work(pair);
        }
    });
}

// The error of every pose and, where wanted, its gradient in the poses.
struct Error {
    float *error, *d_pred, *d_target;
    std::vector<Vector> turned, pull;  // in the prediction's frame: the target, and the residual or its gradient
    std::vector<Lanes> squares;

    void operator()(const Pair& pair) {
        const auto& [r, maximum, s] = Alignment(pair, true);
        Lanes sum{}, sum_of_squares{};
        const Matrix back = transposed(r);
        for (int64_t j = 0; j < pair.joints; ++j) {
            turned[j] = back * pair.y[j];
            pull[j] = turned[j] - pair.x[j] * s;
            squares[j] = dot(pull[j], pull[j]);
            sum_of_squares += squares[j];
            sum += root(squares[j]) * pair.w[j];
        }
        write_lanes(error + pair.first, 1, pair.count, sum / pair.total);
        if (!d_pred && !d_target) return;

        // A residual below rounding of the coordinates has no direction. The target's variance is what the alignment
        // explains of it and the residual's.
        const Lanes size = maximum * s / pair.total + sum_of_squares * (1.0f / float(pair.joints)) +
                           dot(pair.y_mean, pair.y_mean);
        const Lanes smallest = size * (256 * EPS * EPS) + TINY, inverse_total = 1.0f / pair.total;
        Vector mean{};  // of what acts through the translation
        Matrix moment{};
        for (int64_t j = 0; j < pair.joints; ++j) {
            const Lanes inverse = squares[j] > smallest ? inverse_total / root(squares[j]) : Lanes{};
            pull[j] = pull[j] * (inverse * pair.w[j]);
            mean = mean + pull[j];
            moment = moment + outer(pull[j], pair.x[j]);
        }
        mean = mean * inverse_total;
        const Change change = pair.through_alignment(r, s, axial(moment) * -s, -trace(moment));
        for (int64_t j = 0; d_pred && j < pair.joints; ++j) {
            const Vector d_x = change.transposed_times(turned[j]) + mean * s - pair.x[j] * change.shrink;
            pair.write(d_pred, j, d_x * pair.w[j] - pull[j] * s);
        }
        for (int64_t j = 0; d_target && j < pair.joints; ++j)
            pair.write(d_target, j, r * ((change.times(pair.x[j]) - mean) * pair.w[j] + pull[j]));
    }
};

}  // namespace

extern "C" {

// error [N]; d_pred and d_target [N, J, 3], null where not wanted.
void pa_mpjpe(const float* pred, const float* target, const float* weights, int64_t samples, int64_t joints,
              int64_t threads, float* error, float* d_pred, float* d_target) {
    const auto memory = std::vector<Vector>(joints);
    for_each_pair({pred, target, weights, samples, joints}, threads,
                  Error{error, d_pred, d_target, memory, memory, std::vector<Lanes>(joints)});
}

// rotation [N, 3, 3], scale [N], translation [N, 3]; aligned [N, J, 3], joint_errors [N, J] and error [N], or null.
void procrustes(const float* pred, const float* target, const float* weights, int64_t samples, int64_t joints,
                int64_t threads, int64_t scaled, float* rotation, float* scale, float* translation, float* aligned,
                float* joint_errors, float* error) {
    for_each_pair({pred, target, weights, samples, joints}, threads, [=](const Pair& pair) {
        const auto& [r, maximum, s] = Alignment(pair, scaled);
        write_matrix(rotation + 9 * pair.first, pair.count, r);
        write_lanes(scale + pair.first, 1, pair.count, s);
        write_vector(translation + 3 * pair.first, 3, pair.count, pair.y_mean - r * pair.x_mean * s);
        if (!aligned) return;
        Lanes sum{};
        for (int64_t j = 0; j < joints; ++j) {
            // x, but for the joints that are left out: those are aligned, too
            pair.write(aligned, j, r * (pair.read(pred, j) - pair.x_mean) * s + pair.y_mean);
            const Vector residual = r * pair.x[j] * s - pair.y[j];
            const Lanes length = pair.w[j] == 0.0f ? Lanes{} : root(dot(residual, residual));
            write_lanes(joint_errors + pair.first * joints + j, joints, pair.count, length);
            sum += length * pair.w[j];
        }
        write_lanes(error + pair.first, 1, pair.count, sum / pair.total);
    });
}

// From the gradients of those to d_pred and d_target [N, J, 3], null where not wanted.
void procrustes_backward(const float* pred, const float* target, const float* weights, int64_t samples, int64_t joints,
                         int64_t threads, int64_t scaled, const float* rotation, const float* scale, const float* d_rotation,
                         const float* d_scale, const float* d_translation, float* d_pred, float* d_target) {
    for_each_pair({pred, target, weights, samples, joints}, threads, [=](const Pair& pair) {
        const int64_t first = pair.first;
        const int count = pair.count;
        const Matrix r = read_matrix(rotation + 9 * first, count), back = transposed(r);  // to the prediction's frame
        const Lanes s = read_lanes(scale + first, 1, count);
        const Vector d_t = back * read_vector(d_translation + 3 * first, 3, count);  // t = mean(Y) - s R mean(X)
        const Matrix moment = back * read_matrix(d_rotation + 9 * first, count) + outer(d_t * -s, pair.x_mean);
        const Lanes d_s = scaled ? read_lanes(d_scale + first, 1, count) - dot(d_t, pair.x_mean) : Lanes{};
        const Change change = pair.through_alignment(r, s, axial(moment), d_s);
        const Vector d_mean = d_t * (1.0f / pair.total);
        for (int64_t j = 0; d_pred && j < pair.joints; ++j) {
            const Vector d_x = change.transposed_times(back * pair.y[j]) - d_mean * s - pair.x[j] * change.shrink;
            pair.write(d_pred, j, d_x * pair.w[j]);
        }
        for (int64_t j = 0; d_target && j < pair.joints; ++j)
            pair.write(d_target, j, r * ((change.times(pair.x[j]) + d_mean) * pair.w[j]));
    });
}

}  // extern "C"
