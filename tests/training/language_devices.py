"""Run by test_language_mesh.py in processes of its own: twenty steps on several meshes, as JSON.

python language_devices.py FOLDER                   one process with eight devices
python language_devices.py FOLDER ADDRESS NUMBER    one of two processes with four each
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

FOLDER, *TWO = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 4 if TWO else 8)
if TWO:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(TWO[0], 2, int(TWO[1]))

from llasa_jax.config import (  # noqa: E402
    DecoderConfig,
    DecoderRun,
    GuideConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from llasa_jax.data.batches import by_step  # noqa: E402
from llasa_jax.training.language import language_objective  # noqa: E402
from llasa_jax.training.loop import fit  # noqa: E402

ROWS, LENGTH, STEPS = 8, 32, 20
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
        remat="full",
        unseen=7,
    ),
    train=TrainConfig(
        steps=STEPS,
        batch=ROWS,
        optimizer=OptimizerConfig(peak=3e-3, eps=1e-6),
        log_every=1,
        valid_every=STEPS,
        save_every=STEPS,
    ),
    row=LENGTH,
    loss_chunk=8,
    loss_neighbours=2,
    z_loss=1e-3,
    guide=GuideConfig(layers=(1,), head=2),
)
MESHES = {
    "one": MeshConfig(),
    "fsdp": MeshConfig(fsdp=8),
    "tensor": MeshConfig(fsdp=2, tensor=4),
    "sequence": MeshConfig(fsdp=2, sequence=4),
}


def rows(step):
    """This process's rows: packed sequences that count on from a random id, some unseen."""
    numbers = np.random.default_rng(step)
    segments = np.sort(numbers.integers(1, 4, (ROWS, LENGTH + 1)), axis=1)
    places = np.arange(LENGTH + 1)
    first = np.array([[np.argmax(row == number) for number in row] for row in segments])
    ids = (numbers.integers(0, 100, (ROWS, 4))[np.arange(ROWS)[:, None], segments] + places) % 112
    batch = {
        "tokens": ids[:, :-1],
        "targets": ids[:, 1:],
        "positions": (places - first)[:, :-1],
        "segments": segments[:, :-1],
        "weights": (segments[:, 1:] == segments[:, :-1]).astype(np.float32),
    }
    share = np.split(np.arange(ROWS), jax.process_count())[jax.process_index()]
    return {
        name: x[share].astype(np.float32 if name == "weights" else np.int32)
        for name, x in batch.items()
    }


def main():
    results = {}
    for name in ["fsdp"] if TWO else MESHES:
        config = replace(RUN.train, mesh=MESHES[name])
        fitted = fit(
            language_objective(RUN, (4, 4, 4)),
            by_step(rows),
            config,
            Path(FOLDER) / name,
            seed=0,
        )
        results[name] = [row["loss"] for row in fitted.curve]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
