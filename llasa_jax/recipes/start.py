"""What every training command does before anything else."""

import jax

from llasa_jax import console
from llasa_jax.config import TrainConfig
from llasa_jax.data.debian import default_cache
from llasa_jax.parallel.distributed import connect

CACHE_BYTES = 4 << 30  # of compiled programs; those not used for longest go first


def start(train: TrainConfig) -> None:
    """Joins the processes of the run, if there are several, and keeps what it compiles.

    Raises:
        UserError: as `connect`.
    """
    connect()
    if jax.process_index() != 0:
        console.silence()
    if train.compile_cache and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(default_cache() / "compiled"))
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
