"""safetensors: u64 length, a JSON header (name -> dtype, shape, data_offsets), the data.

Read and written here, in a page: the library's NumPy face copies every tensor and has no bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .stored import DTYPES, Array, Cursor, MappedFile, Stored, parse_json_object

_KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_CODES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}
_ALIGNMENT = 64


def is_safetensors(file: MappedFile) -> bool:
    length = int.from_bytes(file.data[:8], "little")
    return file.data[8:9] == b"{" and length <= file.size - 8


def read_safetensors(file: MappedFile) -> dict[str, Stored]:
    """Name in the file -> tensor."""
    cursor = Cursor(file)
    (length,) = cursor.unpack("Q")
    header = parse_json_object(cursor.take(length), file.path)
    header.pop("__metadata__", None)
    return {name: _tensor(file, cursor.offset, name, entry) for name, entry in header.items()}


def _tensor(file: MappedFile, base: int, name: str, entry: Any) -> Stored:
    try:
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise file.error(f"damaged: the entry of {name} is not complete") from None
    if not isinstance(dtype, str) or dtype not in _KINDS:
        raise file.error(f"{name} is not stored as F32, F16 or BF16, which are what can be read")
    if not all(type(number) is int for number in (*shape, start, stop)):
        raise file.error(f"damaged: the entry of {name} holds something else than whole numbers")
    kind = _KINDS[dtype]
    data = file.view(base + start, DTYPES[kind], shape)
    if start < 0 or data.nbytes != stop - start:
        raise file.error(f"damaged: {name} has {stop - start} bytes but its shape is {shape}")
    return Stored(data, kind)


def write_safetensors(
    path: Path, tensors: Mapping[str, Array], rename: Callable[[str], str] = str
) -> None:
    """Arrays as they come, float32 or float16; walked twice, because the header leads."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        stop = offset + array.nbytes
        shape = list(array.shape)
        header[rename(name)] = {
            "dtype": _CODES[array.dtype],
            "shape": shape,
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).data)
