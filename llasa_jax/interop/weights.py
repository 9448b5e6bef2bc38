"""Published checkpoints as tensors by name, each taken once; and files written whole or not at all.

A checkpoint is a safetensors file, several with an index, or a file that torch.save wrote.
"""

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from llasa_jax.errors import UserError
from llasa_jax.interop.torch_pickle import read_torch_file

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
TORCH_WEIGHTS = "pytorch_model.bin"
TORCH_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
SHARD_BYTES = 5_000_000_000  # as the published Llamas are split
Storage = Literal["float32", "bfloat16"]
STORED: dict[Storage, tuple[str, np.dtype]] = {
    "float32": ("F32", np.dtype("<f4")),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}
LARGEST_JSON = 1 << 26  # bytes; an index of a thousand layers has under one


@dataclass(frozen=True)
class _Stored:
    """A tensor that is not read yet."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Weights:
    """The tensors of a checkpoint; each is taken once, and none may be left at the end.

    safetensors are read tensor by tensor; a torch file is read whole and shrinks as it is taken.

    Args:
        path: a file, or a folder with `model.safetensors`, its index and parts, or
            `pytorch_model.bin`.

    Raises:
        UserError: if there is none, or it cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        files = [path] if path.is_file() else _files(path)
        self._stored: dict[str, _Stored] = {}
        for file in files:
            torch = file.suffix in TORCH_SUFFIXES
            self._stored |= _torch_tensors(file) if torch else _safetensors(file)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def names(self) -> list[str]:
        """Names of the tensors that are not taken yet."""
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._stored:
            raise UserError(f"{self.path}: tensor {name} is missing")
        return self._stored[name].shape

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor as float32, which must have this shape and be finite."""
        self.check(name, shape)
        tensor = self._read(name)
        self.drop(name)
        if not np.isfinite(tensor).all():
            raise UserError(f"{self.path}: tensor {name} holds NaN or infinity")
        return tensor

    def drop(self, name: str, shape: tuple[int, ...] | None = None) -> None:
        """Counts a tensor, which must have this shape, as taken without reading it."""
        if shape is not None:
            self.check(name, shape)
        del self._stored[name]

    def rename(self, name: str, new: str) -> None:
        if new in self:
            raise UserError(f"{self.path}: tensors {name} and {new} are the same parameter")
        self._stored[new] = self._stored.pop(name)

    def add(self, name: str, tensor: np.ndarray) -> None:
        """A tensor that was made of others, to be taken as those that were read."""
        if name in self:
            raise UserError(f"{self.path}: tensor {name} is there twice")
        self._stored[name] = _Stored(tensor.shape, lambda: tensor)

    def drop_copy(self, name: str, original: str) -> bool:
        """Whether two tensors are equal; if they are, `name` counts as taken."""
        there = name in self and original in self
        equal = there and bool(np.array_equal(self._read(name), self._read(original)))
        if equal:
            self.drop(name)
        return equal

    def finish(self) -> None:
        """Raises UserError if a tensor is left."""
        if self._stored:
            raise UserError(f"{self.path}: tensor {min(self._stored)} has no place in this model")

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises UserError if the tensor is missing or has another shape."""
        found = self.shape(name)
        if found != tuple(shape):
            raise UserError(f"{self.path}: tensor {name} has shape {found}, not {tuple(shape)}")

    def _read(self, name: str) -> np.ndarray:
        try:
            return np.asarray(self._stored[name].read(), np.float32)
        except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.path}: tensor {name} cannot be read ({error})") from error


def _files(folder: Path) -> list[Path]:
    """The checkpoint's files in a folder."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        names = read_json(folder / INDEX).get("weight_map", {}).values()
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise UserError(f"{folder / INDEX}: file {name!r} lies outside the folder")
        return [folder / name for name in sorted(set(names))]
    if (folder / TORCH_WEIGHTS).is_file():
        return [folder / TORCH_WEIGHTS]
    raise UserError(f"{folder}: no {WEIGHTS}, {INDEX} or {TORCH_WEIGHTS}; give a model's folder")


def _safetensors(path: Path) -> dict[str, _Stored]:
    try:
        file = safe_open(path, "np")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: no readable safetensors ({error}); fetch it again") from error
    return {n: _Stored(shape, partial(file.get_tensor, n)) for n, shape in shapes.items()}


def _torch_tensors(path: Path) -> dict[str, _Stored]:
    """The tensors of a state dict, or of the one that a checkpoint of a training holds."""
    state = read_torch_file(path)
    for name in ("state_dict", "model"):  # of Lightning; of fairseq and UniSpeech
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no tensors by name; save the model's state dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise UserError(f"{path}: {name!r} is no tensor; save the model's state dict alone")
    return {n: _Stored(value.shape, lambda value=value: value) for n, value in state.items()}


def write_tensors(path: Path, tensors: dict[str, np.ndarray], storage: Storage = "float32") -> None:
    """A safetensors file of tensors, whole or not at all.

    Views are written as they are shown; one tensor at a time is copied, not all at once. bfloat16
    is rounded to the nearest.
    """
    name_of_type, dtype = STORED[storage]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + dtype.itemsize * tensor.size
        shape = list(tensor.shape)
        header[name] = {"dtype": name_of_type, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, tensor in sorted(tensors.items()):
                # As bytes: a buffer of bfloat16 is nothing that a file knows.
                file.write(np.ascontiguousarray(tensor, dtype).reshape(-1).view(np.uint8))

    write_whole(path, write)


def write_checkpoint(
    folder: Path,
    tensors: dict[str, np.ndarray],
    storage: Storage = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """`model.safetensors`, or its parts of at most `shard_bytes` of tensors each and their index.

    Tensors go into the parts in their order; one that is larger has a part of its own.
    """
    size = STORED[storage][1].itemsize
    parts: list[dict[str, np.ndarray]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if parts[-1] and filled + size * tensor.size > shard_bytes:
            parts.append({})
            filled = 0
        parts[-1][name] = tensor
        filled += size * tensor.size
    if len(parts) == 1:
        write_tensors(folder / WEIGHTS, tensors, storage)
        return
    places = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        write_tensors(folder / file, part, storage)
        places |= dict.fromkeys(part, file)
    total = size * sum(tensor.size for tensor in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def read_json(path: Path) -> dict:
    """Settings by name from a JSON file.

    Raises:
        UserError: if it is missing, broken, too long or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found, expected a model in the Hugging Face layout")
    if path.stat().st_size > LARGEST_JSON:
        raise UserError(f"{path}: is over {LARGEST_JSON >> 20} MiB, no model has so long a file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no readable JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no settings by name")
    return found


@contextmanager
def read_settings(path: Path, fixed: Mapping[str, Any]) -> Iterator[dict]:
    """The settings of a published model, for a block that takes what it needs from them.

    Args:
        fixed: settings by name whose value, where it is given, must be this one.

    Raises:
        UserError: as `read_json`; if a fixed setting has another value; or if what the block asks
            for is not there or of another kind.
    """
    found = read_json(path)
    for name, value in fixed.items():
        if found.get(name, value) != value:
            raise UserError(f"{path}: {name} is {found[name]!r}, only {value!r} is read")
    try:
        yield found
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: lacks or breaks the setting {error}") from error


def write_json(path: Path, values: dict) -> None:
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """`write(temporary)`, then renamed to `path`: whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
