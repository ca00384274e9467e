"""Arrays as they lie in a weights file: found and bounded, but not read until they are asked for.

path -> MappedFile -> Stored (a view of the map, nothing copied) -> array(): float32 or float16

Every size a file claims is held against the size the file has before it is used.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .dims import Dims
from .errors import ModelError

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int8": np.dtype("i1"),
    "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"),
}
"""How each kind of number lies in a file; bfloat16 is the upper half of a float32."""

_MAX_RANK = 8


@dataclass(frozen=True)
class Stored:
    """One tensor as it lies in its file: data (shape) of a kind in DTYPES; int8: scale (rows,)."""

    data: Array
    kind: str
    scale: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def rows(self, start: int, stop: int) -> Stored:
        """Rows start to stop: how a fused projection is taken apart."""
        scale = None if self.scale is None else self.scale[start:stop]
        return Stored(self.data[start:stop], self.kind, scale)

    def array(self) -> Array:
        """(shape) float32 or float16, read-only, contiguous, aligned; a view of the file
        where possible.

        bfloat16 widens to float32 exactly; int8 is divided by its row's scale.
        """
        if self.kind == "bfloat16":
            values = (self.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
        elif self.scale is not None:
            columns = (1,) * (self.data.ndim - 1)
            values = np.divide(self.data, self.scale.reshape(-1, *columns), dtype=np.float32)
        else:
            values = np.require(self.data, requirements=["C", "A"])
        values.flags.writeable = False
        return cast("Array", values)


@dataclass(frozen=True)
class Source:
    """What a format's reader gives: tensors by OpenAI's names, and what the file calls them."""

    dims: Dims
    tensors: dict[str, Stored]
    alignment_heads: tuple[tuple[int, int], ...] | None = None
    own_name: Callable[[str], str] = field(default=str)


def one_line(text: str, limit: int = 300) -> str:
    """Text that may quote a damaged file, fit to be printed."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:limit]
    )


class MappedFile:
    """A file mapped read-only; every access is checked against its size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                # An empty file cannot be mapped: mmap says so with ValueError.
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ModelError(f"{path} is empty") from None
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
        self.size = len(self.data)

    def error(self, problem: str) -> ModelError:
        return ModelError(f"{self.path}: {one_line(problem)}")

    def bytes(self, offset: int, count: int) -> bytes:
        self._check(offset, count)
        return self.data[offset : offset + count]

    def view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """(shape) of the file's data at offset, read-only and not copied."""
        if len(shape) > _MAX_RANK or any(length < 0 for length in shape):
            raise self.error(f"an array cannot have the shape {shape[: _MAX_RANK + 1]}")
        self._check(offset, math.prod(shape) * dtype.itemsize)
        viewed: Array = np.ndarray(shape, dtype, self.data, offset)
        return viewed

    def _check(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise self.error(
                f"cut short or damaged: {count} bytes at {offset} are beyond its {self.size}"
            )


class Cursor:
    """Reads little-endian fields of a mapped file one after the other."""

    def __init__(self, file: MappedFile, offset: int = 0) -> None:
        self.file = file
        self.offset = offset

    def unpack(self, layout: str) -> tuple[Any, ...]:
        """layout as in struct, without the byte order."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def take(self, count: int) -> bytes:
        taken = self.file.bytes(self.offset, count)
        self.offset += count
        return taken

    def view(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        viewed = self.file.view(self.offset, dtype, shape)
        self.offset += viewed.nbytes
        return viewed

    def at_end(self) -> bool:
        return self.offset >= self.file.size


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or a ModelError that names it."""
    try:
        return parse_json_object(path.read_bytes(), path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def parse_json_object(text: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelError(f"{path} is damaged: its JSON cannot be read") from None
    if not isinstance(parsed, dict):
        raise ModelError(f"{path} is damaged: it holds no JSON object")
    return parsed


def read_alignment_heads(path: Path) -> tuple[tuple[int, int], ...] | None:
    """The (layer, head) pairs of cross-attention that follow time; the file may be absent."""
    pairs = read_json_object(path).get("alignment_heads") if path.is_file() else None
    if pairs is None:
        return None
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise ModelError(f"{path} is damaged: alignment_heads must be pairs of layer and head")
    return tuple((layer, head) for layer, head in pairs)


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(item) is int for item in pair)
