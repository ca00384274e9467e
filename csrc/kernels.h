/* The contract between the kernels and their callers: formulas and shapes. Arrays are row-major float32; a
   stride is the distance between rows in elements. Callers check every shape: a kernel cannot fail, allocates
   nothing, keeps nothing.

   Panels. A matrix W (n, k) that multiplies from the right, x W^T, is stored as panels of PANEL columns:
   [ceil(n / PANEL)][k][PANEL], zero beyond n; float32, or IEEE half where that holds every value exactly.

   Key-value cache of one layer, one row of a batch, n_head heads of HEAD elements, capacity a multiple of
   PANEL: keys   [n_head][capacity / PANEL][HEAD][PANEL]     (the panels of K, since scores are q K^T) values
   [n_head][HEAD / PANEL][capacity][PANEL]     (the panels of V^T, since the result is p V)          */
#ifndef WCY_KERNELS_H
#define WCY_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { PANEL = 16, HEAD = 64, QUERY_BLOCK = 12, FFT_SIZE = 400, HOP = 160, FFT_BINS = 201 };

typedef struct {
    const void *panels;
    size_t n, k;
    int half; /* 1: panels hold IEEE half, 0: float32 */
} wcy_matrix;

typedef struct {
    const float *bias;     /* (n,) or NULL */
    const float *residual; /* (rows, n) or NULL */
    size_t residual_stride;
    int gelu;
} wcy_epilogue;

typedef struct {
    float *keys, *values;
    size_t n_head, capacity;
} wcy_cache;

/* What turns 400 samples into n_mels bands. */
typedef struct {
    const float *window;  /* (FFT_SIZE,) */
    const float *roots;   /* (FFT_SIZE, 2): real and imaginary part of e^(-2 pi i j / FFT_SIZE) */
    const float *filters; /* (n_mels, FFT_BINS) */
    const int32_t *spans; /* (n_mels, 2): a filter is zero before its first bin and from its second on */
    size_t n_mels;
} wcy_mel;

typedef struct {
    const char *name;

    /* out (rows, n) = gelu?(x W^T + bias) + residual;  x (rows, k). Each row's sums run over k in ascending
       order, so a row's result depends on neither the threads nor the other rows. out overlaps neither x nor
       residual. */
    void (*linear)(float *out, size_t out_stride, const float *x, size_t x_stride, size_t rows,
                   const wcy_matrix *w, const wcy_epilogue *epilogue, int threads);

    /* rows of w (n, k) -> panels; elements of 2 or 4 bytes, moved as they are. */
    void (*pack)(void *panels, const void *w, size_t n, size_t k, size_t element, int threads);

    /* out (count, k) = rows `tokens` of the packed matrix w + position (count, k). */
    void (*embed)(float *out, const int32_t *tokens, const wcy_matrix *w, const float *position,
                  size_t count);

    /* out = (x - mean) / sqrt(variance + 1e-5) * weight + bias by rows of n, as torch.nn.LayerNorm. */
    void (*layer_norm)(float *out, const float *x, const float *weight, const float *bias, size_t rows,
                       size_t n, int threads);

    /* Positions [start, start + count) of the cache = count rows of k and of v, each (count, n_head * HEAD).
     */
    void (*store_keys_values)(const wcy_cache *cache, const float *k, const float *v, size_t stride,
                              size_t start, size_t count, int threads);

    /* out (count, n_head * HEAD) = softmax(q K^T / sqrt(HEAD)) V by heads over the first n_keys positions;
       causal: query i sees positions <= n_keys - count + i. scratch: threads * min(count, QUERY_BLOCK) *
       capacity floats. */
    void (*attention)(float *out, const float *q, size_t q_stride, size_t count, const wcy_cache *cache,
                      size_t n_keys, int causal, float *scratch, int threads);

    /* argmax (the first), maximum and ln sum e^x of x (n,), n > 0; -inf allowed. */
    size_t (*peak_and_logsumexp)(const float *x, size_t n, float *maximum, float *logsumexp);

    /* out (n_frames, n_mels) = log10(max(filters |DFT(window x frame)|^2, 1e-10)); frame f is samples [HOP f,
       HOP f + FFT_SIZE), zero from n_samples on. A frame's numbers depend on no other frame. */
    void (*log_mel)(float *out, const float *samples, size_t n_samples, size_t n_frames, const wcy_mel *mel,
                    int threads);
} wcy_kernels;

/* dispatch.c: the levels of this build that this processor can run, fastest first; the list ends in NULL. */
const wcy_kernels *const *wcy_available(void);

/* dispatch.c: joins the calling thread's idle OpenMP workers, so that a fork leaves none behind. */
void wcy_release_threads(void);

#endif
