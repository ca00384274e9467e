/* x W^T over packed panels: float32 arithmetic, weights in float32 or half.

   A register tile of TILE_ROWS x TILE_PANELS panels runs down k; all else is blocking around it.
   Few rows (decoding): one sweep over the weights, half converted in registers.
   Many rows: blocks of ROW_BLOCK rows x COLUMN_BLOCK panels x DEPTH_BLOCK of k, each panel's depth block
   converted once a task into scratch that stays in L1/L2. Sums pass through `out` between depth blocks,
   unrounded: it is float32. */
#ifndef WCY_MATMUL_F32_H
#define WCY_MATMUL_F32_H

#include "kernels.h"
#include "parallel.h"
#include "vecmath.h"

enum { LANES_PER_PANEL = PANEL / VL };

/* tile and block sizes by register width: 32, 16 and 16 vector registers */
#if VL == 16
enum { TILE_ROWS = 6, TILE_PANELS = 4, ROW_BLOCK = 252, COLUMN_BLOCK = 16, DEPTH_BLOCK = 256 };
#elif VL == 8
enum { TILE_ROWS = 6, TILE_PANELS = 1, ROW_BLOCK = 126, COLUMN_BLOCK = 16, DEPTH_BLOCK = 384 };
#else
enum { TILE_ROWS = 2, TILE_PANELS = 1, ROW_BLOCK = 128, COLUMN_BLOCK = 16, DEPTH_BLOCK = 256 };
#endif
enum { MOST_PANELS = 4, FEW_ROWS = 2 * TILE_ROWS, DECODE_PANELS = 4 };

/* One tile's operands. b: first panel; the next ones lie panel_stride elements on. */
typedef struct {
    const float *a;
    size_t a_stride;
    const void *b;
    size_t panel_stride, depth;
    float *out;
    size_t out_stride;
    int accumulate; /* 1: add to out */
} tile_work;

INLINE vec load_weights(const void *b, size_t index, int half) {
    return half ? vec_load_half((const uint16_t *)b + index) : vec_load((const float *)b + index);
}

/* out (rows, panels * PANEL) (+)= a (rows, depth) times the panels; rows, panels and half are constants when
 * inlined */
INLINE void tile(const tile_work *t, int rows, int panels, int half) {
    const int vectors = panels * LANES_PER_PANEL;
    const float *a = t->a;
    vec sum[TILE_ROWS][MOST_PANELS * LANES_PER_PANEL];
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 16
        for (int j = 0; j < vectors; j++)
            sum[m][j] = t->accumulate ? vec_load(t->out + m * t->out_stride + j * VL) : vec_set(0.0f);
    for (size_t k = 0; k < t->depth; k++) {
        vec b[MOST_PANELS * LANES_PER_PANEL];
#pragma GCC unroll 16
        for (int j = 0; j < vectors; j++)
            b[j] = load_weights(
                t->b, j / LANES_PER_PANEL * t->panel_stride + k * PANEL + j % LANES_PER_PANEL * VL, half);
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++)
#pragma GCC unroll 16
            for (int j = 0; j < vectors; j++) sum[m][j] += a[m * t->a_stride + k] * b[j];
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 16
        for (int j = 0; j < vectors; j++) vec_store(t->out + m * t->out_stride + j * VL, sum[m][j]);
}

/* panels side by side that `rows` rows leave registers for */
#if VL == 16
#    define WIDEST(rows) 4
#elif VL == 8
#    define WIDEST(rows) ((rows) == 1 ? 4 : (rows) <= 3 ? 2 : 1)
#else
#    define WIDEST(rows) 1
#endif

/* The compiled tiles: every height, one panel or the widest, float32 or half. */
static void run_tile(const tile_work *t, int rows, int wide, int half) {
#define TILES(rows)                                                                                          \
case 4 * (rows) + 0: tile(t, rows, 1, 0); break;                                                             \
case 4 * (rows) + 1: tile(t, rows, 1, 1); break;                                                             \
case 4 * (rows) + 2: tile(t, rows, WIDEST(rows), 0); break;                                                  \
case 4 * (rows) + 3: tile(t, rows, WIDEST(rows), 1); break;
    switch (4 * rows + 2 * wide + half) {
        TILES(1)
        TILES(2)
#if VL > 4
        TILES(3)
        TILES(4)
        TILES(5)
        TILES(6)
#endif
    }
#undef TILES
}

INLINE const void *panel_at(const void *panels, size_t index, int half) {
    return half ? (const void *)((const uint16_t *)panels + index)
                : (const void *)((const float *)panels + index);
}

