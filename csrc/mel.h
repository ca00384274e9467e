/* Log-mel power of 400-sample windows, 160 samples apart. One frame per lane: every lane does the
   same arithmetic, so a frame's numbers depend neither on its neighbours nor on the thread count.

   frame x w (400 real)
   -> z_n = x_2n w_2n + i x_2n+1 w_2n+1 (200 complex)
   -> Stockham passes of radix 5, 5, 4, 2
   -> split into bins 0 .. 200 of the real transform -> |X_k|^2 -> mel bands -> log10 */
#ifndef WCY_MEL_H
#define WCY_MEL_H

#include "kernels.h"
#include "parallel.h"
#include "vecmath.h"

enum {
    FFT_HALF = FFT_SIZE / 2,
    HOPS_SPANNED = VL + (FFT_SIZE - 1) / HOP, /* hops that VL neighbouring frames touch */
    FRAME_WORK = 12000                        /* multiply-adds of one frame, about */
};

typedef struct {
    vec re, im;
} cvec;

INLINE cvec c_add(cvec a, cvec b) { return (cvec){a.re + b.re, a.im + b.im}; }
INLINE cvec c_sub(cvec a, cvec b) { return (cvec){a.re - b.re, a.im - b.im}; }
INLINE cvec c_scale(cvec a, float s) { return (cvec){a.re * s, a.im * s}; }
INLINE cvec c_times_minus_i(cvec a) { return (cvec){a.im, -a.re}; }

/* a times one of the roots, (re, im) at root */
INLINE cvec c_turn(cvec a, const float *root) {
    return (cvec){a.re * root[0] - a.im * root[1], a.re * root[1] + a.im * root[0]};
}

INLINE void dft2(cvec *a) {
    cvec sum = c_add(a[0], a[1]);
    a[1] = c_sub(a[0], a[1]);
    a[0] = sum;
}

INLINE void dft4(cvec *a) {
    cvec even = c_add(a[0], a[2]), even_odd = c_sub(a[0], a[2]);
    cvec odd = c_add(a[1], a[3]), turned = c_times_minus_i(c_sub(a[1], a[3]));
    a[0] = c_add(even, odd);
    a[1] = c_add(even_odd, turned);
    a[2] = c_sub(even, odd);
    a[3] = c_sub(even_odd, turned);
}

/* cosines and sines of 2 pi / 5 and 4 pi / 5; outputs 1, 4 and 2, 3 are conjugate pairs in them */
INLINE void dft5(cvec *a) {
    const float cos1 = 0.30901699437494742f, cos2 = -0.80901699437494742f;
    const float sin1 = 0.95105651629515357f, sin2 = 0.58778525229247313f;
    cvec sum1 = c_add(a[1], a[4]), difference1 = c_times_minus_i(c_sub(a[1], a[4]));
    cvec sum2 = c_add(a[2], a[3]), difference2 = c_times_minus_i(c_sub(a[2], a[3]));
    cvec real1 = c_add(a[0], c_add(c_scale(sum1, cos1), c_scale(sum2, cos2)));
    cvec real2 = c_add(a[0], c_add(c_scale(sum1, cos2), c_scale(sum2, cos1)));
    cvec turn1 = c_add(c_scale(difference1, sin1), c_scale(difference2, sin2));
    cvec turn2 = c_sub(c_scale(difference1, sin2), c_scale(difference2, sin1));
    a[0] = c_add(a[0], c_add(sum1, sum2));
    a[1] = c_add(real1, turn1);
    a[2] = c_add(real2, turn2);
    a[3] = c_sub(real2, turn2);
    a[4] = c_sub(real1, turn1);
}

/* One Stockham pass: `stride` interleaved transforms of length 200 / stride become radix times as
   many, radix times shorter. With m = 200 / stride / radix:
   y[q + stride (radix k + r)] = root^(k r stride) sum_j x[q + stride (k + m j)]
                                 e^(-2 pi i j r / radix) */
INLINE void stockham_pass(cvec *restrict y, const cvec *restrict x, int radix, int stride,
                          const float *restrict roots) {
    const int m = FFT_HALF / stride / radix;
    for (int k = 0; k < m; k++) {
        for (int q = 0; q < stride; q++) {
            cvec a[5];
#pragma GCC unroll 5
            for (int j = 0; j < radix; j++) a[j] = x[q + stride * (k + m * j)];
            if (radix == 5) dft5(a);
            if (radix == 4) dft4(a);
            if (radix == 2) dft2(a);
            y[q + stride * radix * k] = a[0];
#pragma GCC unroll 5
            for (int r = 1; r < radix; r++)
                y[q + stride * (radix * k + r)] = c_turn(a[r], roots + 4 * (k * r * stride));
        }
    }
}

