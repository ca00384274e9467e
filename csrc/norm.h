/* Layer norm by rows, and the reduction of a row of logits. */
#ifndef WCY_NORM_H
#define WCY_NORM_H

#include <math.h>

#include "kernels.h"
#include "parallel.h"
#include "vecmath.h"

/* n lanes-wise sum of x, or of (x - mean)^2 when squared */
INLINE float row_sum(const float *x, size_t n, float mean, int squared) {
    vec sums[4] = {{0}};
    float rest = 0;
    size_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int j = 0; j < 4; j++) {
            const vec d = vec_load(x + i + j * VL) - mean;
            sums[j] += squared ? d * d : d;
        }
    for (; i < n; i++) rest += squared ? (x[i] - mean) * (x[i] - mean) : x[i] - mean;
    return vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
}

static void normalise_row(float *out, const float *x, const float *weight, const float *bias, size_t n) {
    const float mean = row_sum(x, n, 0.0f, 0) / (float)n;
    const float scale = 1.0f / sqrtf(row_sum(x, n, mean, 1) / (float)n + 1e-5f);
#pragma omp simd
    for (size_t i = 0; i < n; i++) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

static void layer_norm(float *out, const float *x, const float *weight, const float *bias, size_t rows,
                       size_t n, int threads) {
#pragma omp parallel for schedule(static) num_threads(team(rows *n, threads))
    for (size_t r = 0; r < rows; r++) normalise_row(out + r * n, x + r * n, weight, bias, n);
}

static float row_maximum(const float *x, size_t n) {
    vec tops[4] = {vec_set(-INFINITY), vec_set(-INFINITY), vec_set(-INFINITY), vec_set(-INFINITY)};
    size_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int j = 0; j < 4; j++) tops[j] = vec_max(vec_load(x + i + j * VL), tops[j]);
    float top = vec_top(vec_max(vec_max(tops[0], tops[1]), vec_max(tops[2], tops[3])));
    for (; i < n; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* sum of e^(x - top); each lane's running sum stays short enough for float32 (50,000 terms over 4 VL lanes)
 */
static float sum_of_exponentials(const float *x, size_t n, float top) {
    vec sums[4] = {{0}};
    size_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int j = 0; j < 4; j++) sums[j] += vec_exp(vec_load(x + i + j * VL) - top);
    float rest = 0;
    for (; i < n; i += VL) {
        const size_t left = n - i < VL ? n - i : VL;
        const vec e = vec_exp(vec_load_first(x + i, left) - top);
        for (size_t j = 0; j < left; j++) rest += e[j];
    }
    return vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
}

/* the first index of `value`; 0 if it is not there. Whole blocks are passed over without a branch per
 * element. */
static size_t first_index(const float *x, size_t n, float value) {
    enum { BLOCK = 64 };
    size_t i = 0;
    for (int found = 0; i + BLOCK <= n; i += BLOCK) {
#pragma omp simd reduction(| : found)
        for (size_t j = 0; j < BLOCK; j++) found |= x[i + j] == value;
        if (found) break;
    }
    for (; i < n; i++)
        if (x[i] == value) return i;
    return 0;
}

static size_t peak_and_logsumexp(const float *x, size_t n, float *maximum, float *logsumexp) {
    const float top = row_maximum(x, n);
    *maximum = top;
    *logsumexp = top == -INFINITY ? top : top + logf(sum_of_exponentials(x, n, top));
    return first_index(x, n, top);
}

#endif
