"""Several processes as one run: how they find each other, and what each holds of an array."""

import importlib.util
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llasa_jax.errors import UserError

GATHERED = 1 << 30  # bytes of an array that every device holds at once while it is gathered
EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def connect() -> None:
    """Joins the processes of one run, if the environment says that there are several.

    It says so by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (or, in an indexed
    Kubernetes job or a JobSet, JOB_COMPLETION_INDEX); as a Slurm step of several tasks; as Open
    MPI; or as a TPU slice of GKE or of Cloud TPU, also several slices. The last three JAX reads
    itself. A process that is alone is left as it is.

    It comes before the first computation. All but process 0 are to be silent after it. Processes of
    CPUs keep no compiled programs from then on.

    Raises:
        UserError: if the environment does not say enough, or the others do not answer.
    """
    found = processes_told(os.environ)
    if found is None:
        return
    # JAX's own would take SIGTERM from a run, which agrees on where to stop itself (`Votes`).
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**found)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        names = ", ".join(EXPLICIT)
        raise UserError(
            f"processes of one run: cannot join the others ({reason}); set {names}, or "
            "JAX_NUM_PROCESSES=1 for a run of this process alone"
        ) from error
    # Processes that took CPU programs out of the cache waited for each other until Gloo gave up (2
    # of 3 pairs, jaxlib 0.10.2; those that compiled never did: tests/soak/soak.py stops). It seems
    # that a cached program loses the order of its collectives.
    if jax.default_backend() == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)


def processes_told(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`; None for a process that is alone.

    Raises:
        UserError: if a variable is missing, or is no number.
    """
    if environment.get("JAX_NUM_PROCESSES") == "1":
        return None
    given = [environment.get(name) for name in EXPLICIT]
    given[2] = given[2] or environment.get("JOB_COMPLETION_INDEX")
    if given[1] is not None:
        for name, value in zip(EXPLICIT, given, strict=True):
            number = name == EXPLICIT[0] or (value or "").isdecimal()
            if value is None or not number:
                raise UserError(
                    f"{name}: {value or 'is not set'}, needed with JAX_NUM_PROCESSES={given[1]}"
                )
        address, count, index = given
        found = {"coordinator_address": address, "num_processes": int(count)}
        return found | {"process_id": int(index), "cluster_detection_method": "deactivate"}
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    several = any(environment.get(name, "1") not in ("", "0", "1") for name in counts)
    hosts = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    several |= any("," in environment.get(name, "") for name in hosts)
    several |= "JAX_COORDINATOR_ADDRESS" in environment
    return {} if several or _on_cloud_tpu(environment) else None


def _on_cloud_tpu(environment: Mapping[str, str]) -> bool:
    """Whether TPU chips are here and will be used: then the machine knows its slice's others."""
    wanted = environment.get("JAX_PLATFORMS", "tpu").split(",")
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return "tpu" in wanted and bool(chips) and importlib.util.find_spec("libtpu") is not None


def gather(tree: Any) -> Any:
    """Arrays that lie over several processes, whole in each, as numpy; all processes call it.

    Those of one process are returned as they are.
    """
    if jax.process_count() == 1:
        return tree

    def whole(leaf: jax.Array) -> np.ndarray:
        parts = math.ceil(leaf.nbytes / GATHERED)
        if parts < 2:
            return multihost_utils.process_allgather(leaf, tiled=True)
        rows = math.ceil(leaf.shape[0] / parts)
        pieces = (leaf[start : start + rows] for start in range(0, leaf.shape[0], rows))
        return np.concatenate([multihost_utils.process_allgather(x, tiled=True) for x in pieces])

    return jax.tree.map(whole, tree)


def lay(tree: Any, places: Any) -> Any:
    """Host arrays, the same in every process, as arrays at their `places` (a tree of shardings).

    Each process uploads only what its devices hold.
    """

    def one(leaf: np.ndarray, where: jax.sharding.Sharding) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, where, lambda index: leaf[index])

    return jax.tree.map(one, tree, places)


class Votes:
    """What processes that step together agree on between steps: the largest of what they want.

    A vote rides along with the step that was just dispatched, and is counted after the next one: no
    device ever waits for it, and every process learns the same at the same step. A process that is
    alone has its way at once.
    """

    def __init__(self, mesh: Mesh):
        self.alone = jax.process_count() == 1
        if not self.alone:
            spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            whole = NamedSharding(mesh, PartitionSpec())
            count = mesh.size // jax.process_count()
            self._place = lambda vote: jax.make_array_from_process_local_data(
                spread, np.full(count, vote, np.int32)
            )
            self._largest = jax.jit(lambda votes: votes.max(), out_shardings=whole)
            self._cast: jax.Array | None = None

    def cast(self, vote: int) -> int:
        """Casts this step's vote; returns what the one before came to (of the first: 0)."""
        if self.alone:
            return vote
        before, self._cast = self._cast, self._largest(self._place(vote))
        return 0 if before is None else int(before)

    def settle(self, vote: int) -> int:
        """Casts a vote and waits for what it comes to."""
        self.cast(vote)
        return vote if self.alone else int(self._cast)
