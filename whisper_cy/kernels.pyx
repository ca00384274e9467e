# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The C kernels for NumPy arrays: check shapes, allocate the result, release the GIL, call the chosen level's table."""

import os

import numpy as np

from libc.stdint cimport int32_t

from whisper_cy.errors import OptionError


cdef extern from "kernels.h" nogil:
    enum:
        PANEL
        HEAD
        QUERY_BLOCK
        FFT_SIZE
        FFT_BINS

    ctypedef struct wcy_matrix:
        const void *panels
        size_t n
        size_t k
        int half

    ctypedef struct wcy_epilogue:
        const float *bias
        const float *residual
        size_t residual_stride
        int gelu

    ctypedef struct wcy_cache:
        float *keys
        float *values
        size_t n_head
        size_t capacity

    ctypedef struct wcy_mel:
        const float *window
        const float *roots
        const float *filters
        const int32_t *spans
        size_t n_mels

    ctypedef struct wcy_kernels:
        const char *name
        void (*linear)(float *, size_t, const float *, size_t, size_t, const wcy_matrix *,
                       const wcy_epilogue *, int) noexcept nogil
        void (*pack)(void *, const void *, size_t, size_t, size_t, int) noexcept nogil
        void (*embed)(float *, const int32_t *, const wcy_matrix *, const float *,
                      size_t) noexcept nogil
        void (*layer_norm)(float *, const float *, const float *, const float *, size_t, size_t,
                           int) noexcept nogil
        void (*store_keys_values)(const wcy_cache *, const float *, const float *, size_t, size_t,
                                  size_t, int) noexcept nogil
        void (*attention)(float *, const float *, size_t, size_t, const wcy_cache *, size_t, int,
                          float *, int) noexcept nogil
        size_t (*peak_and_logsumexp)(const float *, size_t, float *, float *) noexcept nogil
        void (*log_mel)(float *, const float *, size_t, size_t, const wcy_mel *, int) noexcept nogil

    const wcy_kernels *const *wcy_available() noexcept
    void wcy_release_threads() noexcept


cdef const wcy_kernels *table = NULL
D_HEAD = HEAD


def available_isas() -> list[str]:
    """Names of the instruction-set levels this processor runs, fastest first."""
    cdef const wcy_kernels *const *levels = wcy_available()
    names = []
    while levels[0] != NULL:
        names.append(levels[0].name.decode())
        levels += 1
    return names


def isa() -> str:
    """Name of the level in use."""
    return table.name.decode()


def use_isa(name: str) -> None:
    """Choose the level for the whole process; packed weights serve every level."""
    global table
    names = available_isas()
    if name not in names:
        raise OptionError(
            f"instruction-set level {name!r} is not available here; choose one of: {', '.join(names)}"
        )
    table = wcy_available()[names.index(name)]


def release_threads() -> None:
    """Join the calling thread's idle OpenMP workers. Needed before a fork, which copies only one thread."""
    with nogil:
        wcy_release_threads()


cdef int check_threads(int threads) except -1:
    if threads < 1:
        raise OptionError(f"threads must be 1 or more, not {threads}")
    return threads


cdef int check_rows(const float[:, :] x, str what) except -1:
    """Rows may overlap or lie apart; the elements of one must be adjacent."""
    if x.shape[1] > 1 and x.strides[1] != sizeof(float):
        raise ValueError(f"{what}: elements of a row are not adjacent")
    if x.strides[0] % <Py_ssize_t>sizeof(float) or x.strides[0] < 0:
        raise ValueError(f"{what}: rows lie {x.strides[0]} bytes apart")
    return 0


