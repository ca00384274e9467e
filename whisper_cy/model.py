"""Whisper's encoder and decoder over the kernels.

mel (n_mels, 3000) -> Encoder -> features (1500, d)
features -> KVCache: the cross keys and values of every layer, once a window
tokens -> Decoder(tokens, cache) -> states -> Decoder.logits -> (rows, n_vocab)

Weights are packed when the model is made, in half precision where that holds every value exactly
(as OpenAI's do); arithmetic is float32. A model is never changed by a call: what a call changes is
in its own KVCache and arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from . import kernels
from .threads import Pace, default_threads
from .weights import Checkpoint, Dims

Array = NDArray[np.float32]
Tensors = Mapping[str, NDArray[Any]]

Check = Callable[[], None]

PACKING_THREADS = default_threads()


def do_nothing() -> None:
    """The check of a call that nobody cancels."""


class Linear:
    """x (rows, k) -> x W^T + bias (rows, n), then GELU or the residual if asked for."""

    def __init__(self, weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
        self.weight = kernels.Matrix(half_if_exact(weight), PACKING_THREADS)
        self.bias = None if bias is None else float32(bias)

    def __call__(
        self,
        x: Array,
        threads: int,
        *,
        gelu: bool = False,
        residual: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        return kernels.linear(
            x, self.weight, self.bias, residual, gelu=gelu, out=out, threads=threads
        )


class LayerNorm:
    """x (rows, n) -> (rows, n)."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        self.weight = float32(tensors[f"{name}.weight"])
        self.bias = float32(tensors[f"{name}.bias"])

    def __call__(self, x: Array, threads: int, out: Array | None = None) -> Array:
        return kernels.layer_norm(x, self.weight, self.bias, out=out, threads=threads)