/* The last panel, of which only `columns` < PANEL exist in out. */
static void run_partial_tile(const tile_work *t, int rows, size_t columns, int half) {
    float whole[TILE_ROWS * PANEL] = {0};
    tile_work w = *t;
    w.out = whole;
    w.out_stride = PANEL;
    for (int m = 0; t->accumulate && m < rows; m++)
        memcpy(whole + m * PANEL, t->out + m * t->out_stride, columns * sizeof(float));
    run_tile(&w, rows, 0, half);
    for (int m = 0; m < rows; m++)
        memcpy(t->out + m * t->out_stride, whole + m * PANEL, columns * sizeof(float));
}

/* out (rows, columns) (+)= a (rows, depth) times as many panels as the columns need */
static void multiply(const tile_work *all, size_t rows, size_t columns, int half) {
    const size_t group = WIDEST(rows < TILE_ROWS ? rows : TILE_ROWS);
    for (size_t c = 0, width; c < columns; c += width * PANEL) {
        width = columns - c >= group * PANEL ? group : 1;
        for (size_t r = 0; r < rows; r += TILE_ROWS) {
            const int height = (int)(rows - r < TILE_ROWS ? rows - r : TILE_ROWS);
            tile_work t = *all;
            t.a += r * t.a_stride;
            t.b = panel_at(all->b, c / PANEL * t.panel_stride, half);
            t.out += r * t.out_stride + c;
            if (columns - c < PANEL) {
                run_partial_tile(&t, height, columns - c, half);
            } else if (width == (size_t)WIDEST(height)) {
                run_tile(&t, height, 1, half);
            } else {
                for (size_t p = 0; p < width; p++, t.out += PANEL) {
                    run_tile(&t, height, 0, half);
                    t.b = panel_at(t.b, t.panel_stride, half);
                }
            }
        }
    }
}

INLINE vec finish_lanes(vec x, vec bias, vec residual, int gelu) {
    x += bias;
    if (gelu) x = vec_gelu(x);
    return x + residual;
}

/* out (rows, columns starting at `first`) -> the epilogue of it */
static void finish(float *out, size_t out_stride, size_t row, size_t rows, size_t first, size_t columns,
                   const wcy_epilogue *e) {
    if (!e->bias && !e->residual && !e->gelu) return;
    const vec zero = {0};
    const float *bias = e->bias ? e->bias + first : NULL;
    for (size_t r = row; r < row + rows; r++) {
        float *x = out + r * out_stride + first;
        const float *residual = e->residual ? e->residual + r * e->residual_stride + first : NULL;
        size_t c = 0;
        for (; c + VL <= columns; c += VL)
            vec_store(x + c, finish_lanes(vec_load(x + c), bias ? vec_load(bias + c) : zero,
                                          residual ? vec_load(residual + c) : zero, e->gelu));
        if (c < columns) {
            const size_t left = columns - c;
            vec_store_first(x + c,
                            finish_lanes(vec_load_first(x + c, left),
                                         bias ? vec_load_first(bias + c, left) : zero,
                                         residual ? vec_load_first(residual + c, left) : zero, e->gelu),
                            left);
        }
    }
}

/* `panels` panels of w from k on -> float32 (panels, depth, PANEL) */
static void widen_panels(float *out, const wcy_matrix *w, size_t panel, size_t panels, size_t k,
                         size_t depth) {
    const uint16_t *half = w->panels;
    for (size_t p = 0; p < panels; p++) {
        const uint16_t *from = half + ((panel + p) * w->k + k) * PANEL;
        for (size_t i = 0; i < depth * PANEL; i += VL)
            vec_store(out + p * depth * PANEL + i, vec_load_half(from + i));
    }
}

static void linear_few_rows(float *out, size_t out_stride, const float *x, size_t x_stride, size_t rows,
                            const wcy_matrix *w, const wcy_epilogue *e, int threads) {
    const size_t width = DECODE_PANELS * PANEL, groups = (w->n + width - 1) / width;
#pragma omp parallel for schedule(static) num_threads(team(rows * w->n * w->k, threads))
    for (size_t g = 0; g < groups; g++) {
        const size_t first = g * width, columns = w->n - first < width ? w->n - first : width;
        const tile_work t = {.a = x,
                             .a_stride = x_stride,
                             .b = panel_at(w->panels, first * w->k, w->half),
                             .panel_stride = w->k * PANEL,
                             .depth = w->k,
                             .out = out + first,
                             .out_stride = out_stride};
        multiply(&t, rows, columns, w->half);
        finish(out, out_stride, 0, rows, first, columns, e);
    }
}

