"""A model of no layers, in whisper-cy's interface and in openai-whisper's, with the same logits.

The logits depend on the position and on the token there, and lean towards the tokens which make
decodings interesting: timestamps, spaces and the end of the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from whisper_cy.dims import Dims

N_STATE = 64


def tiny_dims(n_vocab: int = 51864) -> Dims:
    return Dims(80, 1500, N_STATE, 1, 1, n_vocab, 448, N_STATE, 1, 1)


@dataclass
class FakeCache:
    """Remembers only how many tokens it was given."""

    rows: int
    length: int = 0


class FakeModel:
    """whisper_cy.model.Whisper without weights: `logits_at` is all it knows."""

    threads = 1

    def __init__(self, dims: Dims, seed: int, end_after: int = 40, lean: float = 6.0) -> None:
        self.dims = dims
        self.seed = seed
        random = np.random.default_rng(seed)
        self.noise = random.standard_normal(dims.n_vocab, dtype=np.float32) * 2
        self.end_after = end_after
        self.lean = lean
        self.encoded: list[np.ndarray] = []

    @property
    def is_multilingual(self) -> bool:
        return self.dims.is_multilingual

    @property
    def num_languages(self) -> int:
        return self.dims.num_languages

    def logits_at(self, position: int, token: int) -> np.ndarray:
        """(n_vocab,) float32."""
        mixed = (position * 7919 + token * 104729 + self.seed) % self.dims.n_vocab
        logits = np.roll(self.noise, mixed)
        logits[self.dims.n_vocab - 1501 :] += (-20.0, 0.0, self.lean)[mixed % 3]
        eot = 50257 if self.is_multilingual else 50256
        logits[eot] += self.lean * (mixed % 2) + (position - self.end_after) / 4
        return logits

    def encode(self, mel: np.ndarray, check: Callable[[], None] = list) -> np.ndarray:
        check()
        self.encoded.append(mel)
        return np.zeros((self.dims.n_audio_ctx, N_STATE), np.float32)

    def new_cache(self, features: np.ndarray, rows: int = 1) -> FakeCache:
        return FakeCache(rows)

    def decode(self, tokens: np.ndarray, cache: FakeCache) -> np.ndarray:
        """states (rows, n, 2): the position and the token, all that the logits need."""
        rows, n = tokens.shape
        assert rows == cache.rows
        assert cache.length + n <= self.dims.n_text_ctx
        positions = np.arange(cache.length, cache.length + n)
        cache.length += n
        return np.stack([np.tile(positions, (rows, 1)), tokens], axis=-1).astype(np.float32)

    def logits(self, states: np.ndarray, cache: FakeCache | None = None) -> np.ndarray:
        return np.stack([self.logits_at(int(p), int(token)) for p, token in states])


def as_openai(model: FakeModel) -> Any:
    """The same model for openai-whisper's DecodingTask."""
    import torch

    class Decoder:
        blocks = ()
        length = 0

        def __call__(self, tokens: Any, features: Any, kv_cache: Any) -> Any:
            rows = tokens.tolist()
            self.length = 0 if len(rows[0]) > 1 or self.length == 0 else self.length
            start, self.length = self.length, self.length + len(rows[0])
            logits = [[model.logits_at(start + i, t) for i, t in enumerate(row)] for row in rows]
            return torch.from_numpy(np.array(logits))

    class Model:
        dims = model.dims
        is_multilingual = model.is_multilingual
        num_languages = model.num_languages
        device = torch.device("cpu")
        decoder = Decoder()

        def install_kv_cache_hooks(self) -> Any:
            return {}, []

        def logits(self, tokens: Any, features: Any) -> Any:
            return Decoder()(tokens, features, None)

        def detect_language(self, features: Any, tokenizer: Any = None) -> Any:
            from whisper.decoding import detect_language

            return detect_language(self, features, tokenizer)

    return Model()
