"""Where the tests find real weights and real speech, and the instruction-set levels they run at.

Weights: WHISPER_CY_TEST_MODELS names a folder with one folder per model (tiny.en, base, in any
format whisper-cy reads); without it the installed weights packages are used.
Speech: WHISPER_CY_TEST_SPEECH names a folder with recordings and their manifest.jsonl (an object a
line: id, file, language, reference text or null); without it ../shared/speech beside the project.
A test which needs what is not there skips and says what was missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from whisper_cy import kernels

PROJECT = Path(__file__).resolve().parent.parent
DATA = PROJECT / "tests" / "data"
LEVELS = ("baseline", "avx2", "avx512", "avx512vnni", "amx")


@dataclass(frozen=True)
class Recording:
    """One recording: its file, the language spoken and what is said (None where unknown)."""

    id: str
    path: Path
    language: str
    reference: str | None


def weights_path(name: str) -> Path:
    """The weights of the model called name, or skip."""
    folder = os.environ.get("WHISPER_CY_TEST_MODELS")
    if folder:
        path = Path(folder) / name
        if path.exists():
            return path
        pytest.skip(f"no weights of {name}: {path} does not exist (WHISPER_CY_TEST_MODELS)")
    models = pytest.importorskip("whisper_cy.models")
    installed = models.installed_models()
    if name not in installed:
        pytest.skip(f"no weights of {name}: install its package or set WHISPER_CY_TEST_MODELS")
    return Path(installed[name])


def speech() -> list[Recording]:
    """Every recording of the speech folder, in the manifest's order; empty where there is none."""
    folder = Path(os.environ.get("WHISPER_CY_TEST_SPEECH") or PROJECT.parent / "shared" / "speech")
    manifest = folder / "manifest.jsonl"
    if not manifest.exists():
        return []
    rows = (json.loads(line) for line in manifest.read_text("utf-8").splitlines() if line.strip())
    return [Recording(r["id"], folder / r["file"], r["language"], r["reference"]) for r in rows]


def project_speech() -> list[Recording]:
    """The project's own recordings in tests/data, which are English."""
    suffixes = {".wav", ".flac", ".mp3", ".ogg"}
    files = sorted(path for path in DATA.glob("*") if path.suffix in suffixes)
    return [Recording(path.stem, path, "en", None) for path in files]


@pytest.fixture(scope="session")
def tiny_en() -> Path:
    """The weights of tiny.en."""
    return weights_path("tiny.en")


@pytest.fixture(scope="session")
def base() -> Path:
    """The weights of base (multilingual)."""
    return weights_path("base")


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each level in turn, in use while the test runs."""
    if request.param not in kernels.available_isas():
        pytest.skip(f"this processor or build has no {request.param}")
    before = kernels.isa()
    kernels.use_isa(request.param)
    yield request.param
    kernels.use_isa(before)
