// Vectors and 3x3 matrices, one in each lane.
#pragma once

#include "native/lanes.h"

struct Vector {
    Lanes x, y, z;
};

inline Vector operator+(Vector a, Vector b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vector operator*(Vector a, Lanes b) { return {a.x * b, a.y * b, a.z * b}; }
inline Lanes dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vector cross(Vector a, Vector b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
inline Vector choose(Bits mask, Vector a, Vector b) {
    return {mask ? a.x : b.x, mask ? a.y : b.y, mask ? a.z : b.z};
}

// Columns.
struct Matrix {
    Vector a, b, c;
};

inline Matrix operator+(const Matrix& m, const Matrix& n) { return {m.a + n.a, m.b + n.b, m.c + n.c}; }
inline Matrix operator*(const Matrix& m, Lanes b) { return {m.a * b, m.b * b, m.c * b}; }
inline Vector operator*(const Matrix& m, Vector v) { return m.a * v.x + m.b * v.y + m.c * v.z; }
inline Matrix operator*(const Matrix& m, const Matrix& n) { return {m * n.a, m * n.b, m * n.c}; }
inline Matrix outer(Vector row, Vector column) { return {row * column.x, row * column.y, row * column.z}; }
inline Matrix transposed(const Matrix& m) {
    return {{m.a.x, m.b.x, m.c.x}, {m.a.y, m.b.y, m.c.y}, {m.a.z, m.b.z, m.c.z}};
}
inline Lanes trace(const Matrix& m) { return m.a.x + m.b.y + m.c.z; }

// v with [v]x = A - A^T
inline Vector axial(const Matrix& m) { return {m.b.z - m.c.y, m.c.x - m.a.z, m.a.y - m.b.x}; }

// Numbers `stride` apart in memory, one to a lane; lanes from `count` on repeat the last.
inline Lanes read_lanes(const float* from, int64_t stride, int count) {
    Lanes out;
    if (count == LANES) {
        for (int lane = 0; lane < LANES; ++lane) out[lane] = from[lane * stride];
    } else {
        for (int lane = 0; lane < LANES; ++lane) out[lane] = from[(lane < count ? lane : count - 1) * stride];
    }
    return out;
}

inline Vector read_vector(const float* from, int64_t stride, int count) {
    return {read_lanes(from, stride, count), read_lanes(from + 1, stride, count), read_lanes(from + 2, stride, count)};
}

// [3, 3] row by row
inline Matrix read_matrix(const float* from, int count) {
    return transposed({read_vector(from, 9, count), read_vector(from + 3, 9, count), read_vector(from + 6, 9, count)});
}

inline void write_lanes(float* to, int64_t stride, int count, Lanes value) {
    for (int lane = 0; lane < count; ++lane) to[lane * stride] = value[lane];
}

inline void write_vector(float* to, int64_t stride, int count, Vector v) {
    write_lanes(to, stride, count, v.x);
    write_lanes(to + 1, stride, count, v.y);
    write_lanes(to + 2, stride, count, v.z);
}

inline void write_matrix(float* to, int count, const Matrix& m) {
    const Matrix rows = transposed(m);
    write_vector(to, 9, count, rows.a);
    write_vector(to + 3, 9, count, rows.b);
    write_vector(to + 6, 9, count, rows.c);
}