/* The samples of hops first .. first + HOPS_SPANNED - 1, transposed: hops[m][h] is sample m of hop
   first + h, so that sample n of VL neighbouring frames is VL neighbouring floats. Samples past the
   end are zero. */
static void gather_hops(float hops[restrict HOP][HOPS_SPANNED], const float *restrict samples,
                        size_t n_samples, size_t first) {
    for (size_t h = 0; h < HOPS_SPANNED; h++) {
        size_t start = (first + h) * HOP;
        size_t count = start >= n_samples ? 0 : n_samples - start;
        if (count > HOP) count = HOP;
        for (size_t m = 0; m < count; m++) hops[m][h] = samples[start + m];
        for (size_t m = count; m < HOP; m++) hops[m][h] = 0;
    }
}

static void pack_window(cvec *restrict z, float hops[restrict HOP][HOPS_SPANNED],
                        const float *restrict window) {
    for (int n = 0; n < FFT_SIZE; n += 2) {
        const float *even = &hops[n % HOP][n / HOP];
        z[n / 2].re = vec_load(even) * window[n];
        z[n / 2].im = vec_load(even + HOPS_SPANNED) * window[n + 1];
    }
}

/* Z (200) of the packed frame -> |X_k|^2 (201) of the real one, k and 200 - k together:
   X_k = E + root^k O   X_200-k = conj(E - root^k O)
   E = (Z_k + conj Z_200-k) / 2   O = -i (Z_k - conj Z_200-k) / 2 */
static void split_power(vec *restrict power, const cvec *restrict z, const float *restrict roots) {
    for (int k = 0; k <= FFT_HALF / 2; k++) {
        cvec a = z[k], b = z[(FFT_HALF - k) % FFT_HALF];
        cvec mirrored = {b.re, -b.im};
        cvec even = c_scale(c_add(a, mirrored), 0.5f);
        cvec odd = c_turn(c_scale(c_times_minus_i(c_sub(a, mirrored)), 0.5f), roots + 2 * k);
        cvec low = c_add(even, odd), high = c_sub(even, odd);
        power[k] = low.re * low.re + low.im * low.im;
        power[FFT_HALF - k] = high.re * high.re + high.im * high.im;
    }
}

/* power (201) -> out (count frames, n_mels) */
static void mel_bands(float *restrict out, const vec *restrict power, const wcy_mel *mel, size_t count) {
    for (size_t band = 0; band < mel->n_mels; band++) {
        const float *filter = mel->filters + band * FFT_BINS;
        const int32_t *span = mel->spans + 2 * band;
        vec sum = {0};
        for (int32_t k = span[0]; k < span[1]; k++) sum += power[k] * filter[k];
        vec value = vec_log(vec_max(sum, vec_set(1e-10f))) * 0.43429448190325183f;
        for (size_t lane = 0; lane < count; lane++) out[lane * mel->n_mels + band] = value[lane];
    }
}

/* The count <= VL frames from `first` on. */
static void log_mel_group(float *restrict out, const float *restrict samples, size_t n_samples, size_t first,
                          size_t count, const wcy_mel *mel) {
    float hops[HOP][HOPS_SPANNED];
    cvec a[FFT_HALF], b[FFT_HALF];
    vec power[FFT_BINS];
    gather_hops(hops, samples, n_samples, first);
    pack_window(a, hops, mel->window);
    stockham_pass(b, a, 5, 1, mel->roots);
    stockham_pass(a, b, 5, 5, mel->roots);
    stockham_pass(b, a, 4, 25, mel->roots);
    stockham_pass(a, b, 2, 100, mel->roots);
    split_power(power, a, mel->roots);
    mel_bands(out, power, mel, count);
}

static void log_mel(float *restrict out, const float *restrict samples, size_t n_samples, size_t n_frames,
                    const wcy_mel *mel, int threads) {
#pragma omp parallel for num_threads(team(n_frames *FRAME_WORK, threads))
    for (size_t first = 0; first < n_frames; first += VL) {
        size_t count = n_frames - first < VL ? n_frames - first : VL;
        log_mel_group(out + first * mel->n_mels, samples, n_samples, first, count, mel);
    }
}

#endif
