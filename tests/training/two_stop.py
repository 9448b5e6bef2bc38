"""Run by test_survival.py, one of two processes: SIGTERM comes to the second, both stop, as JSON.

python two_stop.py FOLDER ADDRESS NUMBER
"""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

FOLDER, ADDRESS, NUMBER = sys.argv[1:]
os.environ |= {"JAX_COORDINATOR_ADDRESS": ADDRESS, "JAX_NUM_PROCESSES": "2"}
os.environ |= {"JAX_PROCESS_ID": NUMBER}
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")

from llasa_jax.config import MeshConfig, TrainConfig  # noqa: E402
from llasa_jax.data.batches import by_step  # noqa: E402
from llasa_jax.errors import Saved  # noqa: E402
from llasa_jax.parallel.distributed import connect, gather  # noqa: E402
from llasa_jax.training import loop  # noqa: E402
from llasa_jax.training.loop import fit  # noqa: E402
from llasa_jax.training.meter import TIMED  # noqa: E402
from llasa_jax.training.step import Objective  # noqa: E402

STOPS = (5, 7)  # batches of a run at which the signal comes
TOY = Objective(
    "toy",
    lambda key: {"kernel": jax.random.normal(key, (8, 4))},
    lambda params, batch, key: (jnp.mean(jnp.square(batch["x"] @ params["kernel"] - 1)), {}),
    axes={"kernel": ("embed", "mlp")},
)
CONFIG = TrainConfig(
    steps=24, batch=8, mesh=MeshConfig(fsdp=-1), log_every=3, save_every=10, valid_every=10
)


def rows(step):
    x = np.random.default_rng(step).normal(size=(8, 8)).astype(np.float32)
    return {"x": np.split(x, 2)[jax.process_index()]}


def run(folder, stop=None):
    """Parameters and curve; or the step after which it stopped, asked at a batch of process 1."""
    place, placed = loop.place_batch, []

    def acting(*given):
        placed.append(given)
        if len(placed) == stop and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return place(*given)

    loop.place_batch = acting
    try:
        fitted = fit(TOY, by_step(rows), CONFIG, Path(FOLDER) / folder, seed=0)
    except Saved as stopped:
        return int(str(stopped).split("step ")[1].split(",")[0])
    finally:
        loop.place_batch = place
    curve = [{k: v for k, v in row.items() if k not in TIMED} for row in fitted.curve]
    return gather(fitted.params)["kernel"].tolist(), curve


def main():
    connect()
    whole = run("whole")
    stopped = [run("parts", stop) for stop in STOPS]
    print(json.dumps({"stopped": stopped, "same": run("parts") == whole}))


if __name__ == "__main__":
    main()
