"""Writes one set of weights in every format that whisper-cy reads, with NumPy alone.

dims, tensors = random_weights(seed)          OpenAI's names -> float32, every value also a float16
write_openai(path, dims, tensors, "float16")  and so on, a function for each format
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whisper_cy.dims import Dims
from whisper_cy.hugging_face import hugging_face_name

Array = npt.NDArray[Any]
Weights = Mapping[str, Array]

SMALL = Dims(
    n_mels=8,
    n_audio_ctx=6,
    n_audio_state=64,
    n_audio_head=1,
    n_audio_layer=2,
    n_vocab=51864,
    n_text_ctx=5,
    n_text_state=64,
    n_text_head=1,
    n_text_layer=1,
)
"""The smallest Whisper: true head size and vocabulary, more encoder than decoder layers."""

HEADS = ((0, 0),)

_BITS = {"float32": "<f4", "float16": "<f2"}
_SAFETENSORS_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage"}
_GGML_CODES = {"float32": 0, "float16": 1}
_CT2_KINDS = ("float32", "int8", "int16", "int32", "float16", "bfloat16")


def random_weights(seed: int = 0, dims: Dims = SMALL) -> tuple[Dims, dict[str, Array]]:
    """OpenAI's names -> float32 of 7 significant bits, which bfloat16 and float16 hold too."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in dims.shapes().items():
        values = generator.integers(-127, 128, shape) / np.float32(1024)
        tensors[name] = values.astype(np.float32)
    return dims, tensors


def numbers(array: Array, kind: str) -> bytes:
    """The array's values as a file of that kind holds them."""
    if kind == "bfloat16":
        array = (array.astype("<f4").view("<u4") >> np.uint32(16)).astype("<u2")
        return bytes(array.tobytes())
    return bytes(array.astype(_BITS[kind]).tobytes())


# --- OpenAI's .pt --------------------------------------------------------------------------------


class _Tensor:
    def __init__(self, key: str, array: Array, kind: str) -> None:
        self.key, self.array, self.kind = key, array, kind


def _pickled(root: object, view_metadata: bytes = b"") -> bytes:
    """Protocol 2, as torch.save's pickler writes it but without memo; N is the legacy metadata."""
    return b"\x80\x02" + _opcodes(root, view_metadata) + b"."


def _opcodes(value: Any, metadata: bytes) -> bytes:
    if isinstance(value, _Tensor):
        return _tensor_opcodes(value, metadata)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, tuple):
        return b"(" + b"".join(_opcodes(item, metadata) for item in value) + b"t"
    new = b"ccollections\nOrderedDict\n)R" if isinstance(value, OrderedDict) else b"}"
    items = (_opcodes(part, metadata) for item in value.items() for part in item)
    return new + b"(" + b"".join(items) + b"u"


