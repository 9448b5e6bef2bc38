"""Run by test_mesh.py in processes of its own: a few steps on several meshes, as JSON.

    python eight_devices.py FOLDER WHAT                   one process with eight devices
    python eight_devices.py FOLDER WHAT ADDRESS NUMBER    one of two processes with four each

WHAT is "toy", a model of two matrices with a rival and a frozen part, or "codec", a small GAN.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

FOLDER, WHAT, *TWO = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 4 if TWO else 8)
if TWO:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(TWO[0], 2, int(TWO[1]))

from flax import nnx  # noqa: E402

from llasa_jax import nn  # noqa: E402
from llasa_jax.codec import losses  # noqa: E402
from llasa_jax.codec.model import Codec  # noqa: E402
from llasa_jax.config import (  # noqa: E402
    CodecConfig,
    CodecRun,
    DiscriminatorConfig,
    GanConfig,
    MeshConfig,
    OptimizerConfig,
    SemanticConfig,
    SpectralConfig,
    TrainConfig,
    TransformerConfig,
)
from llasa_jax.data.batches import by_step  # noqa: E402
from llasa_jax.parallel.distributed import gather  # noqa: E402
from llasa_jax.training.codec import codec_objective  # noqa: E402
from llasa_jax.training.loop import fit  # noqa: E402
from llasa_jax.training.step import Objective, Rival  # noqa: E402

SMALL = TransformerConfig(dim=16, ffn=32, layers=1, heads=2)
JUDGES = DiscriminatorConfig(
    periods=(2,), period_channels=(8, 8), windows=(16,), window_channels=(8, 8)
)
RATE = OptimizerConfig(peak=1e-3, warmup=0.5, beta1=0.8, beta2=0.9)
RUN = CodecRun(
    codec=CodecConfig(
        sample_rate=1600,
        output_rate=1600,
        hop=32,
        levels=(4, 4, 4),
        spectral=SpectralConfig(mel_bins=8, transformer=SMALL),
        semantic=SemanticConfig(
            **dict(dim=16, ffn=16, layers=1, heads=2, mel_bins=4, conv_width=5),
            **dict(left=4, right=2, edge=16),
        ),
        decoder=SMALL,
        norm_groups=4,
    ),
    train=TrainConfig(steps=4, batch=16, optimizer=RATE, log_every=1, save_every=2, ema=0.5),
    crop_seconds=0.16,
    gan=GanConfig(discriminators=JUDGES, optimizer=replace(RATE, kind="adamw")),
)
MESHES = {
    "one": MeshConfig(),
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(fsdp=-1),
    "mixed": MeshConfig(data=4, fsdp=2),
}


def codec():
    losses.MEL_RESOLUTIONS = ((32, 5), (64, 10))  # two compile faster
    _, params = nn.split(Codec(RUN.codec, rngs=nnx.Rngs(1)))
    return codec_objective(RUN, params["semantic"]["model"])


def toy():
    """A wave is to come back through two matrices, its rival learns to tell."""
    matrix = lambda key: {"kernel": 0.1 * jax.random.normal(key, (16, 256))}  # noqa: E731
    axes = {"kernel": ("embed", "mlp")}

    def init(key):
        return {"down": matrix(jax.random.fold_in(key, 0)), "up": matrix(key)}

    def loss(params, batch, key):
        known = batch["wave"] @ params["known"]["kernel"].T
        code = jnp.tanh(batch["wave"] @ params["down"]["kernel"].T + known)
        found = code @ params["up"]["kernel"]
        judge = lambda p, x: jnp.mean((x @ p["kernel"].T).sum(-1) ** 2)  # noqa: E731
        stop = jax.lax.stop_gradient
        ours = judge(stop(params["judge"]), found)
        theirs = judge(params["judge"], batch["wave"]) - judge(params["judge"], stop(found))
        error = jnp.mean(jnp.square(found - batch["wave"]))
        return error + ours + theirs, {"error": error, "theirs": theirs}

    rival = Rival("judge", matrix, axes, RATE)
    known = jax.device_get(matrix(jax.random.key(7)))
    axes = dict.fromkeys(("down", "up", "known"), axes)
    return Objective("toy", init, loss, axes, frozen={"known": known}, rival=rival)


def rows(step):
    """This process's rows of a batch of noise."""
    wave = np.random.default_rng(step).normal(size=(16, 256)).astype(np.float32)
    return {"wave": np.split(0.1 * wave, jax.process_count())[jax.process_index()]}


def main():
    objective = {"toy": toy, "codec": codec}[WHAT]()
    results = {}
    for name in ["mixed"] if TWO else MESHES:
        config = replace(RUN.train, mesh=MESHES[name])
        folder = Path(FOLDER) / name
        fitted = fit(objective, by_step(rows), config, folder, seed=0)
        # From its last state, on another mesh where there is one.
        config = config if TWO else replace(config, mesh=MESHES["fsdp"])
        again = fit(objective, by_step(None), config, folder, seed=0)
        leaf = fitted.params["up" if WHAT == "toy" else "codec"]
        kernel = leaf["kernel"] if WHAT == "toy" else leaf["decoder"]["embed"]["kernel"]
        left, right = gather(fitted.params), gather(again.params)
        results[name] = {
            "curve": fitted.curve,
            "norm": float(optax.tree.norm(left)),
            "restored": jax.tree.all(jax.tree.map(np.array_equal, left, right)),
            "shard": kernel.addressable_shards[0].data.shape,
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
