"""CTranslate2's model.bin, version 6, little-endian; its strings are u16 length, text, NUL.

u32 version | string spec, u32 revision | u32 count, variables | u32 count, aliases (new, old)
variable: string name | u8 rank, u32 lengths | u8 type | u32 bytes | numbers

Projections that read the same input lie fused: q, k, v of self-attention in linear_0; k, v of
cross-attention in linear_1. int8 has beside it one scale per row: weight = int8 / scale.
"""

from __future__ import annotations

import re
from dataclasses import replace

from .dims import HEAD_SIZE, Dims
from .stored import DTYPES, Cursor, MappedFile, Source, Stored, read_alignment_heads

_VERSION = 6
_SPEC = b"WhisperSpec"
_KINDS = ("float32", "int8", "int16", "int32", "float16", "bfloat16")  # by type number
_FLOATS = ("float32", "float16", "bfloat16")
_MAX_RANK = 8


def is_ctranslate2(file: MappedFile) -> bool:
    """A small version number, then a string whose length is true."""
    length = int.from_bytes(file.data[4:6], "little")
    text = file.data[6 : 6 + length]
    is_string = 1 < length < 64 and text[-1:] == b"\0" and text[:-1].isalnum()
    return file.data[1:4] == b"\0\0\0" and is_string


def read_ctranslate2(file: MappedFile) -> Source:
    variables = _Variables(file)
    tensors = {
        "encoder.positional_embedding": variables.take("encoder/position_encodings/encodings"),
        "decoder.positional_embedding": variables.take("decoder/position_encodings/encodings"),
        "decoder.token_embedding.weight": variables.take("decoder/embeddings/weight"),
        "proj_out.weight": variables.take("decoder/projection/weight"),
    }
    for name in ("conv1", "conv2"):
        tensors |= variables.linear("encoder/" + name, [f"encoder.{name}"])
    tensors |= variables.layer_norm("encoder/layer_norm", "encoder.ln_post")
    tensors |= variables.layer_norm("decoder/layer_norm", "decoder.ln")
    n_audio_layer, n_text_layer = variables.n_layers("encoder"), variables.n_layers("decoder")
    for i in range(n_audio_layer):
        tensors |= _block(variables, f"encoder/layer_{i}", f"encoder.blocks.{i}")
    for i in range(n_text_layer):
        tensors |= _block(variables, f"decoder/layer_{i}", f"decoder.blocks.{i}")
        tensors |= _cross_attention(variables, f"decoder/layer_{i}", f"decoder.blocks.{i}")
    dims = _dims(variables, tensors, n_audio_layer, n_text_layer)
    return Source(dims, tensors, read_alignment_heads(file.path.with_name("config.json")))


