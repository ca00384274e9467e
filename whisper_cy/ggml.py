"""whisper.cpp's GGML file, little-endian, f32 or f16.

magic, 11 x i32 sizes | i32 n_mels, n_fft, f32 filters | i32 count, tokens (u32 length, bytes)
then tensors to the end: i32 rank, name length, type | i32 lengths, innermost first | name | numbers
"""

from __future__ import annotations

from .dims import Dims
from .stored import DTYPES, Cursor, MappedFile, Source, Stored

MAGIC = 0x67676D6C
_KINDS = {0: "float32", 1: "float16"}
_QUANTISED = {2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1"} | {
    10: "q2_k", 11: "q3_k", 12: "q4_k", 13: "q5_k", 14: "q6_k"
}  # fmt: skip
_SIZES = (
    "n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer",
    "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer", "n_mels", "ftype",
)  # fmt: skip
_MAX_TENSOR_RANK = 4


def is_ggml(file: MappedFile) -> bool:
    return file.data[:4] == MAGIC.to_bytes(4, "little")


def read_ggml(file: MappedFile) -> Source:
    cursor = Cursor(file, offset=4)
    sizes = dict(zip(_SIZES, cursor.unpack("11i"), strict=True))
    del sizes["ftype"]  # each tensor tells its own
    dims = Dims(**sizes)
    problem = dims.problem()
    if problem:
        raise file.error(f"not a Whisper model: {problem}")
    cursor.view(DTYPES["float32"], cursor.unpack("2i"))
    (n_tokens,) = cursor.unpack("i")
    if n_tokens > dims.n_vocab:
        raise file.error(f"damaged: {n_tokens} words in a vocabulary of {dims.n_vocab}")
    for _ in range(n_tokens):
        cursor.take(*cursor.unpack("I"))
    tensors: dict[str, Stored] = {}
    while not cursor.at_end():
        name, tensor = _tensor(cursor)
        tensors[name] = tensor
    return Source(dims, tensors)


def _tensor(cursor: Cursor) -> tuple[str, Stored]:
    rank, name_length, code = cursor.unpack("3i")
    if not 0 < rank <= _MAX_TENSOR_RANK:
        raise cursor.file.error(f"damaged: a tensor of rank {rank}")
    lengths = cursor.unpack(f"{rank}i")
    name = cursor.take(name_length).decode("utf-8", "replace")
    if code not in _KINDS:
        quantised = _QUANTISED.get(code, f"of type {code}")
        raise cursor.file.error(
            f"{name[:80]} is {quantised}; f32 and f16 can be read: use the model's f16 file"
        )
    # The writers drop and add axes of length 1; Whisper itself has none.
    shape = tuple(length for length in reversed(lengths) if length != 1)
    kind = _KINDS[code]
    return name, Stored(cursor.view(DTYPES[kind], shape), kind)
