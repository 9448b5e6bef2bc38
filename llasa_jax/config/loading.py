"""Configurations from files, from dicts and from `--set`, checked strictly."""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from llasa_jax.config.checks import require
from llasa_jax.errors import UserError


def to_dict(config: Any) -> dict:
    """Plain JSON-able form; `from_dict` is its inverse."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_hash(config: Any) -> str:
    """Twelve hexadecimal digits that change with any setting."""
    return values_hash(to_dict(config))


def values_hash(values: dict) -> str:
    """Twelve hexadecimal digits that change with any value."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def from_dict(kind: type, values: dict, where: str = "") -> Any:
    """Builds the dataclass `kind` from `values`, strictly.

    Raises:
        UserError: on an unknown key, a wrong type or a refused value, with the setting's path.
    """
    name = where or kind.__name__
    require(isinstance(values, dict), f"{name}: expected settings, got {values!r}")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    given = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        hint = f"unknown setting, known here: {', '.join(known)}"
        require(key in known, f"{path}: {hint}")
        given[key] = _convert(hints[key], value, path)
    return kind(**given)


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint`, where that is exact: 1 is a float, 1.5 is no int."""
    if isinstance(hint, types.UnionType):
        options = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None else _convert(options[0], value, path)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, path)
    origin = typing.get_origin(hint)
    if origin is Literal:
        options = typing.get_args(hint)
        require(value in options, f"{path}: {value!r} is none of {', '.join(map(str, options))}")
        return value
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{path}: expected a list, got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], item, path) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) < 1 << 1000, f"{path}: a number that is too large")
        return float(value)
    exact = isinstance(value, hint) and not (hint is not bool and isinstance(value, bool))
    require(exact, f"{path}: expected {hint.__name__}, got {value!r}")
    return value


def override(config: Any, assignments: list[str]) -> Any:
    """Applies `path=value` strings, as in `--set train.steps=200`, and checks the result.

    Settings of a list are numbered from 0: `sources.2.weight=0.5`.
    """
    values = to_dict(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        require(bool(equals), f"--set {assignment}: expected path=value")
        *parents, last = path.split(".")
        node = values
        for name in parents:
            key = _key(node, name)
            ok = key is not None and isinstance(node[key], dict | list)
            require(ok, f"--set {path}: no group of settings named {name!r}")
            node = node[key]
        known = ", ".join(node if isinstance(node, dict) else map(str, range(len(node))))
        last = _key(node, last)
        require(last is not None, f"--set {path}: unknown setting, known: {known}")
        try:
            node[last] = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            node[last] = text
    return from_dict(type(config), values)


def _key(node: dict | list, name: str) -> str | int | None:
    """Where a setting is in its group, or in a list of them, numbered from 0; None: nowhere."""
    if isinstance(node, list):
        return int(name) if name.isdecimal() and int(name) < len(node) else None
    return name if name in node else None


def config_folder() -> Path:
    """`configs/` of the source checkout, or the copy that the wheel carries."""
    package = Path(__file__).parent.parent
    carried = package / "_configs"
    return carried if carried.is_dir() else package.parent / "configs"


def load_config(
    name: str, kind: type | types.UnionType, assignments: list[str] | None = None
) -> Any:
    """The named run's configuration: `name` is a file, or a name in `configs/`.

    Raises:
        UserError: if there is none of that name, it fails, or it configures another kind of run.
    """
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        path = config_folder() / f"{Path(name).stem}.py"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in config_folder().glob("*.py")))
        raise UserError(f"config {name}: not found, give a file or one of: {names}")
    spec = importlib.util.spec_from_file_location(f"llasa_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:  # the file is code: anything may go wrong in it
        raise UserError(f"config {path}: {type(error).__name__}: {error}") from error
    ok = isinstance(config, kind)
    kinds = " or ".join(one.__name__ for one in typing.get_args(kind) or (kind,))
    require(ok, f"config {path}: is a {type(config).__name__}, this command takes {kinds}")
    return override(config, assignments or [])
