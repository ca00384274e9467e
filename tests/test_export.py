"""Export: any checkpoint becomes a folder that transformers loads, with nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import HEADS, SMALL, WRITERS, Array, random_weights

from whisper_cy.errors import OutputError
from whisper_cy.export import save_hugging_face
from whisper_cy.weights import load_checkpoint

TEXTS = (
    "And so, my fellow Americans: ask not what your country can do for you!",
    "  Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich — 1,234.5 \t\n ok",
    "いろはにほへと 色は匂へど, Съешь ещё этих мягких булок; 🎉👩‍👩‍👧 naïve",
)
FILES = {
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
}

MULTILINGUAL = replace(SMALL, n_vocab=51865)
LARGE_V3 = replace(SMALL, n_vocab=51866, n_mels=128)


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Path]:
    def export(writer: str, dims: Any = SMALL) -> Path:
        source = WRITERS[writer](tmp_path, *random_weights(0, dims))
        save_hugging_face(load_checkpoint(source), tmp_path / "out")
        return tmp_path / "out"

    return export


@pytest.mark.parametrize(
    "writer", ["openai-float16", "hugging-face-bfloat16", "ctranslate2-int8", "ggml-float16"]
)
def test_what_was_exported_loads_the_same(
    writer: str, exported: Callable[..., Path], tmp_path: Path
) -> None:
    folder = exported(writer)
    assert {path.name for path in folder.iterdir()} == FILES
    before = load_checkpoint(next(tmp_path.glob("[!o]*")))
    after = load_checkpoint(folder)
    assert (after.dims, after.alignment_heads) == (before.dims, before.alignment_heads)
    for name, array in before.tensors.items():
        assert after.tensors[name].dtype == array.dtype
        assert np.array_equal(after.tensors[name], array)
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_settings(exported: Callable[..., Path]) -> None:
    folder = exported("ctranslate2-float16", LARGE_V3)
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (config["num_mel_bins"], config["vocab_size"]) == (128, 51866)
    assert config["torch_dtype"] == "float16"
    assert generation["alignment_heads"] == [list(pair) for pair in HEADS]
    assert generation["lang_to_id"]["<|yue|>"] == 50358
    assert generation["task_to_id"] == {"transcribe": 50360, "translate": 50359}
    assert generation["no_timestamps_token_id"] == 50364
    assert json.loads((folder / "preprocessor_config.json").read_text())["feature_size"] == 128


@pytest.mark.parametrize("name", ["tiny_en", "base"])
def test_the_suppressed_tokens_are_the_published_ones(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(name)
    published = json.loads((folder / "config.json").read_text())
    save_hugging_face(load_checkpoint(folder), tmp_path / "out")
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == published["suppress_ids"]
    assert generation["begin_suppress_tokens"] == published["suppress_ids_begin"]


@pytest.mark.parametrize("name, dims", [("tiny_en", SMALL), ("base", MULTILINGUAL)])
def test_the_tokenizer_is_the_published_one(
    name: str, dims: Any, request: pytest.FixtureRequest, exported: Callable[..., Path]
) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is needed to compare with")
    published = request.getfixturevalue(name) / "tokenizer.json"
    theirs = tokenizers.Tokenizer.from_file(str(published))
    ours = tokenizers.Tokenizer.from_file(str(exported("openai-float16", dims) / "tokenizer.json"))
    for text in (*TEXTS, "<|startoftranscript|> hello<|endoftext|>"):
        assert ours.encode(text).ids == theirs.encode(text).ids
        assert ours.decode(ours.encode(text).ids) == theirs.decode(theirs.encode(text).ids)


def test_a_tokenizer_beside_the_source_is_kept(tmp_path: Path) -> None:
    source = WRITERS["ctranslate2-float16"](tmp_path, *random_weights())
    (source / "tokenizer.json").write_text('{"mine": 1}')
    save_hugging_face(load_checkpoint(source), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"mine": 1}'
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


@pytest.mark.parametrize("dims", [SMALL, MULTILINGUAL, LARGE_V3])
def test_transformers_loads_it(dims: Any, exported: Callable[..., Path]) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is needed to load it")
    folder = exported("openai-float32", dims)
    model, found = transformers.WhisperForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert not found["mismatched_keys"]
    state: dict[str, Array] = {key: value.numpy() for key, value in model.state_dict().items()}
    tensors = load_checkpoint(folder).tensors
    weight = tensors["decoder.token_embedding.weight"]
    assert np.array_equal(state["model.decoder.embed_tokens.weight"], weight)
    assert np.array_equal(state["proj_out.weight"], weight)
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    assert processor.feature_extractor.feature_size == dims.n_mels
    for text in TEXTS:
        ids = processor.tokenizer(text).input_ids
        assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text


# --- where it cannot be written -------------------------------------------------------------------


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(WRITERS["openai-float16"](tmp_path, *random_weights()))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with pytest.raises(OutputError, match="exists already"):
            save_hugging_face(checkpoint, tmp_path / name)
    with pytest.raises(OutputError, match="cannot be written"):
        save_hugging_face(checkpoint, tmp_path / "file" / "below")
    (tmp_path / "empty").mkdir()
    save_hugging_face(checkpoint, tmp_path / "empty")
    save_hugging_face(checkpoint, tmp_path / "new" / "deep")
    assert load_checkpoint(tmp_path / "empty").dims == load_checkpoint(tmp_path / "new/deep").dims


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    source = WRITERS["openai-float16"](tmp_path, *random_weights())
    checkpoint = load_checkpoint(source)

    class Broken(dict[str, Array]):
        def items(self) -> Any:
            raise OSError(28, "No space left on device")

    broken = replace(checkpoint, tensors=Broken(checkpoint.tensors))
    with pytest.raises(OutputError, match="No space left"):
        save_hugging_face(broken, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [source]