cdef class Matrix:
    """A weight matrix W (n, k), float16 or float32, packed into panels for x W^T; the dtype is kept."""

    cdef wcy_matrix packed
    cdef readonly object panels

    def __init__(self, weight, int threads=1):
        weight = np.ascontiguousarray(weight)
        if weight.ndim != 2 or weight.dtype not in (np.float16, np.float32) or not weight.size:
            raise ValueError(
                f"Matrix: needs (n, k) of float16 or float32, not {weight.shape} of {weight.dtype}"
            )
        cdef size_t n = weight.shape[0], k = weight.shape[1], element = weight.itemsize
        panels = np.empty(((n + PANEL - 1) // PANEL, k, PANEL), weight.dtype)
        cdef const unsigned char[::1] source = weight.reshape(-1).view(np.uint8)
        cdef unsigned char[::1] target = panels.reshape(-1).view(np.uint8)
        check_threads(threads)
        with nogil:
            table.pack(&target[0], &source[0], n, k, element, threads)
        self.panels = panels
        self.packed = wcy_matrix(&target[0], n, k, element == 2)

    @property
    def shape(self) -> tuple[int, int]:
        return self.packed.n, self.packed.k


def linear(const float[:, :] x, Matrix w not None, const float[::1] bias=None,
           const float[:, :] residual=None, *, bint gelu=False, out=None, int threads=1):
    """gelu?(x W^T + bias) + residual.

    x (rows, k), bias (n,), residual (rows, n) -> (rows, n). GELU by the error function. `out` (rows, n) receives the
    result when given; it must overlap neither x nor residual.
    """
    cdef size_t rows = x.shape[0]
    if <size_t>x.shape[1] != w.packed.k:
        raise ValueError(f"linear: x {(x.shape[0], x.shape[1])} does not fit the weight {w.shape}")
    check_rows(x, "linear: x")
    check_threads(threads)
    cdef wcy_epilogue epilogue = wcy_epilogue(NULL, NULL, 0, gelu)
    if bias is not None:
        if <size_t>bias.shape[0] != w.packed.n:
            raise ValueError(f"linear: bias ({bias.shape[0]},) does not fit the weight {w.shape}")
        epilogue.bias = &bias[0]
    if out is None:
        out = np.empty((rows, w.packed.n), np.float32)
    cdef float[:, :] result = out
    if <size_t>result.shape[0] != rows or <size_t>result.shape[1] != w.packed.n:
        raise ValueError(f"linear: out {out.shape} is not {(rows, w.packed.n)}")
    check_rows(result, "linear: out")
    if rows == 0:
        return out
    if residual is not None:
        if <size_t>residual.shape[0] != rows or <size_t>residual.shape[1] != w.packed.n:
            raise ValueError(
                f"linear: residual {(residual.shape[0], residual.shape[1])} is not {(rows, w.packed.n)}"
            )
        check_rows(residual, "linear: residual")
        epilogue.residual = &residual[0, 0]
        epilogue.residual_stride = residual.strides[0] // sizeof(float)
    cdef size_t x_stride = x.strides[0] // sizeof(float)
    cdef size_t out_stride = result.strides[0] // sizeof(float)
    with nogil:
        table.linear(&result[0, 0], out_stride, &x[0, 0], x_stride, rows, &w.packed, &epilogue, threads)
    return out


def embed(const int32_t[::1] tokens, Matrix w not None, const float[:, ::1] position):
    """Rows `tokens` (count,) of the packed matrix w (n, k) plus position (count, k) -> (count, k)."""
    cdef size_t count = tokens.shape[0], i
    if <size_t>position.shape[0] != count or <size_t>position.shape[1] != w.packed.k:
        raise ValueError(
            f"embed: position {(position.shape[0], position.shape[1])} is not {(count, w.packed.k)}"
        )
    for i in range(count):
        if tokens[i] < 0 or <size_t>tokens[i] >= w.packed.n:
            raise ValueError(f"embed: token {tokens[i]} is outside the vocabulary of {w.packed.n}")
    out = np.empty((count, w.packed.k), np.float32)
    cdef float[:, ::1] result = out
    if count:
        with nogil:
            table.embed(&result[0, 0], &tokens[0], &w.packed, &position[0, 0], count)
    return out


def layer_norm(const float[:, ::1] x, const float[::1] weight, const float[::1] bias, *, out=None,
               int threads=1):
    """(x - mean) / sqrt(variance + 1e-5) * weight + bias over the rows of x (rows, n); `out` may be x."""
    cdef size_t rows = x.shape[0], n = x.shape[1]
    if <size_t>weight.shape[0] != n or <size_t>bias.shape[0] != n:
        raise ValueError(
            f"layer_norm: weight ({weight.shape[0]},) and bias ({bias.shape[0]},) do not fit x {(rows, n)}"
        )
    check_threads(threads)
    if out is None:
        out = np.empty((rows, n), np.float32)
    cdef float[:, ::1] result = out
    if <size_t>result.shape[0] != rows or <size_t>result.shape[1] != n:
        raise ValueError(f"layer_norm: out {out.shape} is not {(rows, n)}")
    if rows and n:
        with nogil:
            table.layer_norm(&result[0, 0], &x[0, 0], &weight[0], &bias[0], rows, n, threads)
    return out


cdef class HeadCache:
    """Keys and values of one layer for one sequence: n_head heads of 64, room for `capacity` positions."""

    cdef wcy_cache cache
    cdef float[::1] keys, values
    cdef readonly int capacity

    def __init__(self, int n_head, int capacity):
        if n_head < 1 or capacity < 1:
            raise ValueError(f"HeadCache: n_head {n_head} and capacity {capacity} must be 1 or more")
        cdef size_t room = (capacity + PANEL - 1) // PANEL * PANEL
        self.capacity = capacity
        self.keys = np.zeros(n_head * room * HEAD, np.float32)
        self.values = np.zeros(n_head * room * HEAD, np.float32)
        self.cache = wcy_cache(&self.keys[0], &self.values[0], n_head, room)

    def copy(self) -> HeadCache:
        twin = HeadCache(self.cache.n_head, self.capacity)
        (<HeadCache>twin).keys[:] = self.keys
        (<HeadCache>twin).values[:] = self.values
        return twin

    def store(self, const float[:, :] k, const float[:, :] v, int start, *, int threads=1) -> None:
        """Rows of k and v (count, n_head * 64) become positions [start, start + count)."""
        cdef size_t width = self.cache.n_head * HEAD, count = k.shape[0]
        if (<size_t>k.shape[1] != width or v.shape[0] != k.shape[0] or v.shape[1] != k.shape[1]
                or v.strides[0] != k.strides[0]):
            raise ValueError(
                f"HeadCache.store: k {(k.shape[0], k.shape[1])} and v {(v.shape[0], v.shape[1])} "
                f"must both be (count, {width}) and equally strided"
            )
        if start < 0 or start + <Py_ssize_t>count > self.capacity:
            raise ValueError(
                f"HeadCache.store: positions {start} to {start + count} exceed the capacity {self.capacity}"
            )
        check_rows(k, "HeadCache.store: k")
        check_rows(v, "HeadCache.store: v")
        check_threads(threads)
        cdef size_t stride = k.strides[0] // sizeof(float)
        if count:
            with nogil:
                table.store_keys_values(&self.cache, &k[0, 0], &v[0, 0], stride, start, count, threads)


def attention(const float[:, :] q, HeadCache kv not None, int n_keys, *, bint causal=False, out=None,
              int threads=1):
    """softmax(q K^T / 8) V by heads over the first n_keys positions of the cache.

    q (count, n_head * 64) -> (count, n_head * 64), in `out` when given. causal: the queries are the last `count` of
    the n_keys positions and see none after themselves.
    """
    cdef size_t count = q.shape[0], width = kv.cache.n_head * HEAD
    if <size_t>q.shape[1] != width:
        raise ValueError(f"attention: q {(q.shape[0], q.shape[1])} is not (count, {width})")
    if n_keys < 1 or n_keys > kv.capacity or (causal and <size_t>n_keys < count):
        raise ValueError(
            f"attention: {n_keys} keys for {count} queries with a cache of capacity {kv.capacity}"
        )
    check_rows(q, "attention: q")
    check_threads(threads)
    if out is None:
        out = np.empty((count, width), np.float32)
    cdef float[:, ::1] result = out
    if <size_t>result.shape[0] != count or <size_t>result.shape[1] != width:
        raise ValueError(f"attention: out {out.shape} is not {(count, width)}")
    if count == 0:
        return out
    cdef float[::1] scratch = np.empty(
        threads * min(count, <size_t>QUERY_BLOCK) * kv.cache.capacity, np.float32
    )
    cdef size_t q_stride = q.strides[0] // sizeof(float)
    with nogil:
        table.attention(&result[0, 0], &q[0, 0], q_stride, count, &kv.cache, n_keys, causal,
                        &scratch[0], threads)
    return out


def vocab_stats(const float[::1] logits, int start, int stop):
    """(argmax, maximum, ln sum e^x) over logits[start:stop]; argmax is an index into logits, the first of equals."""
    cdef float maximum, logsumexp
    cdef size_t peak
    if not 0 <= start < stop <= logits.shape[0]:
        raise ValueError(f"vocab_stats: [{start}, {stop}) is not a range of {logits.shape[0]} logits")
    with nogil:
        peak = table.peak_and_logsumexp(&logits[start], stop - start, &maximum, &logsumexp)
    return start + <int>peak, maximum, logsumexp


cdef class MelPlan:
    """What turns 400 samples into n_mels bands: window (400,), roots (400, 2) = cos and -sin of 2 pi j / 400,
    filters (n_mels, 201)."""

    cdef wcy_mel mel
    cdef object arrays

    def __init__(self, window, roots, filters):
        if window.shape != (FFT_SIZE,) or roots.shape != (FFT_SIZE, 2):
            raise ValueError(
                f"MelPlan: window {window.shape} is not ({FFT_SIZE},) or roots {roots.shape} not ({FFT_SIZE}, 2)"
            )
        if filters.ndim != 2 or filters.shape[1] != FFT_BINS or not filters.shape[0]:
            raise ValueError(f"MelPlan: filters {filters.shape} are not (n_mels, {FFT_BINS})")
        used = filters != 0
        first = np.argmax(used, axis=1)
        after = np.where(used.any(axis=1), FFT_BINS - np.argmax(used[:, ::-1], axis=1), 0)
        spans = np.stack([first, after], axis=1).astype(np.int32)
        cdef const float[::1] w = np.ascontiguousarray(window, np.float32)
        cdef const float[:, ::1] r = np.ascontiguousarray(roots, np.float32)
        cdef const float[:, ::1] f = np.ascontiguousarray(filters, np.float32)
        cdef const int32_t[:, ::1] s = spans
        self.arrays = (w, r, f, s)
        self.mel = wcy_mel(&w[0], &r[0, 0], &f[0, 0], &s[0, 0], filters.shape[0])


def log_mel(const float[::1] samples, MelPlan plan not None, Py_ssize_t n_frames, *, int threads=1):
    """log10(max(mel power, 1e-10)) of frames [160 f, 160 f + 400) of samples (n,), zero past n -> (n_frames, n_mels)."""
    if n_frames < 0:
        raise ValueError(f"log_mel: {n_frames} frames")
    check_threads(threads)
    out = np.empty((n_frames, plan.mel.n_mels), np.float32)
    cdef float[:, ::1] result = out
    cdef size_t n_samples = samples.shape[0]
    cdef const float *start = &samples[0] if n_samples else NULL
    if n_frames:
        with nogil:
            table.log_mel(&result[0, 0], start, n_samples, n_frames, &plan.mel, threads)
    return out


use_isa(os.environ.get("WHISPER_CY_ISA") or available_isas()[0])
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=release_threads)
