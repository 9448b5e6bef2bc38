"""Compiling programs ahead of time for TPUs that are not there: any machine with libtpu can.

The compiler is the one that a pod would run, so memory, collectives and refusals are real; nothing
runs, so times are estimates.
"""

import importlib.metadata
import importlib.util
import os
import re
import time
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from llasa_jax.errors import UserError
from llasa_jax.parallel.chips import CHIPS, Chip

# libtpu looks for the machine it is on and locks the chips: here are neither. Set before it loads.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
# "... (32.00G) exceeds available HBM (15.75G)", or "Used 21.90G of 15.75G hbm"
_OUT_OF_MEMORY = re.compile(r"([\d.]+)([KMG])(?:\) exceeds available HBM| of [\d.]+[KMG] hbm)")


@dataclass(frozen=True)
class Topology:
    """Slices of a TPU pod, to compile for."""

    name: str
    slices: int
    chip: Chip
    devices: list[jax.Device]

    @property
    def chips(self) -> int:
        return len(self.devices) // self.chip.devices


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program, for one device.

    Attributes:
        arguments, temporaries: bytes of memory; temporaries None if the program did not fit.
        peak: arguments and temporaries; of a program that did not fit, what the compiler wanted.
        alive: bytes that are in use at once, arguments among them, as the compiler counts them in
            whatever memory they lie; None if the program did not fit.
        text: the optimised HLO; "" if it did not fit.
        seconds: that compiling took.
    """

    arguments: int | None
    temporaries: int | None
    peak: int
    alive: int | None
    text: str
    seconds: float

    def report(self, hbm: int) -> dict[str, Any]:
        """JSON-able, for a device with `hbm` bytes: `fits`, `bytes`, `compile_s`."""
        sizes = {"arguments": self.arguments, "temporaries": self.temporaries}
        return {
            "fits": self.temporaries is not None and self.peak <= hbm,
            "bytes": sizes | {"peak": self.peak, "alive": self.alive, "hbm": hbm},
            "compile_s": round(self.seconds, 1),
        }


def topology(name: str, slices: int = 1) -> Topology:
    """The slices `name`, as "v5p:4x4x4": a chip of `chips.CHIPS` and its grid of chips.

    Raises:
        UserError: if libtpu is not installed, or knows no such slice.
    """
    kind, _, grid = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", grid):
        known = ", ".join(CHIPS)
        raise UserError(
            f"topology {name!r}: expected a chip and its grid, as v5e:4x4; chips: {known}"
        )
    if slices < 1:
        raise UserError(f"slices: {slices} is not positive")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for TPUs needs libtpu: pip install 'llasa-jax[plan]'")
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    settings: dict[str, Any] = {"num_slices": slices}
    if kind == "v4":
        settings["chip_config_name"] = "megacore"
    sizes = [int(size) for size in grid.split("x")]
    if max(sizes) == 1:
        settings["chips_per_host_bounds"] = (1, 1, 1)
    try:
        devices = topologies.get_topology_desc(name, "tpu", **settings).devices
    except Exception as error:  # libtpu's own, of several types
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"topology {name!r}: libtpu has none such ({reason})") from error
    return Topology(name, slices, CHIPS[kind], list(devices))


def compile_program(traced: jax.stages.Traced) -> Compiled:
    """Compiles for the devices that the arguments' shardings name; nothing is materialised.

    Args:
        traced: `jax.jit(f).trace(...)` of trees of `jax.ShapeDtypeStruct`s with shardings.

    Raises:
        UserError: if the compiler refuses the program for another reason than memory.
    """
    lowered = traced.lower()
    started = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = _OUT_OF_MEMORY.search(str(error))
        if not wanted:
            reason = str(error).strip().splitlines()[0][:300]
            raise UserError(f"the compiler refuses the program: {reason}") from error
        peak = round(float(wanted[1]) * 1024 ** ("KMG".index(wanted[2]) + 1))
        return Compiled(None, None, peak, None, "", time.monotonic() - started)
    seconds = time.monotonic() - started
    memory = compiled.memory_analysis()
    sizes = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    alive = memory.peak_memory_in_bytes
    return Compiled(*sizes, sum(sizes), alive, compiled.as_text(), seconds)


def toolchain() -> dict[str, str]:
    """Versions of what compiles, and its optimization level if one is set (jax's own setting)."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    level = jax.config.jax_optimization_level
    return versions if level == "UNKNOWN" else versions | {"optimization": level}
