"""Reads the tensors of a file that torch.save wrote, without torch and without unpickling.

A pickle is a program, and unpickling runs whatever it names. This file reads the opcodes with
`pickletools` and interprets only those that build tensors, dicts, lists, tuples, numbers and
strings; the three functions a checkpoint names are replaced by our own, any other name is refused.
Both layouts are read: the zip archive (torch >= 1.6) and the sequence of pickles before it
(torch/serialization.py, `_save` and `_legacy_save`).
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from llasa_jax.errors import UserError

MAX_FILE_BYTES = 16 << 30
MAX_PICKLE_BYTES = 64 << 20  # the part that describes the tensors
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

_STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class _Refused(Exception):
    """Why a file is not read."""


@dataclass(frozen=True)
class _Storage:
    """A run of elements named in the pickle; the bytes are elsewhere in the file."""

    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage: offset, shape and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_file(path: Path) -> Any:
    """What torch.save wrote, tensors as read-only numpy arrays (bfloat16 by ml_dtypes).

    Raises:
        UserError: if the file is missing, damaged, too large, or holds anything but tensors,
            dicts, lists, tuples, numbers and strings.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _Refused(f"is over {MAX_FILE_BYTES >> 30} GiB")
        with path.open("rb") as file:
            return _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
    except (OSError, _Refused, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: {error}; give a file written by torch.save") from error
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(
            f"{path}: is damaged or no file of torch.save ({reason}); fetch it again"
        ) from error


def _read_zip(file: io.BufferedReader) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise _Refused("holds compressed entries, which torch.save does not write")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise _Refused("was written on a big-endian machine")
        if entries["data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise _Refused(f"describes its tensors in over {MAX_PICKLE_BYTES >> 20} MiB")
        root = _interpret(io.BytesIO(archive.read(entries["data.pkl"])))

        def load(storage: _Storage) -> np.ndarray:
            data = archive.read(entries[f"data/{storage.key}"])
            return np.frombuffer(data, storage.dtype, storage.count)

        return _with_arrays(root, load)


def _read_legacy(file: io.BufferedReader) -> Any:
    file.seek(0)
    head = io.BytesIO(file.read(MAX_PICKLE_BYTES))  # reads no more than there is, as a file would
    if _interpret(head) != LEGACY_MAGIC or _interpret(head) != LEGACY_PROTOCOL:
        raise _Refused("does not start as a file of torch.save")
    if not _interpret(head).get("little_endian"):
        raise _Refused("was written on a big-endian machine")
    root, keys = _interpret(head), _interpret(head)
    file.seek(head.tell())
    storages: dict[str, _Storage] = {}
    _each_tensor(root, lambda tensor: storages.setdefault(tensor.storage.key, tensor.storage))
    data = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        if key not in storages or count != storages[key].count:
            raise _Refused(f"has an unexpected storage {key!r}")
        content = file.read(count * storages[key].dtype.itemsize)
        data[key] = np.frombuffer(content, storages[key].dtype, count)
    return _with_arrays(root, lambda storage: data[storage.key])


def _each_tensor(tree: Any, visit: Callable[[_Tensor], Any]) -> Any:
    """The tree with each tensor replaced by what `visit` returns; what is shared stays shared."""
    seen: dict[int, Any] = {}

    def walk(node: Any) -> Any:
        if id(node) in seen:
            return seen[id(node)]
        if isinstance(node, _Tensor):
            made = visit(node)
        elif isinstance(node, dict):
            made = {key: walk(value) for key, value in node.items()}
        elif isinstance(node, list | tuple):
            made = type(node)(walk(value) for value in node)
        else:
            made = node
        return seen.setdefault(id(node), made)

    return walk(tree)


def _with_arrays(tree: Any, load: Callable[[_Storage], np.ndarray]) -> Any:
    loaded: dict[str, np.ndarray] = {}

    def build(tensor: _Tensor) -> np.ndarray:
        storage = tensor.storage
        if storage.key not in loaded:
            loaded[storage.key] = load(storage)
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
        size = math.prod(tensor.shape)
        inside = size == 0 or tensor.offset + reach < storage.count
        # An expanded tensor repeats elements; none of a model's parameters does.
        if min((tensor.offset, *tensor.shape, *tensor.stride)) < 0 or not inside:
            raise _Refused("has a tensor that leaves its storage")
        if size > storage.count:
            raise _Refused("has a tensor larger than its storage")
        strides = [step * storage.dtype.itemsize for step in tensor.stride]
        whole = loaded[storage.key][tensor.offset :]
        return np.lib.stride_tricks.as_strided(whole, tensor.shape, strides, writeable=False)

    return _each_tensor(tree, build)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple, stride: tuple, *_: Any
) -> _Tensor:
    ok = isinstance(storage, _Storage) and len(shape) == len(stride)
    if not ok or not all(type(n) is int for n in (offset, *shape, *stride)):
        raise _Refused("has a tensor without a shape")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _ordered_dict(items: list | tuple = ()) -> dict:
    return {key: value for key, value in items}


_CALLS: dict[str, Callable] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": lambda data, *_: data,
}
_NAMES: dict[str, Any] = _CALLS | {f"torch {name}": dtype for name, dtype in _STORAGES.items()}


def _storage(identity: Any) -> _Storage:
    """The persistent id ("storage", class, key, device, count[, view of another storage])."""
    kind, dtype, key, _, count, *view = identity
    if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
        raise _Refused("names a storage of a kind that is not read")
    if type(count) is not int or count < 0:
        raise _Refused("names a storage without a size")
    return _Storage(str(key), dtype, count)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES".split()
)
_IGNORED = frozenset({"PROTO", "FRAME"})


def _interpret(file: Any) -> Any:
    """The value of one pickle, read from where `file` stands; leaves it behind the pickle."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def add_pairs(items: list) -> None:
        if not isinstance(stack[-1], dict) or len(items) % 2:
            raise _Refused("fills something that is no dict")
        stack[-1].update(zip(items[::2], items[1::2], strict=True))

    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "LIST":
            stack.append(since_mark())
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else since_mark()
            if not isinstance(stack[-1], list):
                raise _Refused("fills something that is no list")
            stack[-1].extend(items)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "DICT":
            items = since_mark()
            stack.append({})
            add_pairs(items)
        elif name == "SETITEMS":
            add_pairs(since_mark())
        elif name == "SETITEM":
            items = stack[-2:]
            del stack[-2:]
            add_pairs(items)
        elif name == "GLOBAL":
            if argument not in _NAMES:
                raise _Refused(f"names {argument.replace(' ', '.')!r}, which is not read")
            stack.append(_NAMES[argument])
        elif name == "STACK_GLOBAL":
            module, attribute = stack.pop(-2), stack.pop()
            if f"{module} {attribute}" not in _NAMES:
                raise _Refused(f"names '{module}.{attribute}', which is not read")
            stack.append(_NAMES[f"{module} {attribute}"])
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if function not in _CALLS.values() or not isinstance(arguments, tuple):
                raise _Refused("calls something that is no builder of tensors")
            stack.append(function(*arguments))
        elif name == "BUILD":
            stack.pop()  # the attributes of a state dict (its _metadata): not needed
            if not isinstance(stack[-1], dict):
                raise _Refused("sets the state of something that is no dict")
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name not in _IGNORED:
            raise _Refused(f"uses the pickle instruction {name}, which is not read")
    raise _Refused("ends in the middle of a pickle")
