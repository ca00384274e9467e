"""The same weights give the same tokens, whichever published format they were loaded from."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import WRITERS
from conftest import DATA

import whisper_cy
from whisper_cy.weights import load_checkpoint


@pytest.mark.parametrize(
    "form", ("openai-float16", "hugging-face-float16", "hugging-face-float32", "ggml-float16")
)
def test_tokens_do_not_depend_on_the_format(form: str, tiny_en: Path, tmp_path: Path) -> None:
    speech = DATA / "speech.flac"
    expected = whisper_cy.load_model(tiny_en).transcribe(speech).to_dict()
    assert len(expected["segments"]) == 3
    original = load_checkpoint(tiny_en)
    written = WRITERS[form](tmp_path, original.dims, original.tensors)
    assert whisper_cy.load_model(written).transcribe(speech).to_dict() == expected