/* One task of linear_many_rows: rows [row, row + rows), panels [panel, panel_end). */
static void linear_block(float *out, size_t out_stride, const float *x, size_t x_stride, size_t row,
                         size_t rows, const wcy_matrix *w, size_t panel, size_t panel_end,
                         const wcy_epilogue *e) {
    float scratch[TILE_PANELS * DEPTH_BLOCK * PANEL] __attribute__((aligned(64)));
    for (size_t k = 0; k < w->k; k += DEPTH_BLOCK) {
        const size_t depth = w->k - k < DEPTH_BLOCK ? w->k - k : DEPTH_BLOCK;
        for (size_t p = panel; p < panel_end; p += TILE_PANELS) {
            const size_t panels = panel_end - p < TILE_PANELS ? panel_end - p : TILE_PANELS;
            const size_t first = p * PANEL,
                         columns = w->n - first < panels * PANEL ? w->n - first : panels * PANEL;
            tile_work t = {.a = x + row * x_stride + k,
                           .a_stride = x_stride,
                           .b = panel_at(w->panels, (p * w->k + k) * PANEL, 0),
                           .panel_stride = w->k * PANEL,
                           .depth = depth,
                           .out = out + row * out_stride + first,
                           .out_stride = out_stride,
                           .accumulate = k > 0};
            if (w->half) {
                widen_panels(scratch, w, p, panels, k, depth);
                t.b = scratch;
                t.panel_stride = depth * PANEL;
            }
            multiply(&t, rows, columns, 0);
            if (k + depth == w->k) finish(out, out_stride, row, rows, first, columns, e);
        }
    }
}

static void linear_many_rows(float *out, size_t out_stride, const float *x, size_t x_stride, size_t rows,
                             const wcy_matrix *w, const wcy_epilogue *e, int threads) {
    const size_t panels = (w->n + PANEL - 1) / PANEL;
    const size_t row_blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK,
                 column_blocks = (panels + COLUMN_BLOCK - 1) / COLUMN_BLOCK;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(team(rows * w->n * w->k, threads))
    for (size_t i = 0; i < row_blocks; i++)
        for (size_t j = 0; j < column_blocks; j++) {
            const size_t row = i * ROW_BLOCK, panel = j * COLUMN_BLOCK;
            linear_block(out, out_stride, x, x_stride, row, rows - row < ROW_BLOCK ? rows - row : ROW_BLOCK,
                         w, panel, panels - panel < COLUMN_BLOCK ? panels : panel + COLUMN_BLOCK, e);
        }
}

static void linear(float *out, size_t out_stride, const float *x, size_t x_stride, size_t rows,
                   const wcy_matrix *w, const wcy_epilogue *epilogue, int threads) {
    if (rows <= FEW_ROWS)
        linear_few_rows(out, out_stride, x, x_stride, rows, w, epilogue, threads);
    else
        linear_many_rows(out, out_stride, x, x_stride, rows, w, epilogue, threads);
}

/* Rows [panel * PANEL, ...) of w (n, k), elements of `element` bytes -> that panel. */
static void pack_panel(void *panels, const void *w, size_t panel, size_t n, size_t k, size_t element) {
    const size_t first = panel * PANEL, rows = n - first < PANEL ? n - first : PANEL;
    char *out = (char *)panels + first * k * element;
    const char *in = (const char *)w + first * k * element;
    memset(out, 0, rows < PANEL ? PANEL * k * element : 0);
    for (size_t r = 0; r < rows; r++)
        if (element == 2)
            for (size_t i = 0; i < k; i++)
                ((uint16_t *)out)[i * PANEL + r] = ((const uint16_t *)in)[r * k + i];
        else
            for (size_t i = 0; i < k; i++)
                ((uint32_t *)out)[i * PANEL + r] = ((const uint32_t *)in)[r * k + i];
}

static void pack(void *panels, const void *w, size_t n, size_t k, size_t element, int threads) {
    const size_t count = (n + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static) num_threads(team(n *k, threads))
    for (size_t p = 0; p < count; p++) pack_panel(panels, w, p, n, k, element);
}

/* Element (row, i) of a packed matrix. */
INLINE float packed_at(const wcy_matrix *w, size_t row, size_t i) {
    const size_t index = (row / PANEL * w->k + i) * PANEL + row % PANEL;
    if (!w->half) return ((const float *)w->panels)[index];
    uint16_t lanes[VL] = {((const uint16_t *)w->panels)[index]};
    return vec_load_half(lanes)[0];
}

static void embed(float *out, const int32_t *tokens, const wcy_matrix *w, const float *position,
                  size_t count) {
    for (size_t t = 0; t < count; t++)
        for (size_t i = 0; i < w->k; i++)
            out[t * w->k + i] = packed_at(w, (size_t)tokens[t], i) + position[t * w->k + i];
}

#endif
