/* Softmax attention over a key-value cache: encoder self-attention, decoder self-attention and
   cross-attention alike.

   A task is one head and up to QUERY_BLOCK queries: their scores against every key fit the L2 cache (12 x
   1500 floats are 72 KB), so the softmax is two plain passes and nothing of size queries x keys ever exists.
 */
#ifndef WCY_ATTENTION_H
#define WCY_ATTENTION_H

#ifdef _OPENMP
#    include <omp.h>
#endif

#include "matmul_f32.h"
#include "norm.h"

static void store_head(const wcy_cache *cache, size_t head, const float *k, const float *v, size_t stride,
                       size_t start, size_t count) {
    float *keys = cache->keys + head * cache->capacity * HEAD;
    float *values = cache->values + head * cache->capacity * HEAD;
    for (size_t i = 0; i < count; i++) {
        const size_t position = start + i;
        const float *key = k + i * stride + head * HEAD, *value = v + i * stride + head * HEAD;
        float *column = keys + position / PANEL * HEAD * PANEL + position % PANEL;
        for (size_t c = 0; c < HEAD; c++) column[c * PANEL] = key[c];
        for (size_t c = 0; c < HEAD; c += PANEL)
            memcpy(values + (c / PANEL * cache->capacity + position) * PANEL, value + c,
                   PANEL * sizeof(float));
    }
}

static void store_keys_values(const wcy_cache *cache, const float *k, const float *v, size_t stride,
                              size_t start, size_t count, int threads) {
#pragma omp parallel for schedule(static) num_threads(team(2 * count * cache->n_head * HEAD, threads))
    for (size_t h = 0; h < cache->n_head; h++) store_head(cache, h, k, v, stride, start, count);
}

/* scores (n) -> e^(scores / sqrt(HEAD) - their maximum), zero from `seen` to n; returns 1 / sum */
static float softmax_row(float *scores, size_t seen, size_t n) {
    const float scale = 0.125f; /* 1 / sqrt(HEAD) */
    const float top = row_maximum(scores, seen) * scale;
    vec sums = {0};
    size_t i = 0;
    for (; i + VL <= seen; i += VL) {
        const vec e = vec_exp(vec_load(scores + i) * scale - top);
        vec_store(scores + i, e);
        sums += e;
    }
    float total = vec_sum(sums);
    if (i < seen) {
        const vec e = vec_exp(vec_load_first(scores + i, seen - i) * scale - top);
        vec_store_first(scores + i, e, seen - i);
        for (size_t j = 0; j < seen - i; j++) total += e[j];
    }
    for (i = seen; i < n; i++) scores[i] = 0.0f;
    return 1.0f / total;
}

/* `count` <= QUERY_BLOCK queries of one head; `seen`: keys the first of them sees, one more for each next if
 * causal */
static void attend(float *out, size_t out_stride, const float *q, size_t q_stride, size_t count,
                   const wcy_cache *cache, size_t head, size_t seen, int causal, float *scores) {
    const size_t keys = causal ? seen + count - 1 : seen;
    float scale[QUERY_BLOCK];
    const tile_work score = {.a = q + head * HEAD,
                             .a_stride = q_stride,
                             .b = cache->keys + head * cache->capacity * HEAD,
                             .panel_stride = HEAD * PANEL,
                             .depth = HEAD,
                             .out = scores,
                             .out_stride = cache->capacity};
    multiply(&score, count, (keys + PANEL - 1) / PANEL * PANEL, 0);
    for (size_t i = 0; i < count; i++)
        scale[i] = softmax_row(scores + i * cache->capacity, causal ? seen + i : seen, keys);
    const tile_work mix = {.a = scores,
                           .a_stride = cache->capacity,
                           .b = cache->values + head * cache->capacity * HEAD,
                           .panel_stride = cache->capacity * PANEL,
                           .depth = keys,
                           .out = out + head * HEAD,
                           .out_stride = out_stride};
    multiply(&mix, count, HEAD, 0);
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < HEAD; c++) out[i * out_stride + head * HEAD + c] *= scale[i];
}

static int thread_index(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static void attention(float *out, const float *q, size_t q_stride, size_t count, const wcy_cache *cache,
                      size_t n_keys, int causal, float *scratch, int threads) {
    const size_t most = count < QUERY_BLOCK ? count : QUERY_BLOCK,
                 blocks = (count + QUERY_BLOCK - 1) / QUERY_BLOCK;
    const size_t width = cache->n_head * HEAD;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(team(2 * count * n_keys * width, threads))
    for (size_t h = 0; h < cache->n_head; h++)
        for (size_t b = 0; b < blocks; b++) {
            const size_t first = b * QUERY_BLOCK, left = count - first;
            attend(out + first * width, width, q + first * q_stride, q_stride, left < most ? left : most,
                   cache, h, causal ? n_keys - count + first + 1 : n_keys, causal,
                   scratch + (size_t)thread_index() * most * cache->capacity);
        }
}

#endif
