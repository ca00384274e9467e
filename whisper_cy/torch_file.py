"""Files of torch.save, read without torch and without unpickling.

zip form:    <any>/data.pkl describes the objects, <any>/data/<key> holds the numbers of one storage
legacy form: five pickles (magic, protocol, machine, objects, keys); per key i64 count, numbers

The pickle runs on a small stack machine of our own that knows the opcodes torch.save writes. It can
build tensors, dicts, lists, tuples and numbers; any other name in the pickle is refused unseen.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np

from .stored import DTYPES, Cursor, MappedFile, Stored

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # within a pickle's frame
_LOCAL_HEADER_SIZE = 30

_KINDS = {
    "torch.HalfStorage": "float16",
    "torch.FloatStorage": "float32",
    "torch.BFloat16Storage": "bfloat16",
}


@dataclass(frozen=True)
class Tensor:
    """A tensor as the pickle describes it: strides and offset count elements of its storage."""

    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Storage:
    key: str


@dataclass(frozen=True)
class _Name:
    """A global the pickle refers to; known by its text only, never looked up."""

    text: str


class _RefusedError(Exception):
    """The pickle holds something that no checkpoint needs, or is damaged."""


def is_torch(file: MappedFile) -> bool:
    head = file.data[:32]
    return head.startswith(_ZIP_MAGIC) or (head[:1] == b"\x80" and _LEGACY_MAGIC in head)


class TorchFile:
    """root: the saved object, Tensor where a tensor was; stored(tensor) finds its numbers."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._storages: dict[str, tuple[str, int]] = {}  # key -> (kind, count)
        self._places: dict[str, int] = {}  # key -> byte offset of its numbers
        if file.data[:4] == _ZIP_MAGIC:
            self._read_zip()
        else:
            self._read_legacy()

    def stored(self, tensor: Tensor) -> Stored:
        """The tensor as a view of the file."""
        kind, count = self._storages[tensor.key]
        place = self._places.get(tensor.key)
        if place is None:
            raise self._file.error(
                f"damaged: the numbers of storage {tensor.key[:20]} are not there"
            )
        dtype = DTYPES[kind]
        flat = self._file.view(place, dtype, (count,))
        # Expanded tensors repeat elements through a stride of 0; none of Whisper's is one.
        if math.prod(tensor.shape) > count:
            raise self._file.error(f"damaged: a tensor of shape {tensor.shape} in {count} numbers")
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
        try:
            data = np.ndarray(tensor.shape, dtype, flat, tensor.offset * dtype.itemsize, strides)
        except (ValueError, TypeError):
            raise self._file.error(
                "damaged: a tensor reaches past the end of its storage"
            ) from None
        return Stored(data, kind)

    def _read_zip(self) -> None:
        entries = self._zip_entries()
        name = next((name for name in entries if name.rpartition("/")[2] == "data.pkl"), None)
        if name is None:
            raise self._file.error("a zip file, but not one that torch.save wrote")
        prefix = name[: -len("data.pkl")]
        order = entries.get(f"{prefix}byteorder")
        if order is not None and self._file.bytes(*order) != b"little":
            raise self._file.error("its numbers are not little-endian, which is what can be read")
        cursor = Cursor(self._file, entries[name][0])
        self.root = self._unpickle(cursor)
        for key, (kind, count) in self._storages.items():
            place, size = entries.get(f"{prefix}data/{key}", (0, -1))
            if size >= count * DTYPES[kind].itemsize:
                self._places[key] = place

    def _zip_entries(self) -> dict[str, tuple[int, int]]:
        """Name -> (offset, size) of every member's bytes."""
        try:
            # The map reads like a file, and unlike one it allocates no more than it has.
            with zipfile.ZipFile(cast("IO[bytes]", self._file.data)) as archive:
                members = archive.infolist()
        except Exception as error:  # zipfile answers damage with half a dozen kinds of error
            raise self._file.error(
                "cut short or damaged: its zip directory cannot be read"
            ) from error
        entries = {}
        for member in members:
            cursor = Cursor(self._file, member.header_offset)
            *_, name_length, extra_length = cursor.unpack("4s5H3I2H")
            if member.compress_type != zipfile.ZIP_STORED:
                raise self._file.error(
                    "its members are compressed; torch.save stores them as they are"
                )
            place = cursor.offset + name_length + extra_length
            entries[member.filename] = (place, member.file_size)
        return entries

    def _read_legacy(self) -> None:
        cursor = Cursor(self._file)
        self._unpickle(cursor)  # the magic number
        self._unpickle(cursor)  # the protocol
        machine = self._unpickle(cursor)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise self._file.error("its numbers are not little-endian, which is what can be read")
        self.root = self._unpickle(cursor)
        keys = self._unpickle(cursor)
        for key in keys if isinstance(keys, list) else []:
            if not isinstance(key, str) or key not in self._storages:
                raise self._file.error("damaged: it lists a storage that no tensor uses")
            kind, count = self._storages[key]
            if cursor.unpack("q") != (count,):
                raise self._file.error("damaged: a storage has another length than its tensors say")
            self._places[key] = cursor.offset
            cursor.view(DTYPES[kind], (count,))

    def _unpickle(self, cursor: Cursor) -> Any:
        self._file.data.seek(cursor.offset)
        try:
            value = _Machine(self._add_storage).run(self._file.data)
        except _RefusedError as error:
            raise self._file.error(str(error)) from None
        except (ValueError, IndexError, KeyError, TypeError, AttributeError):
            # What pickletools and a stack that ran empty raise on bytes that are no pickle.
            raise self._file.error("cut short or damaged: its pickle cannot be read") from None
        cursor.offset = self._file.data.tell()
        return value

    def _add_storage(self, persistent_id: Any) -> _Storage:
        tag, name, key, _, count, *_ = persistent_id
        if tag != "storage" or not isinstance(name, _Name) or not isinstance(key, str):
            raise _RefusedError("damaged: it refers to something that is not a tensor's storage")
        if name.text not in _KINDS:
            raise _RefusedError(
                f"holds a {name.text[:40]}; float32, float16 and bfloat16 can be read"
            )
        if type(count) is not int or count < 0:
            raise _RefusedError("damaged: a storage without a length")
        self._storages[key] = (_KINDS[name.text], count)
        return _Storage(key)


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(v) is int and v >= 0 for v in values):
        raise _RefusedError("damaged: a tensor's shape or strides are not whole numbers")
    return values


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, _Storage):
        raise _RefusedError("damaged: a tensor without a storage")
    (offset,) = _whole_numbers((offset,))
    return Tensor(storage.key, offset, _whole_numbers(shape), _whole_numbers(strides))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}

