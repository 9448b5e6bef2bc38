"""Checkpoints of a training run. The only file of the project that knows Orbax.

A checkpoint counts once Orbax has committed it. Beside its arrays it holds what the run tells about
it and a fingerprint of every array. Fingerprints are taken on the devices and do not depend on the
mesh: wherever a state is restored, it is compared with what was saved.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from llasa_jax.console import log
from llasa_jax.errors import UserError

# Orbax logs what it meets, with tracebacks; what matters to a run is told in a line by `tell`.
logging.getLogger("absl").setLevel(logging.CRITICAL)

FORMAT = 1
PACKAGES = ("llasa-jax", "jax", "jaxlib", "optax", "orbax-checkpoint", "grain", "numpy")
BROKEN: dict = {"temporary": True}  # what is told about a checkpoint whose metadata is damaged


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the `latest` ones, those of every `every`th step (0: none), and the
    best by the validation metric `best` ("": none; "-NAME": the larger, the better).

    One that is `temporary` stays until the next is whole, or as long as there are fewer than
    `latest` others.
    """

    latest: int = 2
    every: int = 0
    best: str = ""

    def stay(self, found: dict[int, dict]) -> set[int]:
        """The steps that stay, of all whole checkpoints with what is told about each."""
        newest = sorted(found, reverse=True)
        regular = [step for step in newest if not found[step].get("temporary")]
        staying = {*newest[:1], *regular[: self.latest]}
        staying |= {step for step in regular if self.every and step % self.every == 0}
        name, sign = self.best.removeprefix("-"), -1 if self.best.startswith("-") else 1
        values = {step: found[step].get("valid", {}).get(name) for step in newest}
        judged = {step: sign * value for step, value in values.items() if value is not None}
        staying |= {min(judged, key=lambda step: (judged[step], step))} if judged else set()
        for step in newest:
            staying |= {step} if len(staying) < self.latest else set()
        return staying


class Damaged(UserError):
    """A checkpoint that is not what was saved."""