def _dims(
    variables: _Variables, tensors: dict[str, Stored], n_audio_layer: int, n_text_layer: int
) -> Dims:
    n_mels = variables.length(tensors["encoder.conv1.weight"], 1)
    n_audio_ctx, n_audio_state = (
        variables.length(tensors["encoder.positional_embedding"], axis) for axis in (0, 1)
    )
    n_text_ctx, n_text_state = (
        variables.length(tensors["decoder.positional_embedding"], axis) for axis in (0, 1)
    )
    return Dims(
        n_mels=n_mels,
        n_audio_ctx=n_audio_ctx,
        n_audio_state=n_audio_state,
        n_audio_head=variables.integer("encoder/num_heads", n_audio_state // HEAD_SIZE),
        n_audio_layer=n_audio_layer,
        n_vocab=variables.length(tensors["decoder.token_embedding.weight"], 0),
        n_text_ctx=n_text_ctx,
        n_text_state=n_text_state,
        n_text_head=variables.integer("decoder/num_heads", n_text_state // HEAD_SIZE),
        n_text_layer=n_text_layer,
    )


def _block(variables: _Variables, own: str, name: str) -> dict[str, Stored]:
    """Self-attention and MLP of a block; its own name -> OpenAI's name."""
    attention = f"{own}/self_attention"
    parts = [f"{name}.attn.{part}" for part in ("query", "key", "value")]
    return {
        **variables.linear(f"{attention}/linear_0", parts),
        **variables.linear(f"{attention}/linear_1", [f"{name}.attn.out"]),
        **variables.layer_norm(f"{attention}/layer_norm", f"{name}.attn_ln"),
        **variables.linear(f"{own}/ffn/linear_0", [f"{name}.mlp.0"]),
        **variables.linear(f"{own}/ffn/linear_1", [f"{name}.mlp.2"]),
        **variables.layer_norm(f"{own}/ffn/layer_norm", f"{name}.mlp_ln"),
    }


def _cross_attention(variables: _Variables, own: str, name: str) -> dict[str, Stored]:
    attention, name = f"{own}/attention", f"{name}.cross_attn"
    return {
        **variables.linear(f"{attention}/linear_0", [f"{name}.query"]),
        **variables.linear(f"{attention}/linear_1", [f"{name}.key", f"{name}.value"]),
        **variables.linear(f"{attention}/linear_2", [f"{name}.out"]),
        **variables.layer_norm(f"{attention}/layer_norm", f"{name}_ln"),
    }


class _Variables:
    """The variables of a model.bin by name, aliases resolved."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._stored: dict[str, Stored] = {}
        cursor = Cursor(file)
        self._check_header(cursor)
        for _ in range(*cursor.unpack("I")):
            self._read_variable(cursor)
        for _ in range(*cursor.unpack("I")):
            self._read_alias(cursor)

    def _check_header(self, cursor: Cursor) -> None:
        (version,) = cursor.unpack("I")
        spec = _string(cursor)
        cursor.unpack("I")  # the revision of the spec: what it changed shows in the names
        if spec != _SPEC.decode():
            raise self._file.error(f"a CTranslate2 model, but {spec[:40]!r} instead of Whisper")
        if version != _VERSION:
            raise self._file.error(
                f"CTranslate2's format version {version}; {_VERSION} can be read: convert it again"
            )

    def _read_variable(self, cursor: Cursor) -> None:
        name = _string(cursor)
        (rank,) = cursor.unpack("B")
        if rank > _MAX_RANK:
            raise self._file.error(f"damaged: {name[:80]} has rank {rank}")
        shape = cursor.unpack(f"{rank}I")
        code, size = cursor.unpack("BI")
        if code >= len(_KINDS):
            raise self._file.error(f"damaged: {name[:80]} has the unknown type {code}")
        data = cursor.view(DTYPES[_KINDS[code]], shape)
        if data.nbytes != size:
            raise self._file.error(
                f"damaged: {name[:80]} has {size} bytes but its shape is {shape}"
            )
        self._stored[name] = Stored(data, _KINDS[code])

    def _read_alias(self, cursor: Cursor) -> None:
        alias, name = _string(cursor), _string(cursor)
        if name not in self._stored:
            raise self._file.error(
                f"damaged: {alias[:80]} stands for {name[:80]}, which is not there"
            )
        self._stored[alias] = self._stored[name]
        if f"{name}_scale" in self._stored:
            self._stored[f"{alias}_scale"] = self._stored[f"{name}_scale"]

    def take(self, name: str) -> Stored:
        """A tensor of floats, or of int8 with its scale."""
        stored = self._stored.get(name)
        if stored is None:
            raise self._file.error(f"not a whole Whisper model: {name} is missing")
        if stored.kind in _FLOATS:
            return stored
        if stored.kind != "int8":
            raise self._file.error(
                f"{name} is {stored.kind}; float32, float16, bfloat16, int8 can be read"
            )
        scale = self._stored.get(f"{name}_scale")
        if scale is None or scale.kind not in _FLOATS or scale.shape != stored.shape[:1]:
            raise self._file.error(f"damaged: {name} has no scale per row")
        return replace(stored, scale=scale.array())

    def linear(self, own: str, names: list[str]) -> dict[str, Stored]:
        """weight and bias of a projection or convolution, in equal parts where fused."""
        parts = {}
        for kind in ("weight", "bias"):
            fused = self.take(f"{own}/{kind}")
            rows, rest = divmod(self.length(fused, 0), len(names))
            if rest:
                raise self._file.error(
                    f"{own}/{kind} of shape {fused.shape} is no {len(names)} parts"
                )
            for i, name in enumerate(names):
                parts[f"{name}.{kind}"] = fused.rows(i * rows, (i + 1) * rows)
        return parts

    def layer_norm(self, own: str, name: str) -> dict[str, Stored]:
        return {
            f"{name}.weight": self.take(f"{own}/gamma"),
            f"{name}.bias": self.take(f"{own}/beta"),
        }

    def n_layers(self, side: str) -> int:
        """One more than the highest layer number."""
        found = (re.match(rf"{side}/layer_(\d{{1,4}})/", name) for name in self._stored)
        return max((int(match[1]) + 1 for match in found if match), default=0)

    def length(self, stored: Stored, axis: int) -> int:
        if axis >= len(stored.shape):
            raise self._file.error(f"not a Whisper model: a tensor has the shape {stored.shape}")
        return stored.shape[axis]

    def integer(self, name: str, default: int) -> int:
        stored = self._stored.get(name)
        return default if stored is None or stored.shape != () else int(stored.data)


def _string(cursor: Cursor) -> str:
    (length,) = cursor.unpack("H")
    return cursor.take(length).rstrip(b"\0").decode("utf-8", "replace")