def _tensor_opcodes(tensor: _Tensor, metadata: bytes) -> bytes:
    array = tensor.array
    strides = tuple(stride // array.itemsize for stride in array.strides)
    key, count = _opcodes(tensor.key, b""), _opcodes(array.size, b"")
    storage_class = f"ctorch\n{_STORAGES[tensor.kind]}\n".encode()
    storage = b"(" + _opcodes("storage", b"") + storage_class + key
    storage += _opcodes("cpu", b"") + count + metadata + b"tQ"
    place = _opcodes(0, b"") + _opcodes(array.shape, b"") + _opcodes(strides, b"")
    hooks = b"\x89" + _opcodes(OrderedDict(), b"")
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + place + hooks + b"tR"


def write_openai(
    path: Path, dims: Dims, tensors: Weights, kind: str = "float16", legacy: bool = False
) -> None:
    """torch.save({"dims": ..., "model_state_dict": ...}) in its zip form or the one before 1.6."""
    keyed = {name: _Tensor(str(i), tensors[name], kind) for i, name in enumerate(tensors)}
    root = {"dims": asdict(dims), "model_state_dict": OrderedDict(keyed)}
    (_write_legacy_torch if legacy else _write_torch)(path, root, list(keyed.values()))


def write_pickle(path: Path, root: object) -> None:
    """A file in torch.save's zip form with any object as its root."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(root, 2))
        archive.writestr("archive/byteorder", "little")


def _write_torch(path: Path, root: object, tensors: list[_Tensor]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickled(root))
        archive.writestr("archive/byteorder", "little")
        for tensor in tensors:
            archive.writestr(f"archive/data/{tensor.key}", numbers(tensor.array, tensor.kind))
        archive.writestr("archive/version", "3\n")


def _write_legacy_torch(path: Path, root: object, tensors: list[_Tensor]) -> None:
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    with path.open("wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, machine):
            pickle.dump(value, file, 2)
        file.write(_pickled(root, b"N"))
        pickle.dump([tensor.key for tensor in tensors], file, 2)
        for tensor in tensors:
            file.write(struct.pack("<q", tensor.array.size) + numbers(tensor.array, tensor.kind))


# --- Hugging Face --------------------------------------------------------------------------------


def write_config(folder: Path, dims: Dims, **changes: Any) -> None:
    """config.json and generation_config.json with what the loader looks at; creates the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "whisper",
        "num_mel_bins": dims.n_mels,
        "max_source_positions": dims.n_audio_ctx,
        "d_model": dims.n_audio_state,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_layers": dims.n_audio_layer,
        "vocab_size": dims.n_vocab,
        "max_target_positions": dims.n_text_ctx,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_layers": dims.n_text_layer,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": HEADS}))


def write_safetensors(path: Path, tensors: Weights, kind: str = "float32") -> None:
    """Tensors under the names they have, in one file."""
    header, parts, start = {}, [], 0
    for name, array in tensors.items():
        parts.append(numbers(array, kind))
        header[name] = {
            "dtype": _SAFETENSORS_CODES[kind],
            "shape": array.shape,
            "data_offsets": [start, start := start + len(parts[-1])],
        }
    text = json.dumps(header).encode()
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *parts]))


def write_hugging_face(
    folder: Path, dims: Dims, tensors: Weights, kind: str = "float32", shards: int = 1
) -> None:
    """config.json, generation_config.json and the tensors in one safetensors file or several."""
    write_config(folder, dims)
    named = [(hugging_face_name(name), array) for name, array in tensors.items()]
    if shards == 1:
        write_safetensors(folder / "model.safetensors", dict(named), kind)
        return
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(named[shard::shards])
        write_safetensors(folder / file, part, kind)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_pytorch_bin(folder: Path, dims: Dims, tensors: Weights, kind: str = "float32") -> None:
    """config.json and pytorch_model.bin, as repositories from before safetensors have them."""
    write_config(folder, dims)
    keyed = {
        hugging_face_name(name): _Tensor(str(i), array, kind)
        for i, (name, array) in enumerate(tensors.items())
    }
    _write_torch(folder / "pytorch_model.bin", OrderedDict(keyed), list(keyed.values()))


# --- CTranslate2 ---------------------------------------------------------------------------------