class Checkpoints:
    """The states of a run, saved while it goes on.

    A failing disk does not end the run: what could not be saved is told, and the next is tried.

    Args:
        place: the folder of all, or a bucket's address (gs://BUCKET/PATH, by `gcsfs`).
        reading: nothing is written and nothing moved.
        tell: takes a line about what went wrong.
    """

    def __init__(
        self,
        place: str | Path,
        keep: Keep = Keep(),
        *,
        reading: bool = False,
        tell: Callable[[str], None] = log,
    ):
        local = isinstance(place, Path) or "://" not in place
        self.folder = epath.Path(Path(place).absolute() if local else place)
        self.keep, self.reading, self.tell = keep, reading, tell
        self._shown = place
        self._under_way: int | None = None
        self._about: dict[int, dict] = {}
        try:
            self._manager: ocp.CheckpointManager | None = self._open()
        except OSError as error:
            raise UserError(f"checkpoints {place}: {_reason(error)}; is it writable?") from error

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            create=not self.reading,
            read_only=self.reading,
            cleanup_tmp_directories=not self.reading,  # what a killed process left half-written
            preservation_policy=_Policy(self),
        )
        handler = ocp.StandardCheckpointHandler()
        try:
            manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handler)
        except ValueError as error:  # one that cannot be read keeps Orbax from all of them
            broken = [p for p in self.folder.iterdir() if p.name.isdigit() and not _readable(p)]
            if self.reading or not broken:
                raise UserError(
                    f"checkpoints {self._shown}: one is damaged ({_reason(error)}); train on, it "
                    "will be set aside"
                ) from error
            for place in broken:
                self._move_aside(place)
                self.tell(f"checkpoint {place}: cannot be read ({_reason(error)}); set aside")
            return self._open()
        self._about = {step: _told(self.folder / str(step)) for step in manager.all_steps()}
        return manager

    @property
    def steps(self) -> list[int]:
        """Of all whole checkpoints, from the oldest to the newest."""
        return sorted(self._about.keys() - {self._under_way})

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint; None if there is none."""
        return max(self.steps, default=None)

    def about(self, step: int) -> dict:
        """What was told about the checkpoint of `step`."""
        return self._about[step]

    def save(self, step: int, state: Any, about: dict | None = None) -> bool:
        """Saves a state; only its copy to the host is waited for. False if that failed already.

        Args:
            about: JSON-able; "temporary" and "valid" (metrics) decide how long it stays.
        """
        self.settle()
        told = (about or {}) | {"format": FORMAT, "versions": {p: version(p) for p in PACKAGES}}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._manager is None:
                self._manager = self._open()
            told["shapes"] = _shapes(state)
            told["fingerprints"] = fingerprints(state)
            told["digest"] = _digest(told)
            self._about[step] = told
            self._under_way = step
            args = ocp.args.StandardSave(state)
            self._manager.save(step, args=args, custom_metadata=told, force=True)
        except Exception as error:  # Orbax raises what its file systems raise, of any kind
            self._failed(step, error)
            return False
        return True

    def settle(self) -> bool:
        """Waits for the save under way; whether it is whole."""
        step, self._under_way = self._under_way, None
        try:
            if step is not None:
                self._manager.wait_until_finished()
                if not (self.folder / str(step)).exists():
                    raise FileNotFoundError("it is not there after it was written")
        except Exception as error:
            self._failed(step, error)
            return False
        return True

    def _failed(self, step: int, error: Exception) -> None:
        self._under_way = None
        try:
            self._manager = self._open()
        except Exception:
            self._manager, self._about = None, {}
        newest = "no whole one is there" if self.latest is None else f"the last is {self.latest}"
        self.tell(
            f"checkpoint {self._shown}/{step}: could not be saved ({_reason(error)}); {newest}"
        )

    def newest(self, template: Any, before: int | None = None) -> tuple[int, Any, dict] | None:
        """(step, state, what was told) of the newest whole checkpoint; None if there is none.

        One that turns out to be damaged is named and set aside, to `aside` beside the folder, and
        the one before is taken.

        Args:
            before: the newest step that is taken; those after it are set aside, too.

        Raises:
            UserError: all are damaged, or one is of another configuration.
        """
        bad: list[tuple[int, Damaged]] = []
        later: list[int] = []
        for step in reversed(self.steps):
            if before is not None and step > before:
                later.append(step)
                continue
            try:
                state = self.restore(step, template)
            except Damaged as error:
                bad.append((step, error))
                continue
            for _, error in bad:
                self.tell(f"{error.args[0].partition(';')[0]}; set aside, going on from {step}")
            self._set_aside([*later, *(one for one, _ in bad)])
            return step, state, self._about[step]
        if bad:
            raise bad[0][1]
        self._set_aside(later)
        return None

    def _set_aside(self, steps: list[int]) -> None:
        if not steps or self.reading:
            return
        if jax.process_index() == 0:
            for step in steps:
                self._move_aside(self.folder / str(step))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints are set aside")
        self._manager.close()
        self._manager = self._open()

    def _move_aside(self, place: epath.Path) -> None:
        aside = self.folder.parent / "aside" / place.name
        aside.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists():
            aside.rmtree()
        if place.exists():
            place.rename(aside)

    def restore(self, step: int, template: Any) -> Any:
        """The state of `step`, with the template's structure, shapes, dtypes and places.

        Raises:
            UserError: if it is damaged (`Damaged`) or belongs to another configuration.
        """
        place = f"checkpoint {self._shown}/{step}"
        advice = f"delete {self._shown} to start again"
        told, state, reason = self._about[step], None, "another process cannot read it"
        try:
            if told is BROKEN:
                raise ValueError("what is told about it is not readable")
            held = told.get("shapes") or _shapes(self._manager.item_metadata(step))
            # Before it reads: of many arrays at once Orbax would complain in hundreds of lines.
            other = _difference(held, _shapes(template))
            if other:
                raise UserError(f"{place}: cannot be restored ({other}); {advice}")
            state = self._manager.restore(step, args=ocp.args.StandardRestore(template))
        except UserError:
            raise
        except Exception as error:  # of a damaged checkpoint: of any kind
            reason = _reason(error)
        if _by_all(state is not None):
            expected = told.get("fingerprints", {})
            found = fingerprints(state) if expected else expected
            wrong = [name for name in expected if found.get(name) != expected[name]]
            if not wrong:
                return state
            reason = f"{wrong[0]}, of {len(wrong)} in all, is not what was saved"
        state = None  # the error keeps this frame, and another state will be read
        raise Damaged(f"{place}: cannot be restored ({reason}); {advice}")

    def close(self) -> None:
        """Waits for saves under way."""
        self.settle()
        if self._manager is not None:
            self._manager.close()


class _Policy:
    """`Keep`, as Orbax asks for it."""

    def __init__(self, owner: Checkpoints):
        self.owner = owner

    def should_preserve(self, checkpoints: Iterable[Any], *, context: Any) -> list[bool]:
        found = {one.step: self.owner._about.get(one.step, {}) for one in checkpoints}
        staying = self.owner.keep.stay(found)
        for step in found.keys() - staying:
            self.owner._about.pop(step, None)
        return [step in staying for step in found]


def fingerprints(tree: Any) -> dict[str, str]:
    """Eight hexadecimal digits of every array, by its path: alike on all meshes and processes.

    Any change of one element changes them; of several, all but one in 4e9. Arrays lie on devices.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = [leaf for _, leaf in leaves]
    where = getattr(arrays[0], "sharding", None)
    whole = NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else None
    found = np.asarray(_marker(whole)(arrays))
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return {name: f"{mark:08x}" for name, mark in zip(names, found.tolist(), strict=True)}


