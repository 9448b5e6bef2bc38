"""A small run to disturb: a language model of two layers, packed rows, gradients in two parts.

Imported once; every life of the run is a fork, which starts JAX for itself.
"""

import faulthandler
import hashlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles faster

import jax  # noqa: E402
import numpy as np  # noqa: E402

from llasa_jax import console  # noqa: E402
from llasa_jax.config import (  # noqa: E402
    DecoderConfig,
    DecoderRun,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from llasa_jax.data.batches import by_step  # noqa: E402
from llasa_jax.errors import Saved, UserError  # noqa: E402
from llasa_jax.parallel.distributed import gather  # noqa: E402
from llasa_jax.training import loop  # noqa: E402
from llasa_jax.training.language import language_objective  # noqa: E402
from llasa_jax.training.loop import fit  # noqa: E402
from llasa_jax.training.meter import TIMED  # noqa: E402

ROWS, LENGTH = 16, 32
RUN = DecoderRun(
    lm=DecoderConfig(
        dim=32,
        ffn=64,
        layers=2,
        heads=4,
        kv_heads=4,
        head_dim=8,
        text_vocab=40,
        codes=64,
        unseen=7,
    ),
    train=TrainConfig(
        steps=400,
        batch=ROWS,
        accumulate=2,
        ema=0.9,
        optimizer=OptimizerConfig(peak=3e-3, eps=1e-6),
        log_every=7,
        valid_every=100,
        save_every=5,
        save_minutes=1 / 600,
        spike_window=16,
    ),
    row=LENGTH,
    loss_chunk=8,
)


def batch_of(step: int) -> dict[str, np.ndarray]:
    """The whole batch of a step: packed sequences that count on from a random id."""
    numbers = np.random.default_rng(step)
    segments = np.sort(numbers.integers(1, 4, (ROWS, LENGTH + 1)), axis=1)
    places = np.arange(LENGTH + 1)
    first = np.array([[np.argmax(row == number) for number in row] for row in segments])
    ids = (numbers.integers(0, 100, (ROWS, 4))[np.arange(ROWS)[:, None], segments] + places) % 112
    return {
        "tokens": ids[:, :-1].astype(np.int32),
        "targets": ids[:, 1:].astype(np.int32),
        "positions": (places - first)[:, :-1].astype(np.int32),
        "segments": segments[:, :-1].astype(np.int32),
        "weights": (segments[:, 1:] == segments[:, :-1]).astype(np.float32),
    }


def rows(step: int) -> dict[str, np.ndarray]:
    """This process's rows of a step's batch."""
    share = np.split(np.arange(ROWS), jax.process_count())[jax.process_index()]
    return {name: x[share] for name, x in batch_of(step).items()}


def cached(folder: Path) -> None:
    """Compiled programs are kept: a life begins in a second."""
    for name, value in {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)


def live(folder: Path, mesh: MeshConfig, steps: int, on_step: Callable[[int], None]) -> dict:
    """The run until it ends or is stopped; what it came to.

    Args:
        on_step: called with the number of the batch that is laid on the devices.
    """
    place, laid = loop.place_batch, []

    def acting(*given):
        laid.append(given)
        on_step(len(laid))
        return place(*given)

    loop.place_batch = acting
    if jax.process_index() != 0 or "SOAK_LOUD" not in os.environ:
        console.silence()
    config = replace(RUN.train, steps=steps, mesh=mesh)
    objective = language_objective(RUN, (4, 4, 4))
    try:
        fitted = fit(objective, by_step(rows), config, folder, seed=0)
    except Saved as stopped:
        return {"stopped": int(str(stopped).split("step ")[1].split(",")[0])}
    except UserError as error:
        return {"error": str(error)}
    curve = [{k: v for k, v in row.items() if k not in TIMED} for row in fitted.curve]
    return {"curve": curve, "digest": digest(gather(fitted.params))}


def digest(params: dict) -> str:
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def fork(act: Callable[[], None]) -> int:
    """A child process that does it and ends; its number."""
    child = os.fork()
    if child == 0:
        status = 1
        faulthandler.enable()
        os.dup2(2, 1)  # Gloo greets on stdout, which is for what was found
        try:
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


def ended(child: int, seconds: float) -> int | None:
    """The exit status of a child (-N by signal N), waited for so long; None if it still lives."""
    until = time.monotonic() + seconds
    while True:
        try:
            found, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:  # waited for before
            return 0
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.002)