def write_ctranslate2(folder: Path, dims: Dims, tensors: Weights, kind: str = "float16") -> None:
    """config.json and model.bin; kind int8 quantises matrices and keeps the rest in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"alignment_heads": HEADS}))
    variables = _ct2_variables(dims, tensors)
    floats = "float32" if kind == "int8" else kind
    with (folder / "model.bin").open("wb") as file:
        entries = [
            entry
            for name, array in sorted(variables.items())
            for entry in _ct2_entries(name, array, kind, floats)
        ]
        file.write(struct.pack("<I", 6) + _ct2_string("WhisperSpec") + struct.pack("<I", 3))
        file.write(struct.pack("<I", len(entries)) + b"".join(entries))
        aliases = [("decoder/projection/weight", "decoder/embeddings/weight")]
        file.write(struct.pack("<I", len(aliases)))
        file.write(b"".join(_ct2_string(name) for alias in aliases for name in alias))


def quantised(array: Array) -> tuple[Array, Array]:
    """(rows, ...) -> int8 (rows, ...) and the scale (rows,) by which each row was multiplied."""
    rows = array.reshape(len(array), -1)
    largest = np.abs(rows).max(axis=1)
    scale = (np.float32(127) / np.where(largest == 0, np.float32(127), largest)).astype(np.float32)
    return np.rint(rows * scale[:, None]).astype(np.int8).reshape(array.shape), scale


def dequantised(tensors: Weights, dims: Dims) -> dict[str, Array]:
    """What a model quantised to int8 has for its weights: matrices rounded, the rest as it was."""
    rounded = dict(tensors)
    for name, array in tensors.items():
        if name.endswith("weight") and array.ndim > 1:
            values, scale = quantised(array)
            columns = (1,) * (array.ndim - 1)
            rounded[name] = values.astype(np.float32) / scale.reshape(-1, *columns)
    return rounded


def _ct2_variables(dims: Dims, tensors: Weights) -> dict[str, Array]:
    variables: dict[str, Array] = {
        "encoder/num_heads": np.array(dims.n_audio_head, np.int16),
        "decoder/num_heads": np.array(dims.n_text_head, np.int16),
        "decoder/activation": np.array(3, np.int8),
        "encoder/position_encodings/encodings": tensors["encoder.positional_embedding"],
        "decoder/position_encodings/encodings": tensors["decoder.positional_embedding"],
        "decoder/embeddings/weight": tensors["decoder.token_embedding.weight"],
    }
    for name in ("encoder.conv1", "encoder.conv2"):
        variables |= _ct2_linear(name.replace(".", "/"), [name], tensors)
    variables |= _ct2_norm("encoder/layer_norm", "encoder.ln_post", tensors)
    variables |= _ct2_norm("decoder/layer_norm", "decoder.ln", tensors)
    for side, layers in (("encoder", dims.n_audio_layer), ("decoder", dims.n_text_layer)):
        for i in range(layers):
            variables |= _ct2_block(f"{side}/layer_{i}", f"{side}.blocks.{i}", tensors)
    return variables


def _ct2_block(own: str, name: str, tensors: Weights) -> dict[str, Array]:
    attn, cross = f"{name}.attn", f"{name}.cross_attn"
    fused = {
        "self_attention/linear_0": [f"{attn}.query", f"{attn}.key", f"{attn}.value"],
        "self_attention/linear_1": [f"{attn}.out"],
        "ffn/linear_0": [f"{name}.mlp.0"],
        "ffn/linear_1": [f"{name}.mlp.2"],
    }
    norms = {"self_attention": "attn_ln", "ffn": "mlp_ln"}
    if name.startswith("decoder"):
        fused |= {
            "attention/linear_0": [f"{cross}.query"],
            "attention/linear_1": [f"{cross}.key", f"{cross}.value"],
            "attention/linear_2": [f"{cross}.out"],
        }
        norms["attention"] = "cross_attn_ln"
    variables: dict[str, Array] = {}
    for place, names in fused.items():
        variables |= _ct2_linear(f"{own}/{place}", names, tensors)
    for place, norm in norms.items():
        variables |= _ct2_norm(f"{own}/{place}/layer_norm", f"{name}.{norm}", tensors)
    return variables


def _ct2_linear(own: str, names: list[str], tensors: Weights) -> dict[str, Array]:
    weights = [tensors[f"{name}.weight"] for name in names]
    zeros = np.zeros(len(weights[0]), weights[0].dtype)
    biases = [tensors.get(f"{name}.bias", zeros) for name in names]
    return {f"{own}/weight": np.concatenate(weights), f"{own}/bias": np.concatenate(biases)}


def _ct2_norm(own: str, name: str, tensors: Weights) -> dict[str, Array]:
    return {f"{own}/gamma": tensors[f"{name}.weight"], f"{own}/beta": tensors[f"{name}.bias"]}


def _ct2_entries(name: str, array: Array, kind: str, floats: str) -> list[bytes]:
    if array.dtype.kind == "i":
        return [_ct2_entry(name, array.shape, array.dtype.name, array.tobytes())]
    if kind == "int8" and name.endswith("/weight"):
        values, scale = quantised(array)
        return [
            _ct2_entry(name, array.shape, "int8", values.tobytes()),
            _ct2_entry(f"{name}_scale", scale.shape, "float32", scale.tobytes()),
        ]
    return [_ct2_entry(name, array.shape, floats, numbers(array, floats))]


def _ct2_entry(name: str, shape: tuple[int, ...], kind: str, data: bytes) -> bytes:
    lengths = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    return (
        _ct2_string(name) + lengths + struct.pack("<BI", _CT2_KINDS.index(kind), len(data)) + data
    )


def _ct2_string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


# --- GGML ----------------------------------------------------------------------------------------


def write_ggml(path: Path, dims: Dims, tensors: Weights, kind: str = "float16") -> None:
    """whisper.cpp's file: matrices in the kind asked for, biases and positions in float32."""
    sizes = asdict(dims)
    n_mels, n_vocab = sizes.pop("n_mels"), sizes.pop("n_vocab")
    head = [0x67676D6C, n_vocab, *sizes.values(), n_mels]  # the others are in GGML's order
    with path.open("wb") as file:
        file.write(struct.pack("<12i", *head, _GGML_CODES[kind]))
        file.write(struct.pack("<2i", dims.n_mels, 201) + bytes(4 * dims.n_mels * 201))
        tokens = [b"a", b" token", b"\xff"]
        file.write(struct.pack("<i", len(tokens)))
        file.write(b"".join(struct.pack("<I", len(token)) + token for token in tokens))
        for name, array in tensors.items():
            file.write(_ggml_tensor(name, array, kind))


