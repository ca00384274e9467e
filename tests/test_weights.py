"""Weights: every format gives the same arrays; what is not Whisper's weights is a ModelError."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import (
    HEADS,
    SMALL,
    WRITERS,
    Array,
    dequantised,
    numbers,
    random_weights,
    weights_file,
    write_config,
    write_ctranslate2,
    write_ggml,
    write_hugging_face,
    write_openai,
    write_pickle,
    write_safetensors,
)

from whisper_cy.dims import Dims
from whisper_cy.errors import ModelError
from whisper_cy.export import save_hugging_face
from whisper_cy.hugging_face import hugging_face_name, openai_name
from whisper_cy.weights import Checkpoint, load_checkpoint

FUZZED = (
    "openai-float16",
    "openai-legacy",
    "hugging-face-float16",
    "hugging-face-pytorch",
    "ctranslate2-int8",
    "ggml-float16",
)
"""A format for each way of laying out a header."""


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """The files of a test are gone after it: together they would take gigabytes."""
    yield
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def weights() -> tuple[Dims, dict[str, Array]]:
    return random_weights()


@pytest.fixture(scope="module")
def written(
    weights: tuple[Dims, dict[str, Array]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Path]]:
    """Format -> where it was written, once for the whole module: to be left as it is."""
    paths: dict[str, Path] = {}

    def path_of(name: str) -> Path:
        if name not in paths:
            paths[name] = WRITERS[name](tmp_path_factory.mktemp(name), *weights)
        return paths[name]

    yield path_of
    for path in paths.values():
        shutil.rmtree(path.parent)


def assert_same(checkpoint: Checkpoint, dims: Dims, expected: dict[str, Array]) -> None:
    assert checkpoint.dims == dims
    assert checkpoint.tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(checkpoint.tensors[name], array), name


def refused(path: Path, *words: str) -> str:
    """The message of the ModelError that loading gives: one line with the file and the words."""
    with pytest.raises(ModelError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message or str(path.parent) in message
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# --- the same arrays from every format ----------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_arrays(
    name: str, weights: tuple[Dims, dict[str, Array]], written: Callable[[str], Path]
) -> None:
    dims, tensors = weights
    checkpoint = load_checkpoint(written(name))
    assert_same(checkpoint, dims, dequantised(tensors, dims) if "int8" in name else tensors)
    assert checkpoint.source == str(written(name))
    has_heads = name.startswith(("hugging-face", "ctranslate2"))
    assert checkpoint.alignment_heads == (HEADS if has_heads else None)


@pytest.mark.parametrize("name", WRITERS)
def test_arrays_are_read_only_contiguous_and_aligned(
    name: str, written: Callable[[str], Path]
) -> None:
    for array in load_checkpoint(written(name)).tensors.values():
        assert array.dtype in (np.float32, np.float16)
        assert array.flags.c_contiguous and array.flags.aligned and not array.flags.writeable


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_itself_can_be_named(name: str, written: Callable[[str], Path]) -> None:
    path = written(name)
    file = path / "model.safetensors.index.json" if "sharded" in name else weights_file(path)
    assert load_checkpoint(file).dims == SMALL
    assert load_checkpoint(str(file)).dims == SMALL


def test_nothing_is_copied_at_load(written: Callable[[str], Path]) -> None:
    path = written("hugging-face-float32")
    tracemalloc.start()
    checkpoint = load_checkpoint(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(array.nbytes for array in checkpoint.tensors.values()) > 10e6
    assert peak < 1e6


@pytest.mark.parametrize(
    "changes",
    [
        {"n_vocab": 51865},
        {"n_vocab": 51866, "n_mels": 128},
        {"n_audio_layer": 3, "n_text_layer": 2},
        {"n_audio_state": 128, "n_text_state": 128, "n_audio_head": 2, "n_text_head": 2},
    ],
)
def test_other_sizes(changes: dict[str, int], tmp_path: Path) -> None:
    dims, tensors = random_weights(1, replace(SMALL, **changes))
    for name in ("openai-float16", "hugging-face-float16", "ctranslate2-float16", "ggml-float16"):
        assert_same(load_checkpoint(WRITERS[name](tmp_path, dims, tensors)), dims, tensors)


@pytest.mark.parametrize("n_vocab, languages", [(51864, 99), (51865, 99), (51866, 100)])
def test_languages_follow_from_the_vocabulary(n_vocab: int, languages: int) -> None:
    dims = replace(SMALL, n_vocab=n_vocab)
    assert (dims.is_multilingual, dims.num_languages) == (n_vocab > 51864, languages)


def test_names_go_to_hugging_face_and_back() -> None:
    for name in SMALL.shapes():
        assert openai_name(hugging_face_name(name)) == name
    assert openai_name("encoder.layers.3.fc1.bias") == "encoder.blocks.3.mlp.0.bias"


def test_real_weights_through_every_format(tiny_en: Path, tmp_path: Path) -> None:
    original = load_checkpoint(tiny_en)
    dims, tensors = original.dims, original.tensors
    for name in ("openai-float16", "hugging-face-float16", "ggml-float16", "ctranslate2-float16"):
        path = WRITERS[name](tmp_path, dims, tensors)
        assert_same(load_checkpoint(path), dims, dict(tensors))
        weights_file(path).unlink()  # each is as large as the model


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8", "int8_float16"])
def test_models_that_ctranslate2_wrote(
    kind: str,
    weights: tuple[Dims, dict[str, Array]],
    written: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    converters = pytest.importorskip("ctranslate2.converters", reason="ctranslate2 writes them")
    pytest.importorskip("transformers", reason="ctranslate2's converter reads with it")
    dims, tensors = weights
    save_hugging_face(load_checkpoint(written("openai-float32")), tmp_path / "hf")
    converter = converters.TransformersConverter(str(tmp_path / "hf"))
    converter.convert(str(tmp_path / "ct2"), quantization=kind)
    expected = dequantised(tensors, dims) if "int8" in kind else tensors
    assert_same(load_checkpoint(tmp_path / "ct2"), dims, expected)


# --- files that torch wrote ----------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_files_of_torch_save(
    zipped: bool, protocol: int, weights: tuple[Dims, dict[str, Array]], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="torch is needed to write its own files")
    dims, tensors = weights

    state = torch.nn.Module().state_dict()  # with its version numbers, as a real model's has
    state |= {name: torch.from_numpy(array).half() for name, array in tensors.items()}
    state["encoder.conv1.bias"] = torch.nn.Parameter(state["encoder.conv1.bias"])
    transposed = torch.from_numpy(tensors["encoder.blocks.0.mlp.0.weight"].T.copy()).T
    state["encoder.blocks.0.mlp.0.weight"] = transposed  # strides that are not the usual ones
    torch.save(
        {"dims": dims.__dict__, "model_state_dict": state},
        tmp_path / "model.pt",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    assert_same(load_checkpoint(tmp_path / "model.pt"), dims, tensors)


@pytest.mark.parametrize("name", ["openai-float16", "openai-bfloat16", "openai-legacy"])
def test_torch_reads_what_the_tests_write(
    name: str, weights: tuple[Dims, dict[str, Array]], written: Callable[[str], Path]
) -> None:
    torch = pytest.importorskip("torch", reason="torch is needed to read the tests' files")
    state = torch.load(written(name), weights_only=True)["model_state_dict"]
    for tensor_name, array in weights[1].items():
        assert np.array_equal(state[tensor_name].float().numpy(), array)


class _Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize(
    "root, word",
    [
        (_Malicious(), "posix.mkdir" if os.name == "posix" else "mkdir"),
        ({"dims": _Malicious(), "model_state_dict": {}}, "mkdir"),
        ({"dims": SMALL, "model_state_dict": {}}, "tensors only"),
        ({"dims": {"n_mels": 80}, "model_state_dict": {}}, "n_audio_ctx"),
        ({"dims": vars(SMALL), "model_state_dict": {}}, "lacks encoder.conv1.weight"),
        ({"dims": vars(SMALL), "model_state_dict": {"a": [1, 2.5, None]}}, "not a tensor"),
        ({"dims": vars(SMALL) | {"n_mels": "80"}, "model_state_dict": {}}, "n_mels"),
        ({"dims": vars(SMALL) | {"n_text_layer": 10**9}, "model_state_dict": {}}, "n_text_layer"),
        ({"weights": 1}, "not an OpenAI checkpoint"),
        ([1, 2], "not an OpenAI checkpoint"),
    ],
)
def test_pickles_that_are_no_checkpoint(
    root: object, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pickle(tmp_path / "model.pt", root)
    refused(tmp_path / "model.pt", word)
    assert not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02}.",
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02(ios\nsystem\n.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo of two thousand million places
        b"\x80\x02" + b"(" * 1000 + b".",
        b"\x80\x02" + b"]" + b"\x85" * 100_000 + b".",
        b"\x80\x02}K\x00\x85\x86s.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ccollections\nOrderedDict\n](e\x85R.",
        b"\x80\x02X\x01\x00\x00\x00aQ.",
    ],
)
def test_pickles_that_are_broken(opcodes: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", opcodes)
    refused(tmp_path / "model.pt")


def test_a_storage_of_doubles_is_refused(tmp_path: Path) -> None:
    storage = b"(X\x07\x00\x00\x00storagectorch\nDoubleStorage\nX\x01\x00\x00\x000NK\x01tQ"
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + storage + b".")
    refused(tmp_path / "model.pt", "DoubleStorage")


def test_a_zip_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("letter.txt", "hello")
    refused(tmp_path / "model.pt", "torch.save")


def test_a_compressed_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
    refused(tmp_path / "model.pt", "compressed")


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.0, 1e-6, 1e-5, 1e-3, 0.1, 0.5, 0.9, 0.999, 0.999999])
@pytest.mark.parametrize("name", WRITERS)
def test_files_cut_short(
    name: str, fraction: float, written: Callable[[str], Path], tmp_path: Path
) -> None:
    path = written(name)
    if path.is_dir():
        for file in path.iterdir():
            os.link(file, tmp_path / file.name)
        cut = tmp_path / weights_file(path).name
        cut.unlink()
    else:
        cut = tmp_path / path.name
    data = weights_file(path).read_bytes()
    cut.write_bytes(data[: min(int(len(data) * fraction), len(data) - 1)])
    refused(tmp_path if path.is_dir() else cut)


@pytest.mark.parametrize("name", FUZZED)
def test_damaged_headers(name: str, written: Callable[[str], Path], tmp_path: Path) -> None:
    """Bytes changed near the start or the end: loads, or says in one line what is wrong."""
    source = written(name)
    for file in source.iterdir() if source.is_dir() else [source]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path if source.is_dir() else tmp_path / source.name
    target = weights_file(path)
    size = target.stat().st_size
    generator = np.random.default_rng(0)
    refusals = 0
    with target.open("r+b", buffering=0) as opened:
        for _ in range(60):
            at = int(8192 ** generator.random()) - 1
            at = at if generator.integers(2) else size - 1 - at
            byte = _exchange(opened, at, bytes([int(generator.integers(256))]))
            try:
                load_checkpoint(path)
            except ModelError as error:
                refusals += 1
                assert str(tmp_path) in str(error) and "\n" not in str(error)
            _exchange(opened, at, byte)
    assert refusals > 5
    assert load_checkpoint(path).dims == SMALL


def _exchange(file: io.FileIO, at: int, byte: bytes) -> bytes:
    file.seek(at)
    old = file.read(1)
    file.seek(at)
    file.write(byte)
    return old


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.bin", "pytorch_model.bin", "model.pt"]
)
def test_files_that_are_something_else(name: str, tmp_path: Path) -> None:
    write_config(tmp_path, SMALL)
    generator = np.random.default_rng(3)
    for data in (b"", b"\0", b"\0" * 5000, b"hello, world\n" * 50, generator.bytes(20_000)):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name)
        if name != "model.pt":
            refused(tmp_path)


def test_what_is_no_model(tmp_path: Path) -> None:
    refused(tmp_path, "holds no model", "model.safetensors", "model.bin")
    refused(tmp_path / "nothing", "does not exist")
    (tmp_path / "gguf.bin").write_bytes(b"GGUF" + bytes(100))
    refused(tmp_path / "gguf.bin", "not Whisper weights")


HUGE = 2**32 - 1


@pytest.mark.parametrize(
    "name, data",
    [
        ("model.safetensors", struct.pack("<Q", 2**62) + b"{"),
        ("model.safetensors", struct.pack("<Q", 2) + b"[]"),
        ("model.safetensors", struct.pack("<Q", 90_000) + b"{" * 90_000),
        ("model.bin", struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + struct.pack("<II", 3, HUGE)),
        ("model.bin", struct.pack("<IH", 6, HUGE >> 16) + b"WhisperSpec\0"),
        (
            "model.bin",
            struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + struct.pack("<IIH", 3, 1, 2)
            + b"a\0" + struct.pack("<B4IBI", 4, HUGE, HUGE, HUGE, HUGE, 0, HUGE),
        ),
        ("ggml.bin", struct.pack("<12i", 0x67676D6C, 51864, *([2**31 - 1] * 10))),
        (
            "ggml.bin",
            struct.pack("<12i", 0x67676D6C, 51864, 6, 64, 1, 2, 5, 64, 1, 1, 8, 1)
            + struct.pack("<2i", 2**31 - 1, 2**31 - 1),
        ),
        (
            "ggml.bin",
            struct.pack("<12i", 0x67676D6C, 51864, 6, 64, 1, 2, 5, 64, 1, 1, 8, 1)
            + struct.pack("<3i", -1, -1, 2**31 - 1) + bytes(1000),
        ),
    ],
)  # fmt: skip
def test_sizes_beyond_the_file_allocate_nothing(name: str, data: bytes, tmp_path: Path) -> None:
    write_config(tmp_path, SMALL)
    (tmp_path / name).write_bytes(data)
    tracemalloc.start()
    refused(tmp_path / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


# --- weights that are whole but not Whisper's ----------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_a_tensor_of_another_shape(
    name: str, weights: tuple[Dims, dict[str, Array]], tmp_path: Path
) -> None:
    dims, tensors = weights
    wrong = dict(tensors)
    wrong["decoder.blocks.0.mlp.0.weight"] = tensors["decoder.blocks.0.mlp.0.weight"][:-1]
    message = refused(WRITERS[name](tmp_path, dims, wrong), "(255, 64)", "(256, 64)")
    assert re.search(r"decoder\.(blocks\.0\.mlp\.0|layers\.0\.fc1)\.weight", message)


@pytest.mark.parametrize("name", [name for name in WRITERS if "ctranslate2" not in name])
def test_a_tensor_that_is_missing(
    name: str, weights: tuple[Dims, dict[str, Array]], tmp_path: Path
) -> None:
    dims, tensors = weights
    fewer = {key: tensors[key] for key in tensors if key != "decoder.blocks.0.attn.out.bias"}
    message = refused(WRITERS[name](tmp_path, dims, fewer), "lacks")
    assert re.search(r"attn\.out(_proj)?\.bias", message)


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    write_hugging_face(tmp_path, SMALL, {"encoder.conv1.bias": np.zeros(64, np.float32)})
    refused(tmp_path, f"and {len(SMALL.shapes()) - 4} more")


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"n_vocab": 50000}, "50000"),
        ({"n_audio_head": 2}, "2 heads"),
        ({"n_text_head": 4}, "4 heads"),
        ({"n_text_state": 128, "n_text_head": 2}, "128"),
        ({"n_mels": 0}, "n_mels"),
    ],
)
def test_sizes_that_no_whisper_has(changes: dict[str, int], word: str, tmp_path: Path) -> None:
    dims = replace(SMALL, **changes)
    small = {"encoder.conv1.bias": np.zeros(64, np.float32)}
    write_openai(tmp_path / "model.pt", dims, small)
    refused(tmp_path / "model.pt", word)
    write_ggml(tmp_path / "ggml.bin", dims, small)
    refused(tmp_path / "ggml.bin", word)


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"model_type": "wav2vec2"}, "wav2vec2"),
        ({"activation_function": "relu"}, "relu"),
        ({"scale_embedding": True}, "scale_embedding"),
        ({"encoder_layers": "two"}, "n_audio_layer"),
        ({"encoder_layers": 1}, "not a plain Whisper: it has encoder.blocks.1."),
        ({"d_model": True}, "n_audio_state"),
    ],
)
def test_configurations(
    changes: dict[str, Any], word: str, written: Callable[[str], Path], tmp_path: Path
) -> None:
    os.link(weights_file(written("hugging-face-float16")), tmp_path / "model.safetensors")
    write_config(tmp_path, SMALL, **changes)
    refused(tmp_path, word)


def test_a_folder_without_its_configuration(written: Callable[[str], Path], tmp_path: Path) -> None:
    os.link(weights_file(written("hugging-face-float16")), tmp_path / "model.safetensors")
    refused(tmp_path, "config.json", "missing")


def test_a_shard_that_is_missing(weights: tuple[Dims, dict[str, Array]], tmp_path: Path) -> None:
    WRITERS["hugging-face-sharded"](tmp_path, *weights)
    (tmp_path / "hf" / "model-00002-of-00003.safetensors").unlink()
    refused(tmp_path / "hf", "model-00002-of-00003.safetensors", "missing")


@pytest.mark.parametrize("names", ["../model.safetensors", "", 3])
def test_an_index_that_leaves_its_folder(names: object, tmp_path: Path) -> None:
    write_config(tmp_path, SMALL)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": names}}))
    refused(tmp_path, "weight_map")


def _with_extra(folder: Path, weights: tuple[Dims, dict[str, Array]], **extra: Array) -> Path:
    dims, tensors = weights
    write_config(folder, dims)
    named = {hugging_face_name(name): array for name, array in tensors.items()}
    write_safetensors(folder / "model.safetensors", named | extra, "float16")
    return folder


def test_tensors_beside_the_model_are_ignored(
    weights: tuple[Dims, dict[str, Array]], tmp_path: Path
) -> None:
    extra = {
        "proj_out.weight": weights[1]["decoder.token_embedding.weight"],
        "model.encoder.layers.0.self_attn.k_proj.bias": np.zeros(64, np.float32),
        "classifier.weight": np.ones(3, np.float32),
    }
    assert_same(load_checkpoint(_with_extra(tmp_path, weights, **extra)), *weights)


@pytest.mark.parametrize(
    "name, shape, word",
    [
        ("model.encoder.layers.0.self_attn.k_proj.bias", (64,), "bias on a key projection"),
        ("model.decoder.layers.0.encoder_attn.k_proj.bias", (64,), "bias on a key projection"),
        ("model.decoder.layers.0.adapter.weight", (3,), "not a plain Whisper"),
        ("model.decoder.layers.1.fc1.bias", (256,), "not a plain Whisper"),
        ("proj_out.weight", (51864, 64), "output layer of its own"),
        ("lm_head.weight", (51864, 65), "output layer of its own"),
    ],
)
def test_tensors_that_make_another_model(
    name: str,
    shape: tuple[int, ...],
    word: str,
    weights: tuple[Dims, dict[str, Array]],
    tmp_path: Path,
) -> None:
    refused(_with_extra(tmp_path, weights, **{name: np.ones(shape, np.float32)}), word)


def test_safetensors_without_the_models_prefix(
    weights: tuple[Dims, dict[str, Array]], tmp_path: Path
) -> None:
    dims, tensors = weights
    write_config(tmp_path, dims)
    named = {hugging_face_name(name).removeprefix("model."): tensors[name] for name in tensors}
    write_safetensors(tmp_path / "model.safetensors", named)
    assert_same(load_checkpoint(tmp_path), dims, tensors)


@pytest.mark.parametrize(
    "entry, word",
    [
        ({"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}, "not stored as F32"),
        ({"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}, "not stored as F32"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "shape"),
        ({"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}, "shape"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "4 bytes"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}, "cut short"),
        ({"dtype": "F32", "shape": [2.5], "data_offsets": [0, 8]}, "whole numbers"),
        ({"dtype": "F32", "shape": [2]}, "not complete"),
        ("F32", "not complete"),
    ],
)
def test_safetensors_entries(entry: object, word: str, tmp_path: Path) -> None:
    write_config(tmp_path, SMALL)
    text = json.dumps({"tensor": entry}).encode()
    data = struct.pack("<Q", len(text)) + text + numbers(np.zeros(2, np.float32), "float32")
    (tmp_path / "model.safetensors").write_bytes(data)
    refused(tmp_path, word)


@pytest.mark.parametrize(
    "heads, word",
    [([[0, 1]], "not there"), ([[7, 0]], "not there"), ([[0, -1]], "not there"), ("x", "pairs")],
)
def test_alignment_heads_that_are_not_there(
    heads: object, word: str, written: Callable[[str], Path], tmp_path: Path
) -> None:
    os.link(weights_file(written("ctranslate2-float16")), tmp_path / "model.bin")
    assert load_checkpoint(tmp_path).alignment_heads is None
    (tmp_path / "config.json").write_text(json.dumps({"alignment_heads": heads}))
    refused(tmp_path, word)


def _edited(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    "old, new, word",
    [
        (struct.pack("<IH", 6, 12), struct.pack("<IH", 5, 12), "version 5"),
        (b"WhisperSpec", b"OtherNNSpec", "OtherNNSpec"),
        (b"decoder/layer_0/ffn/linear_0/weight_scale", b"x" * 41, "no scale"),
        (b"encoder/layer_norm/gamma", b"encoder/layer_norm/gamme", "gamma is missing"),
        (b"conv1/bias\0\x01\x40\0\0\0\0", b"conv1/bias\0\x01\x40\0\0\0\x09", "unknown type"),
        (b"conv1/bias\0\x01\x40\0\0\0\0", b"conv1/bias\0\x01\x40\0\0\0\x03", "int32"),
        (
            b"encoder/num_heads\0\0\x02\x02\0\0\0\1",
            b"encoder/num_heads\0\0\x02\x02\0\0\0\2",
            "heads",
        ),
    ],
)
def test_ctranslate2_models(
    old: bytes, new: bytes, word: str, weights: tuple[Dims, dict[str, Array]], tmp_path: Path
) -> None:
    write_ctranslate2(tmp_path, *weights, kind="int8")
    _edited(tmp_path / "model.bin", old, new)
    refused(tmp_path, word)


def test_ctranslate2_key_bias(weights: tuple[Dims, dict[str, Array]], tmp_path: Path) -> None:
    dims, tensors = weights
    biased = tensors | {"encoder.blocks.0.attn.key.bias": np.ones(64, np.float32)}
    write_ctranslate2(tmp_path, dims, biased)
    refused(tmp_path, "bias on a key projection")


def test_ctranslate2_with_an_output_layer_of_its_own(
    weights: tuple[Dims, dict[str, Array]], tmp_path: Path
) -> None:
    write_ctranslate2(tmp_path, *weights)
    # The alias of the output layer, pointed at another matrix.
    alias, other = b"decoder/embeddings/weight\0", b"decoder/layer_0/ffn/linear_0/weight\0"
    data = (tmp_path / "model.bin").read_bytes()
    end = data.rindex(struct.pack("<H", len(alias)) + alias)
    (tmp_path / "model.bin").write_bytes(data[:end] + struct.pack("<H", len(other)) + other)
    refused(tmp_path, "output layer of its own")


@pytest.mark.parametrize("code, word", [(8, "q8_0"), (2, "q4_0"), (99, "type 99")])
def test_quantised_ggml(
    code: int, word: str, weights: tuple[Dims, dict[str, Array]], tmp_path: Path
) -> None:
    name = b"decoder.token_embedding.weight"
    lengths = struct.pack("<2i", 64, 51864) + name
    write_ggml(tmp_path / "ggml.bin", *weights)
    head = struct.pack("<3i", 2, len(name), 1) + lengths
    _edited(tmp_path / "ggml.bin", head, struct.pack("<3i", 2, len(name), code) + lengths)
    refused(tmp_path / "ggml.bin", word, "f16")


def test_python_pickles_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare pickle, as of pickle.dump, is not torch's: it is not even looked into."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").write_bytes(pickle.dumps(_Malicious()))
    refused(tmp_path / "model.pt", "not Whisper weights")
    assert not (tmp_path / "made-by-a-pickle").exists()