@cache
def _marker(whole: NamedSharding | None) -> Callable[[list[jax.Array]], jax.Array]:
    """The jitted marks of arrays, on every device where they lie on a mesh."""
    marks = lambda arrays: jnp.stack([_mark(array) for array in arrays])  # noqa: E731
    return jax.jit(marks, out_shardings=whole)


def _mark(x: jax.Array) -> jax.Array:
    """A sum over all elements, modulo 2^32, of bits that are mixed with their element's place."""
    bits = x if x.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(x, f"uint{8 * x.itemsize}")
    word, stride = bits.astype(jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        word += place * np.uint32(0x9E3779B1 * stride & 0xFFFFFFFF)
        stride *= x.shape[axis]
    word = (word ^ word >> 15) * np.uint32(0x85EBCA77)  # one to one: no change of a word is lost
    word = (word ^ word >> 13) * np.uint32(0xC2B2AE3D)
    return jnp.sum(word ^ word >> 16, dtype=jnp.uint32)


def _by_all(ok: bool) -> bool:
    """Whether it went well in every process."""
    if jax.process_count() == 1:
        return ok
    return bool(multihost_utils.process_allgather(np.int32(ok)).min())


KNOWN = {"item_handlers", "metrics", "performance_metrics", "custom_metadata"}
KNOWN |= {"init_timestamp_nsecs", "commit_timestamp_nsecs"}


def _readable(place: epath.Path) -> bool:
    """Whether Orbax can read what it wrote about a checkpoint."""
    try:
        return set(json.loads((place / "_CHECKPOINT_METADATA").read_text())) <= KNOWN
    except Exception:  # of a damaged file
        return False


def _told(place: epath.Path) -> dict:
    """What was told about a checkpoint; {} by versions of this file that told nothing."""
    try:
        found = json.loads((place / "_CHECKPOINT_METADATA").read_text())
        told = dict(found["custom_metadata"] or {})
        whole = told.get("digest") == _digest(told) if told else "init_timestamp_nsecs" in found
        return told if whole else BROKEN
    except Exception:  # of a damaged file
        return BROKEN


def _digest(told: dict) -> str:
    text = json.dumps({k: v for k, v in told.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]


def _difference(held: dict[str, list[int]], wanted: dict[str, list[int]]) -> str:
    """The first array, a parameter if there is one, that differs; "" if none does."""
    for name in sorted(held.keys() | wanted.keys(), key=lambda n: (".opt." in n, n)):
        if held.get(name) != wanted.get(name):
            there, here = (
                tuple(shapes[name]) if name in shapes else "missing" for shapes in (held, wanted)
            )
            return f"{name} is {there} there, {here} in this configuration"
    return ""


def _shapes(tree: Any) -> dict[str, list[int]]:
    """The shape of every array by its path; of a state, or of what Orbax tells about one."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: hasattr(node, "shape"))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): list(leaf.shape)
        for path, leaf in leaves
    }