def _ggml_tensor(name: str, array: Array, kind: str) -> bytes:
    shape = array.shape
    if "positional_embedding" in name or len(shape) == 1:
        kind = "float32"
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        shape = (*shape, 1)  # the converter writes these as columns
    head = struct.pack("<3i", len(shape), len(name), _GGML_CODES[kind])
    lengths = struct.pack(f"<{len(shape)}i", *reversed(shape))
    return head + lengths + name.encode() + numbers(array, kind)


# --- all of them ---------------------------------------------------------------------------------

Writer = Callable[[Path, Dims, Weights], Path]


def _writer(write: Callable[..., None], name: str, **options: Any) -> Writer:
    def write_under(folder: Path, dims: Dims, tensors: Weights) -> Path:
        write(folder / name, dims, tensors, **options)
        return folder / name

    return write_under


WRITERS: dict[str, Writer] = {
    "openai-float16": _writer(write_openai, "model.pt"),
    "openai-float32": _writer(write_openai, "model.pt", kind="float32"),
    "openai-bfloat16": _writer(write_openai, "model.pt", kind="bfloat16"),
    "openai-legacy": _writer(write_openai, "model.pth", legacy=True),
    "hugging-face-float32": _writer(write_hugging_face, "hf"),
    "hugging-face-float16": _writer(write_hugging_face, "hf", kind="float16"),
    "hugging-face-bfloat16": _writer(write_hugging_face, "hf", kind="bfloat16"),
    "hugging-face-sharded": _writer(write_hugging_face, "hf", kind="float16", shards=3),
    "hugging-face-pytorch": _writer(write_pytorch_bin, "hf"),
    "ctranslate2-float32": _writer(write_ctranslate2, "ct2", kind="float32"),
    "ctranslate2-float16": _writer(write_ctranslate2, "ct2"),
    "ctranslate2-bfloat16": _writer(write_ctranslate2, "ct2", kind="bfloat16"),
    "ctranslate2-int8": _writer(write_ctranslate2, "ct2", kind="int8"),
    "ggml-float16": _writer(write_ggml, "ggml.bin"),
    "ggml-float32": _writer(write_ggml, "ggml.bin", kind="float32"),
}
"""Format and kind -> a function (folder, dims, tensors) that writes it and gives its path."""


def weights_file(path: Path) -> Path:
    """The one file with the tensors of what a WRITERS function wrote; of shards the first."""
    if path.is_file():
        return path
    return next(file for file in sorted(path.iterdir()) if file.suffix in (".safetensors", ".bin"))
