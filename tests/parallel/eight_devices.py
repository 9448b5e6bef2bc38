"""Run by test_mesh.py in a process of its own: one training step on several meshes, as JSON."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

jax.config.update("jax_num_cpu_devices", 8)

from llasa_jax import nn  # noqa: E402
from llasa_jax.config import DecoderConfig  # noqa: E402
from llasa_jax.lm.loss import cross_entropy  # noqa: E402
from llasa_jax.lm.model import Decoder  # noqa: E402
from llasa_jax.parallel.mesh import Rules, make_mesh, sharding, shardings  # noqa: E402

CONFIG = DecoderConfig(
    dim=32, ffn=64, layers=2, heads=4, kv_heads=2, head_dim=8, text_vocab=64, codes=56
)
MESHES = {
    "one": {"devices": 1},
    "fsdp": {"fsdp": 4, "sequence": 2},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
}


def step(graphdef, params, batch):
    """The loss, and the parameters after a step of plain gradient descent."""

    def loss(params):
        model = nn.merge(graphdef, params)
        hidden = model.hidden(batch["tokens"], batch["positions"], batch["segments"])
        return cross_entropy(model.logits(hidden), batch["targets"], batch["weights"]).mean

    value, gradient = jax.value_and_grad(loss)(params)
    return value, jax.tree.map(lambda p, g: p - g, params, gradient)


def main():
    build = lambda rngs: Decoder(CONFIG, rngs=rngs)  # noqa: E731
    graphdef, shapes = nn.abstract(build)
    params = jax.jit(lambda: nn.split(build(nnx.Rngs(0)))[1])()
    axes = nn.logical_axes(graphdef, shapes)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, CONFIG.vocab, (8, 16)).astype(np.int32)
    batch = {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, 1),
        "weights": np.ones((8, 16), np.float32),
        "positions": np.tile(np.arange(8, dtype=np.int32), (8, 2)),
        "segments": np.repeat(np.array([[1, 2]], np.int32), 8, 1).repeat(8, 0),
    }
    results = {}
    for name, sizes in MESHES.items():
        sizes = dict(sizes)
        devices = jax.devices()[: sizes.pop("devices", 8)]
        mesh = make_mesh(**sizes, devices=devices)
        where = shardings(mesh, Rules(), axes, params)
        rows = sharding(mesh, Rules(), ("batch", "length"), (8, 16))
        placed = jax.device_put(params, where)
        jitted = jax.jit(lambda p, b: step(graphdef, p, b), out_shardings=(None, where))
        losses = []
        for _ in range(3):
            loss, placed = jitted(placed, jax.device_put(batch, rows))
            losses.append(float(loss))
        kernel = placed["layers"]["layers"]["ffn"]["gate"]["kernel"]
        results[name] = {
            "losses": losses,
            "norm": float(jnp.sqrt(sum(jnp.sum(p * p) for p in jax.tree.leaves(placed)))),
            "devices": len(kernel.sharding.device_set),
            "shard": kernel.addressable_shards[0].data.shape,
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
