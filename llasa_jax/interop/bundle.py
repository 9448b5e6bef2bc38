"""A model folder: one safetensors file a part, its configuration in the file's metadata.

Parts of a voice: `codec`, `lm`, `recogniser`, `speaker`, and the tokenizer's own files.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llasa_jax import nn
from llasa_jax.config import from_dict, to_dict
from llasa_jax.errors import UserError


def save_part(
    folder: Path,
    name: str,
    config: Any,
    params: dict,
    about: dict | None = None,
    *,
    half: bool = False,
) -> str:
    """Writes `name.safetensors`, whole or not at all, and returns its hash.

    Args:
        config: the part's configuration, a dataclass of `llasa_jax.config`.
        about: anything JSON-able to keep with it (speaker embeddings' names, training figures).
        half: float32 is written as float16, half the bytes; `load_part` gives float32 again.
    """
    part = {"kind": type(config).__name__, "config": to_dict(config), "about": about or {}}
    # One entry: safetensors writes several in any order, and equal parts must be equal files.
    metadata = {"part": json.dumps(part, sort_keys=True)}
    temporary = folder / f".{name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # safetensors writes a transposed view as if it were not one.
        tensors = jax.tree.map(lambda leaf: np.asarray(leaf, order="C"), jax.device_get(params))
        if half:
            tensors = jax.tree.map(lambda x: _cast(x, np.float32, np.float16), tensors)
        save_file(flatten(tensors), temporary, metadata)
        os.chmod(temporary, 0o644)  # safetensors makes it private
        os.replace(temporary, folder / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {folder / name}.safetensors: {error}") from error
    finally:
        if folder.is_dir():
            temporary.unlink(missing_ok=True)
    return part_hash(folder, name)


def load_part(
    folder: Path, name: str, kind: type, build: Callable[[Any, nnx.Rngs], nnx.Module]
) -> tuple[Any, dict, dict]:
    """(configuration, parameters, about) of `name.safetensors`.

    Args:
        kind: the configuration's dataclass.
        build: (configuration, rngs) -> module, whose parameters the file must hold exactly.

    Raises:
        UserError: if the file is missing, broken, of another kind, or lacks or adds a tensor.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(f"no model part {path}; give the folder that `llasa quickstart` wrote")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            tensors = {
                key: _cast(file.get_tensor(key), np.float16, np.float32) for key in file.keys()
            }
        part = json.loads(metadata["part"])
        held, values, about = part["kind"], part["config"], part["about"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no whole model part ({error}); copy or train it again") from error
    if held != kind.__name__:
        raise UserError(f"{path}: holds a {held}, expected a {kind.__name__}")
    try:
        config = from_dict(kind, values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    _, template = nn.abstract(lambda rngs: build(config, rngs))
    expected = {key: f"{leaf.dtype} {leaf.shape}" for key, leaf in flatten(template).items()}
    found = {key: f"{tensor.dtype} {tensor.shape}" for key, tensor in tensors.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise UserError(
                f"{path}: tensor {key} is {found.get(key, 'missing')}, its configuration says "
                f"{expected.get(key, 'none')}; the file belongs to another configuration"
            )
        if not np.isfinite(tensors[key]).all():
            raise UserError(f"{path}: tensor {key} holds NaN or infinity; train it again")
    return config, unflatten(template, tensors), about


def _cast(tensor: np.ndarray, of: type, to: type) -> np.ndarray:
    """A tensor of type `of` as one of type `to`; any other as it is."""
    return tensor.astype(to) if tensor.dtype == of else tensor


def part_hash(folder: Path, name: str) -> str:
    """Sixteen hexadecimal digits that name a part's weights and configuration."""
    with (folder / f"{name}.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"a.b.0": leaf}; keys are names, or places in a list."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def unflatten(template: dict, flat: dict[str, Any], prefix: str = "") -> dict:
    """`flat` in the nesting of `template`: the inverse of `flatten`."""
    return {
        key: unflatten(value, flat, f"{prefix}{key}.")
        if isinstance(value, dict)
        else flat[f"{prefix}{key}"]
        for key, value in template.items()
    }