_PUSH_TEXT = frozenset(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"))
_PUSH_NUMBER = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"))
_PUSH_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = frozenset(["PROTO", "FRAME"])


class _Machine:
    """Pickle's stack machine, cut down to what describes tensors in containers."""

    def __init__(self, add_storage: Callable[[Any], _Storage]) -> None:
        self.add_storage = add_storage
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks set aside by MARK
        self.memo: dict[int, Any] = {}

    def run(self, file: Any) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSH_TEXT or name in _PUSH_NUMBER:
                self.stack.append(argument)
            elif name in _PUSH_CONSTANT:
                self.stack.append(_PUSH_CONSTANT[name])
            elif name in _TUPLE_LENGTHS:
                self.stack.append(tuple(self.pop_many(_TUPLE_LENGTHS[name])))
            elif name not in _NO_EFFECT:
                handler = getattr(self, f"do_{name.lower()}", None)
                if handler is None:
                    raise _RefusedError(f"its pickle uses {name}, which no checkpoint needs")
                handler(argument)
        raise _RefusedError("cut short: its pickle has no end")

    def pop_many(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def pop_mark(self) -> list[Any]:
        taken, self.stack = self.stack, self.below.pop()
        return taken

    def store(self, keys: list[Any], values: list[Any]) -> None:
        target = self.stack[-1]
        # Only plain keys: hashing nested tuples can be made to take forever.
        if type(target) is not dict or not all(type(key) in (str, int) for key in keys):
            raise _RefusedError("damaged: its pickle fills something that is not a plain dict")
        target.update(zip(keys, values, strict=True))

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _RefusedError("damaged: its pickle appends to something that is not a list")
        self.stack[-1].extend(values)

    def do_mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def do_tuple(self, _: Any) -> None:
        taken = tuple(self.pop_mark())
        self.stack.append(taken)

    def do_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def do_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def do_setitem(self, _: Any) -> None:
        key, value = self.pop_many(2)
        self.store([key], [value])

    def do_setitems(self, _: Any) -> None:
        taken = self.pop_mark()
        self.store(taken[::2], taken[1::2])

    def do_append(self, _: Any) -> None:
        self.extend(self.pop_many(1))

    def do_appends(self, _: Any) -> None:
        self.extend(self.pop_mark())

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_binput(self, index: Any) -> None:
        self.memo[index] = self.stack[-1]

    do_long_binput = do_binput

    def do_binget(self, index: Any) -> None:
        self.stack.append(self.memo[index])

    do_long_binget = do_binget

    def do_global(self, text: Any) -> None:
        self.push_name(text.replace(" ", ".", 1))

    def do_stack_global(self, _: Any) -> None:
        module, name = self.pop_many(2)
        self.push_name(f"{module}.{name}" if type(module) is type(name) is str else "that name")

    def push_name(self, text: str) -> None:
        is_storage = text.startswith("torch.") and text.endswith("Storage")
        if text not in _CALLS and not is_storage:
            raise _RefusedError(
                f"its pickle asks for {text[:60]!r}; a checkpoint holds tensors only"
            )
        self.stack.append(_Name(text))

    def do_reduce(self, _: Any) -> None:
        name, arguments = self.pop_many(2)
        if not isinstance(name, _Name) or name.text not in _CALLS:
            raise _RefusedError("damaged: its pickle calls something that is no tensor")
        if name.text == "collections.OrderedDict" and arguments != ():
            raise _RefusedError("damaged: its pickle fills something that is not a plain dict")
        self.stack.append(_CALLS[name.text](*arguments))

    def do_build(self, _: Any) -> None:
        # A module's state dict carries its version numbers as an attribute: of no use here.
        if type(self.stack[-2]) is not dict:
            raise _RefusedError("damaged: its pickle changes something that is not a plain dict")
        self.stack.pop()

    def do_binpersid(self, _: Any) -> None:
        self.stack.append(self.add_storage(self.stack.pop()))
