"""Plain NumPy twins of the kernels, in float64: the formulas of csrc/kernels.h written as they
read.
"""

from __future__ import annotations

from math import erf

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
erf_of = np.vectorize(erf, otypes=[np.float64])


def gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + erf_of(x / np.sqrt(2.0)))


def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    use_gelu: bool = False,
) -> Array:
    """x (rows, k), weight (n, k) -> (rows, n)."""
    y = x.astype(np.float64) @ weight.astype(np.float64).T
    y = y if bias is None else y + bias
    y = gelu(y) if use_gelu else y
    return y if residual is None else y + residual


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """x (rows, n) -> (rows, n)."""
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q: Array, k: Array, v: Array, n_head: int, causal: bool) -> Array:
    """q (count, d), k and v (n_keys, d) -> (count, d); causal: query i sees n_keys - count + i + 1
    keys.
    """
    count, n_keys, size = len(q), len(k), q.shape[1] // n_head
    out = np.empty((count, q.shape[1]))
    for head in range(n_head):
        part = slice(head * size, (head + 1) * size)
        scores = q[:, part].astype(np.float64) @ k[:, part].astype(np.float64).T / np.sqrt(size)
        if causal:
            scores[np.triu_indices(count, n_keys - count + 1, n_keys)] = -np.inf
        out[:, part] = softmax(scores) @ v[:, part]
    return out


def vocab_stats(logits: Array, start: int, stop: int) -> tuple[int, float, float]:
    """(argmax, maximum, ln sum e^x) over logits[start:stop]."""
    x = logits[start:stop].astype(np.float64)
    top = x.max()
    if top == -np.inf:
        return start, top, top
    return start + int(x.argmax()), top, top + np.log(np.exp(x - top).sum())


def log_mel(samples: Array, filters: Array, n_frames: int) -> Array:
    """samples (n,), zeros after them; filters (n_mels, 201) -> log10 power (n_frames, n_mels)."""
    padded = np.zeros(max(len(samples), 160 * n_frames + 400))
    padded[: len(samples)] = samples
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160][:n_frames]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    return np.log10(np.maximum(power @ filters.astype(np.float64).T, 1e-10))
