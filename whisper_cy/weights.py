"""A checkpoint in any published format -> its sizes, and its tensors under OpenAI's names.

path -> which format (by content) -> that format's reader -> Source -> checks -> Checkpoint

Formats: a Hugging Face folder, OpenAI's .pt, a CTranslate2 folder, whisper.cpp's GGML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .ct2 import is_ctranslate2, read_ctranslate2
from .dims import Dims
from .errors import ModelError
from .ggml import is_ggml, read_ggml
from .hugging_face import WEIGHTS_FILES, read_hugging_face, weights_files
from .openai_pt import is_openai, read_openai
from .safetensors_file import is_safetensors
from .stored import Array, MappedFile, Source, Stored, one_line
from .torch_file import TorchFile, is_torch

__all__ = ["Checkpoint", "Dims", "Tensors", "is_model_folder", "load_checkpoint"]

CT2_FILE = "model.bin"

# Buffers that some files hold beside the weights, each computable from the sizes.
_BUFFERS = frozenset(["decoder.mask"])
_MAX_NAMED = 3


class Tensors(Mapping[str, Array]):
    """OpenAI's name -> read-only array, made when asked for and not kept.

    float16 and float32 are views of the file's memory map where it holds them aligned, else copies;
    bfloat16 and int8 come as float32. So a model is never in memory twice while it is packed.
    """

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> Array:
        return self._stored[name].array()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


@dataclass(frozen=True)
class Checkpoint:
    """One model's weights: tensors as in Dims.shapes(); alignment_heads (layer, head) or None."""

    dims: Dims
    tensors: Mapping[str, Array]
    alignment_heads: tuple[tuple[int, int], ...] | None
    source: str


def load_checkpoint(path: str | Path) -> Checkpoint:
    """A folder or file of weights in any of the formats; ModelError names what is wrong."""
    path = Path(path)
    try:
        if path.is_dir():
            source = _read_folder(path)
        elif path.exists():
            source = _read_file(path)
        else:
            raise ModelError(f"{path} does not exist")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    return _checked(source, path)


def is_model_folder(path: Path) -> bool:
    """Whether a folder holds weights under one of the usual names."""
    names = [CT2_FILE, *WEIGHTS_FILES, *(f"{name}.index.json" for name in WEIGHTS_FILES)]
    return any((path / name).is_file() for name in names)


def _read_folder(folder: Path) -> Source:
    files = weights_files(folder)
    if files:
        return read_hugging_face(folder / "config.json", map(MappedFile, files))
    if (folder / CT2_FILE).is_file():
        return _read_file(folder / CT2_FILE)
    looked_for = ", ".join([*WEIGHTS_FILES, CT2_FILE])
    raise ModelError(f"{folder} holds no model: none of {looked_for} (whole or in shards) is in it")


def _read_file(path: Path) -> Source:
    if path.name.endswith(".index.json"):
        return _read_folder(path.parent)
    file = MappedFile(path)
    config = path.with_name("config.json")
    if is_torch(file):
        opened = TorchFile(file)
        if is_openai(opened.root) or not config.is_file():
            return read_openai(file, opened)
        return read_hugging_face(config, [file])
    if is_ggml(file):
        return read_ggml(file)
    if is_ctranslate2(file):
        return read_ctranslate2(file)
    if is_safetensors(file):
        return read_hugging_face(config, [file])
    raise file.error(
        "not Whisper weights, or damaged: neither safetensors, OpenAI's .pt, CTranslate2 nor GGML"
    )


def _checked(source: Source, path: Path) -> Checkpoint:
    problem = source.dims.problem()
    if problem:
        raise ModelError(f"{path} is not a Whisper model that can be run: {problem}")
    shapes = source.dims.shapes()
    _check_names(source, shapes, path)
    _check_shapes(source, shapes, path)
    _check_output_layer(source, path)
    _check_alignment_heads(source, path)
    tensors = Tensors({name: source.tensors[name] for name in shapes})
    return Checkpoint(source.dims, tensors, source.alignment_heads, str(path))


def _check_names(source: Source, shapes: Mapping[str, object], path: Path) -> None:
    missing = [source.own_name(name) for name in shapes if name not in source.tensors]
    if missing:
        named = ", ".join(missing[:_MAX_NAMED])
        more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        raise ModelError(f"{path} is not a whole Whisper model: it lacks {named}{more}")
    for name in source.tensors.keys() - shapes.keys() - _BUFFERS:
        if name.endswith(".key.bias"):
            # Softmax does not see a key bias, but a fine-tune that has one was made for other code.
            if source.tensors[name].array().any():
                raise ModelError(
                    f"{path} has a bias on a key projection, unlike Whisper: {one_line(name, 80)}"
                )
        elif name.startswith(("encoder.", "decoder.")):
            raise ModelError(f"{path} is not a plain Whisper: it has {one_line(name, 80)}")


def _check_shapes(source: Source, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    for name, shape in shapes.items():
        found = source.tensors[name].shape
        if found != shape:
            raise ModelError(
                f"{path}: {source.own_name(name)} has the shape {found} where {shape} is expected"
            )


def _check_output_layer(source: Source, path: Path) -> None:
    """The layer that gives logits is the token embedding; a file may hold it a second time."""
    output = source.tensors.get("proj_out.weight")
    embedding = source.tensors["decoder.token_embedding.weight"]
    if output is None or output.data is embedding.data:
        return
    same = output.shape == embedding.shape and _same_numbers(output, embedding)
    if not same:
        raise ModelError(f"{path} has an output layer of its own; Whisper's is its token embedding")


def _same_numbers(one: Stored, other: Stored, rows: int = 4096) -> bool:
    """Compared some rows at a time, so that no second copy of a large matrix is made."""
    starts = range(0, one.shape[0], rows)
    pairs = ((one.rows(i, i + rows).array(), other.rows(i, i + rows).array()) for i in starts)
    return all((left == right).all() for left, right in pairs)


def _check_alignment_heads(source: Source, path: Path) -> None:
    for layer, head in source.alignment_heads or ():
        if not (0 <= layer < source.dims.n_text_layer and 0 <= head < source.dims.n_text_head):
            raise ModelError(
                f"{path}: alignment_heads names head {head} of layer {layer}, which is not there"
            )
