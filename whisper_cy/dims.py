"""The sizes that tell one Whisper from another, and the shape of every tensor they ask for."""

from __future__ import annotations

from dataclasses import dataclass, fields

HEAD_SIZE = 64
"""Channels of one attention head: the same in every Whisper, and what the kernels are built for."""

VOCABULARY_SIZES = (51864, 51865, 51866)
"""English only; multilingual with 99 languages; with 100 (large-v3 and its descendants)."""

# Far beyond any Whisper: they keep damaged sizes from asking for a list of a billion names.
_MAX_SIZE = 1 << 20
_MAX_LAYERS = 256


@dataclass(frozen=True)
class Dims:
    """A Whisper's sizes under OpenAI's names: contexts in positions, states in channels."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @property
    def is_multilingual(self) -> bool:
        return self.n_vocab >= 51865

    @property
    def num_languages(self) -> int:
        return self.n_vocab - 51765 - int(self.is_multilingual)

    def problem(self) -> str | None:
        """Why no Whisper has these sizes, or None."""
        for field in fields(self):
            value = getattr(self, field.name)
            limit = _MAX_LAYERS if field.name.endswith("layer") else _MAX_SIZE
            if type(value) is not int or not 0 < value <= limit:
                return f"{field.name} cannot be {_short(value)}"
        if self.n_vocab not in VOCABULARY_SIZES:
            return f"its vocabulary has {self.n_vocab} tokens; Whisper's have 51864, 51865 or 51866"
        if self.n_audio_state != self.n_text_state:
            return f"the encoder has {self.n_audio_state} channels, the decoder {self.n_text_state}"
        for head in (self.n_audio_head, self.n_text_head):
            if head * HEAD_SIZE != self.n_audio_state:
                return (
                    f"{head} heads share {self.n_audio_state} channels; each must have {HEAD_SIZE}"
                )
        return None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """OpenAI's name of every tensor -> its shape."""
        n_state = self.n_audio_state
        shapes: dict[str, tuple[int, ...]] = {
            "encoder.conv1.weight": (n_state, self.n_mels, 3),
            "encoder.conv1.bias": (n_state,),
            "encoder.conv2.weight": (n_state, n_state, 3),
            "encoder.conv2.bias": (n_state,),
            "encoder.positional_embedding": (self.n_audio_ctx, n_state),
            "decoder.token_embedding.weight": (self.n_vocab, n_state),
            "decoder.positional_embedding": (self.n_text_ctx, n_state),
        }
        for i in range(self.n_audio_layer):
            shapes |= _block(f"encoder.blocks.{i}", n_state, ("attn",))
        for i in range(self.n_text_layer):
            shapes |= _block(f"decoder.blocks.{i}", n_state, ("attn", "cross_attn"))
        return shapes | _layer_norm("encoder.ln_post", n_state) | _layer_norm("decoder.ln", n_state)


def _short(value: object) -> str:
    """An untrusted value for a message, never longer than a line takes."""
    return f"{value}" if isinstance(value, (int, float)) and abs(value) < 1e12 else "that value"


def _block(name: str, n_state: int, attentions: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    shapes = {
        f"{name}.mlp.0.weight": (4 * n_state, n_state),
        f"{name}.mlp.0.bias": (4 * n_state,),
        f"{name}.mlp.2.weight": (n_state, 4 * n_state),
        f"{name}.mlp.2.bias": (n_state,),
    } | _layer_norm(f"{name}.mlp_ln", n_state)
    for attention in attentions:
        for projection in ("query", "key", "value", "out"):
            shapes[f"{name}.{attention}.{projection}.weight"] = (n_state, n_state)
            if projection != "key":
                shapes[f"{name}.{attention}.{projection}.bias"] = (n_state,)
        shapes |= _layer_norm(f"{name}.{attention}_ln", n_state)
    return shapes


def _layer_norm(name: str, n_state: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_state,), f"{name}.bias": (n_state,)}
