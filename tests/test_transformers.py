"""Every published configuration, randomly initialised, against transformers on the same weights.

No real weights of these sizes are needed: what may go wrong with a size is its layers, heads, mel
bands and vocabulary. Two cuts keep it in the memory and time of a small machine: the true depth at
a width of 128 or 192 (heads of 64, as in every Whisper), and, under the marker `full`, the true
width with two layers in the encoder and two in the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: the reference is transformers")
pytest.importorskip("transformers", reason="needs transformers: it is the reference")

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

import whisper_cy

HEAD = 64
TOKENS = [50258, 50259, 50359, 50364, 440, 1150, 2062, 13, 50564]
RELATIVE_ERROR = 2e-5  # transformers itself in float32 is within 1e-6 of float64


@dataclass(frozen=True)
class Size:
    """One published configuration."""

    width: int
    encoder_layers: int
    decoder_layers: int
    n_vocab: int = 51866
    n_mels: int = 128

    def config(self, width: int, most_layers: int) -> WhisperConfig:
        return WhisperConfig(
            vocab_size=self.n_vocab,
            num_mel_bins=self.n_mels,
            d_model=width,
            encoder_layers=min(self.encoder_layers, most_layers),
            decoder_layers=min(self.decoder_layers, most_layers),
            encoder_attention_heads=width // HEAD,
            decoder_attention_heads=width // HEAD,
            encoder_ffn_dim=4 * width,
            decoder_ffn_dim=4 * width,
        )


SIZES = {
    "tiny": Size(384, 4, 4, 51865, 80),
    "small.en": Size(768, 12, 12, 51864, 80),
    "medium": Size(1024, 24, 24, 51865, 80),
    "large-v2": Size(1280, 32, 32, 51865, 80),
    "large-v3": Size(1280, 32, 32),
    "large-v3-turbo": Size(1280, 32, 4),
    "distil-medium.en": Size(1024, 24, 2, 51864, 80),
    "distil-large-v3": Size(1280, 32, 2),
}


def random_model(config: WhisperConfig, dtype: torch.dtype) -> Any:
    """Weights that keep activations near one through any depth, rounded to dtype, in float32."""
    torch.manual_seed(0)
    model: Any = WhisperForConditionalGeneration(config)
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_norm.weight"):
                parameter.normal_(1.0, 0.1)
            elif parameter.ndim == 1:
                parameter.normal_(0.0, 0.1)
            elif "embed_positions" not in name:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            parameter.copy_(parameter.to(dtype).float())
    return model


def random_mel(n_mels: int) -> np.ndarray:
    """(n_mels, 3000), in the range of a log-mel spectrogram."""
    return np.random.default_rng(1).uniform(-1, 1.5, (n_mels, 3000)).astype(np.float32)


def relative_error(value: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest value."""
    return float(np.abs(value - expected).max() / np.abs(expected).max())


def compare(config: WhisperConfig, folder: Path, dtype: torch.dtype) -> None:
    """Encoder output, logits of a whole prefix and of single cached steps, for weights in dtype."""
    reference = random_model(config, dtype)
    reference.to(dtype).save_pretrained(folder)
    reference.float()
    model = whisper_cy.load_model(folder, threads=2)
    mel = random_mel(config.num_mel_bins)
    tokens = np.array([TOKENS])
    with torch.no_grad():
        answer = reference(torch.from_numpy(mel)[None], decoder_input_ids=torch.from_numpy(tokens))
    features = model.encode(mel)
    assert relative_error(features, answer.encoder_last_hidden_state[0].numpy()) < RELATIVE_ERROR
    expected = answer.logits[0].numpy()
    whole = model.logits(model.decode(tokens, model.new_cache(features))[0])
    assert relative_error(whole, expected) < RELATIVE_ERROR
    assert relative_error(step_by_step(model, features, tokens), expected) < RELATIVE_ERROR


def step_by_step(model: Any, features: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """logits (n, n_vocab) of tokens (1, n) through the cache: three at once, then singly."""
    cache = model.new_cache(features)
    steps = [tokens[:, :3], *np.split(tokens[:, 3:], tokens.shape[1] - 3, axis=1)]
    return np.concatenate([model.logits(model.decode(step, cache)[0]) for step in steps])


@pytest.mark.parametrize("name", SIZES)
def test_true_depth(name: str, tmp_path: Path) -> None:
    width = 192 if name.startswith("distil") else 128
    compare(SIZES[name].config(width, most_layers=32), tmp_path, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_half_precision_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    compare(SIZES["large-v3-turbo"].config(128, most_layers=4), tmp_path, dtype)


@pytest.mark.full
@pytest.mark.parametrize("name", SIZES)
def test_true_width(name: str, tmp_path: Path) -> None:
    size = SIZES[name]
    compare(size.config(size.width, most_layers=2), tmp_path, torch.float16)