class Conv:
    """Convolution of width 3, padding 1: a Linear over rows of three neighbouring frames."""

    def __init__(self, tensors: Tensors, name: str, stride: int) -> None:
        weight = tensors[f"{name}.weight"].transpose(0, 2, 1)  # (n, 3, channels)
        self.linear = Linear(weight.reshape(len(weight), -1), tensors[f"{name}.bias"])
        self.stride = stride

    def __call__(
        self, x: Array, threads: int, residual: Array | None = None, out: Array | None = None
    ) -> Array:
        """x (1 + frames + 1, channels), first and last row zero -> GELU (frames / stride, n)."""
        frames, channels = x.shape[0] - 2, x.shape[1]
        step = x.strides[0]
        rows = as_strided(x, (frames // self.stride, 3 * channels), (step * self.stride, 4))
        return self.linear(rows, threads, gelu=True, residual=residual, out=out)


class EncoderBuffers:
    """The arrays of one encoder pass. `hidden` is the MLP's or the attention's, never both."""

    def __init__(self, n_ctx: int, n_state: int, n_head: int) -> None:
        self.x, self.y, self.normed = np.empty((3, n_ctx, n_state), np.float32)
        self.hidden = np.empty((n_ctx, 4 * n_state), np.float32)
        flat, split = self.hidden.reshape(-1), 3 * n_ctx * n_state
        self.qkv = flat[:split].reshape(n_ctx, 3 * n_state)
        self.mixed = flat[split:].reshape(n_ctx, n_state)
        self.heads = kernels.HeadCache(n_head, n_ctx)


class EncoderBlock:
    """Self-attention and MLP, each on the layer norm of its input and added to it."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        self.attn_ln = LayerNorm(tensors, f"{name}.attn_ln")
        self.qkv = fused(tensors, f"{name}.attn", ("query", "key", "value"))
        self.out = linear(tensors, f"{name}.attn.out")
        self.mlp_ln = LayerNorm(tensors, f"{name}.mlp_ln")
        self.mlp_in = linear(tensors, f"{name}.mlp.0")
        self.mlp_out = linear(tensors, f"{name}.mlp.2")

    def __call__(self, work: EncoderBuffers, threads: int) -> None:
        """work.x (n_ctx, n_state) -> work.x."""
        n_ctx, n_state = work.x.shape
        self.qkv(self.attn_ln(work.x, threads, out=work.normed), threads, out=work.qkv)
        q, k, v = (work.qkv[:, i * n_state : (i + 1) * n_state] for i in range(3))
        work.heads.store(k, v, 0, threads=threads)
        kernels.attention(q, work.heads, n_ctx, out=work.mixed, threads=threads)
        self.out(work.mixed, threads, residual=work.x, out=work.y)
        self.mlp_ln(work.y, threads, out=work.normed)
        self.mlp_in(work.normed, threads, gelu=True, out=work.hidden)
        self.mlp_out(work.hidden, threads, residual=work.y, out=work.x)


class Encoder:
    """Log-mel spectrogram -> audio features."""

    def __init__(self, dims: Dims, tensors: Tensors) -> None:
        self.dims = dims
        self.conv1 = Conv(tensors, "encoder.conv1", 1)
        self.conv2 = Conv(tensors, "encoder.conv2", 2)
        self.positional_embedding = float32(tensors["encoder.positional_embedding"])
        names = [f"encoder.blocks.{i}" for i in range(dims.n_audio_layer)]
        self.blocks = [EncoderBlock(tensors, name) for name in names]
        self.ln_post = LayerNorm(tensors, "encoder.ln_post")

    def __call__(self, mel: Array, threads: int, check: Check = do_nothing) -> Array:
        """mel (n_mels, 2 * n_audio_ctx) -> features (n_audio_ctx, n_state).

        check is called before each block and may raise, to cancel.
        """
        dims = self.dims
        frames = 2 * dims.n_audio_ctx
        if mel.shape != (dims.n_mels, frames):
            raise ValueError(f"mel is {mel.shape}; this model needs {(dims.n_mels, frames)}")
        padded = np.zeros((frames + 2, dims.n_mels), np.float32)
        padded[1:-1] = mel.T
        convolved = np.empty((frames + 2, dims.n_audio_state), np.float32)
        convolved[[0, -1]] = 0.0
        self.conv1(padded, threads, out=convolved[1:-1])
        work = EncoderBuffers(dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head)
        self.conv2(convolved, threads, residual=self.positional_embedding, out=work.x)
        for block in self.blocks:
            check()
            block(work, threads)
        return self.ln_post(work.x, threads)


class KVCache:
    """What a decoding call remembers: `rows` token histories over one window of audio.

    cross[layer]: keys and values of the audio, shared by all rows. own[layer][row]: those of the
    tokens so far. pace: how many threads its steps use.
    """

    def __init__(
        self, cross: list[kernels.HeadCache], own: list[list[kernels.HeadCache]], pace: Pace
    ) -> None:
        self.cross = cross
        self.own = own
        self.pace = pace
        self.length = 0

    @property
    def rows(self) -> int:
        return len(self.own[0])

    def reorder(self, indices: Sequence[int]) -> None:
        """Row i goes on from what was row indices[i]; a row may be taken often or never."""
        for layer in self.own:
            taken: set[int] = set()
            rows = []
            for index in indices:
                rows.append(layer[index].copy() if index in taken else layer[index])
                taken.add(index)
            layer[:] = rows

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"truncate to {length} of {self.length} positions")
        self.length = length


class DecoderBlock:
    """Causal self-attention, attention to the audio, MLP: each on a layer norm, then added."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        self.attn_ln = LayerNorm(tensors, f"{name}.attn_ln")
        self.qkv = fused(tensors, f"{name}.attn", ("query", "key", "value"))
        self.out = linear(tensors, f"{name}.attn.out")
        self.cross_attn_ln = LayerNorm(tensors, f"{name}.cross_attn_ln")
        self.cross_query = linear(tensors, f"{name}.cross_attn.query")
        self.cross_key_value = fused(tensors, f"{name}.cross_attn", ("key", "value"))
        self.cross_out = linear(tensors, f"{name}.cross_attn.out")
        self.mlp_ln = LayerNorm(tensors, f"{name}.mlp_ln")
        self.mlp_in = linear(tensors, f"{name}.mlp.0")
        self.mlp_out = linear(tensors, f"{name}.mlp.2")

    def __call__(self, x: Array, cache: KVCache, layer: int, threads: int) -> Array:
        """x (rows * n, n_state): n new positions a row -> the same shape."""
        x = self.out(self._attend(x, cache.own[layer], cache.length, threads), threads, residual=x)
        query = self.cross_query(self.cross_attn_ln(x, threads), threads)
        cross = cache.cross[layer]
        audio = kernels.attention(query, cross, cross.capacity, threads=threads)
        x = self.cross_out(audio, threads, residual=x)
        hidden = self.mlp_in(self.mlp_ln(x, threads), threads, gelu=True)
        return self.mlp_out(hidden, threads, residual=x)

    def _attend(self, x: Array, own: list[kernels.HeadCache], length: int, threads: int) -> Array:
        """Self-attention of each row's new positions, which go into its cache after `length`."""
        n_state, n = x.shape[1], len(x) // len(own)
        qkv, mixed = self.qkv(self.attn_ln(x, threads), threads), np.empty_like(x)
        for row, heads in enumerate(own):
            part = slice(row * n, (row + 1) * n)
            q, k, v = (qkv[part, i * n_state : (i + 1) * n_state] for i in range(3))
            heads.store(k, v, length, threads=threads)
            kernels.attention(q, heads, length + n, causal=True, out=mixed[part], threads=threads)
        return mixed

    def hear(self, features: Array, n_head: int, threads: int) -> kernels.HeadCache:
        """features (n_audio_ctx, n_state) -> keys and values of this block's cross-attention."""
        n_ctx, n_state = features.shape
        heads, kv = kernels.HeadCache(n_head, n_ctx), self.cross_key_value(features, threads)
        heads.store(kv[:, :n_state], kv[:, n_state:], 0, threads=threads)
        return heads


class Decoder:
    """Tokens and audio features -> logits of the next token."""

    def __init__(self, dims: Dims, tensors: Tensors) -> None:
        self.dims = dims
        self.token_embedding = Linear(tensors["decoder.token_embedding.weight"], None)
        self.positional_embedding = float32(tensors["decoder.positional_embedding"])
        names = [f"decoder.blocks.{i}" for i in range(dims.n_text_layer)]
        self.blocks = [DecoderBlock(tensors, name) for name in names]
        self.ln = LayerNorm(tensors, "decoder.ln")

    def start(self, features: Array, rows: int, threads: int) -> KVCache:
        """features (n_audio_ctx, n_state) -> a cache of `rows` empty histories."""
        dims = self.dims
        cross = [block.hear(features, dims.n_text_head, threads) for block in self.blocks]
        own = [
            [kernels.HeadCache(dims.n_text_head, dims.n_text_ctx) for _ in range(rows)]
            for _ in self.blocks
        ]
        return KVCache(cross, own, Pace(threads))

    def __call__(self, tokens: NDArray[np.integer[Any]], cache: KVCache) -> Array:
        """tokens (rows, n), appended to the cache -> states (rows, n, n_state)."""
        rows, n = tokens.shape
        end = cache.length + n
        if rows != cache.rows or n < 1 or end > self.dims.n_text_ctx:
            raise ValueError(
                f"tokens {tokens.shape} do not fit a cache of {cache.rows} rows at position "
                f"{cache.length} of {self.dims.n_text_ctx}"
            )
        position = np.tile(self.positional_embedding[cache.length : end], (rows, 1))
        ids = np.ascontiguousarray(tokens, np.int32).reshape(-1)
        x = kernels.embed(ids, self.token_embedding.weight, position)
        with cache.pace as threads:
            for layer, block in enumerate(self.blocks):
                x = block(x, cache, layer, threads)
            x = self.ln(x, threads)
        cache.length = end
        return x.reshape(rows, n, -1)

    def logits(self, states: Array, threads: int) -> Array:
        """states (m, n_state) -> (m, n_vocab)."""
        return self.token_embedding(states, threads)


class Whisper:
    """A Whisper model: its sizes, its encoder and its decoder."""

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        self.dims = checkpoint.dims
        self.alignment_heads = checkpoint.alignment_heads
        self.threads = threads
        self.encoder = Encoder(self.dims, checkpoint.tensors)
        self.decoder = Decoder(self.dims, checkpoint.tensors)

    @property
    def is_multilingual(self) -> bool:
        return self.dims.is_multilingual

    @property
    def num_languages(self) -> int:
        return self.dims.num_languages

    def encode(self, mel: Array, check: Check = do_nothing) -> Array:
        """mel (n_mels, 3000) -> features (1500, n_state); check, called by blocks, may raise."""
        return self.encoder(mel, self.threads, check)

    def new_cache(self, features: Array, rows: int = 1) -> KVCache:
        """features (1500, n_state) -> the cache of `rows` decodings of that audio."""
        return self.decoder.start(features, rows, self.threads)

    def decode(self, tokens: NDArray[np.integer[Any]], cache: KVCache) -> Array:
        """tokens (rows, n) -> states (rows, n, n_state); the cache grows by n positions."""
        return self.decoder(tokens, cache)

    def logits(self, states: Array, cache: KVCache | None = None) -> Array:
        """states (m, n_state) -> (m, n_vocab), at the pace of the cache they come from if given."""
        return self.decoder.logits(states, cache.pace.threads if cache else self.threads)


def float32(array: NDArray[Any]) -> Array:
    return np.ascontiguousarray(array, np.float32)


def half_if_exact(weight: NDArray[Any]) -> NDArray[Any]:
    """The weight in float16 if that holds every value of it, else in float32."""
    if weight.dtype == np.float16:
        return weight
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    return half if np.array_equal(half, weight) else float32(weight)


def linear(tensors: Tensors, name: str) -> Linear:
    return Linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def fused(tensors: Tensors, name: str, parts: Sequence[str]) -> Linear:
    """Several projections of one input as one Linear; zeros for the bias that keys have not."""
    weights = [tensors[f"{name}.{part}.weight"] for part in parts]
    zeros = np.zeros(len(weights[0]), np.float32)
    biases = [zeros if part == "key" else tensors[f"{name}.{part}.bias"] for part in parts]
    return Linear(np.concatenate(weights), np.concatenate(biases))
