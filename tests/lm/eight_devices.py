"""Run in a process of its own: the loss or the attention on meshes of eight devices, as JSON.

    python eight_devices.py loss|attention

Numbers are the greatest errors of values and gradients against one device, relative to the
greatest value.
"""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

jax.config.update("jax_num_cpu_devices", 8)

from llasa_jax.config import AttentionBlocks  # noqa: E402
from llasa_jax.lm.attention import (  # noqa: E402
    UNSEEN,
    attention_on_mesh,
    cudnn_attention,
    reference_attention,
    splash_attention,
    splash_kernel,
)
from llasa_jax.lm.loss import chunked_cross_entropy, cross_entropy  # noqa: E402
from llasa_jax.lm.model import head_logits  # noqa: E402
from llasa_jax.parallel.mesh import Rules, make_mesh, on_mesh, sharding  # noqa: E402

B, S, D, V, PADDED = 8, 12, 16, 50, 64
MESHES = {
    "data": dict(data=8, fsdp=1),
    "fsdp": dict(fsdp=8),
    "neighbours": dict(fsdp=8, neighbours=4),
    "all neighbours": dict(fsdp=8, neighbours=8),
    "tensor": dict(fsdp=2, tensor=4),
    "sequence": dict(fsdp=2, sequence=4),
    "mixed": dict(data=2, fsdp=2, tensor=2, neighbours=2),
}


def loss() -> dict:
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (B, S, D))
    table = jax.random.normal(keys[1], (PADDED, D))
    targets = jax.random.randint(keys[2], (B, S), 0, V)
    weights = jax.random.bernoulli(keys[3], 0.6, (B, S)).astype(jnp.float32)

    def plain(hidden, table):
        logits = head_logits(hidden, table, V)
        loss = cross_entropy(logits, targets, weights, z_loss=0.01)
        return loss.mean, loss

    expected = jax.value_and_grad(plain, (0, 1), has_aux=True)(hidden, table)
    results = {}
    for name, sizes in MESHES.items():
        sizes = dict(sizes)
        neighbours = sizes.pop("neighbours", 1)
        mesh = make_mesh(**sizes)

        def chunked(hidden, table, targets, weights, mesh=mesh, neighbours=neighbours):
            how = dict(vocab=V, chunk=2, z_loss=0.01, neighbours=neighbours)
            with on_mesh(mesh):
                loss = chunked_cross_entropy(hidden, table, targets, weights, **how)
            return loss.mean, loss

        def put(x, *axes, mesh=mesh):
            return jax.device_put(x, sharding(mesh, Rules(), axes, x.shape))

        inputs = [
            put(hidden, "batch", "length", None),
            put(table, "vocab", "embed"),
            *(put(x, "batch", "length") for x in (targets, weights)),
        ]
        found = jax.jit(jax.value_and_grad(chunked, (0, 1), has_aux=True))(*inputs)
        alone = jax.jit(chunked)(*inputs)[1]
        errors = jax.tree.map(error, (expected, expected[0][1]), (found, alone))
        results[name] = max(jax.tree.leaves(errors))
    return results


def attention() -> dict:
    """All implementations that a CPU can run, on rows of which devices have a quarter or half."""
    batch, length, heads, kv_heads, size = 2, 256, 4, 2, 16
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (batch, length, heads, size))
    k, v = (jax.random.normal(key, (batch, length, kv_heads, size)) for key in keys[1:])
    numbers = np.random.default_rng(0)
    segments = np.sort(numbers.integers(0, 3, (batch, length)), axis=1)
    seen = numbers.random((batch, length)) < 0.9
    seen |= np.diff(segments, axis=1, prepend=-1) != 0  # each query sees something
    key_segments = np.where(seen, segments, UNSEEN)

    def slopes(attend, *inputs):
        value = lambda q, k, v: jnp.sum(attend(q, k, v, *inputs[3:]) ** 2)  # noqa: E731
        return attend(*inputs), jax.grad(value, (0, 1, 2))(*inputs[:3])

    inputs = (q, k, v, segments, key_segments)
    expected = jax.jit(partial(slopes, reference_attention))(*inputs)
    blocks = AttentionBlocks(128, 128, 128, 128)
    kernel = lambda parts, heads: splash_kernel(  # noqa: E731
        heads, length, blocks, parts=parts, interpret=True
    )
    results = {}
    found = jax.jit(partial(slopes, partial(splash_attention, kernel=kernel(1, heads))))(*inputs)
    results["splash on one device"] = jax.tree.map(error, expected, found)
    by_xla = partial(cudnn_attention, implementation="xla")
    found = jax.jit(partial(slopes, by_xla))(*inputs)
    results["cudnn on one device"] = jax.tree.map(error, expected, found)
    mixed, long = dict(fsdp=2, tensor=2, sequence=2), dict(fsdp=2, sequence=4)
    for name, sizes, attend, given in (
        ("reference", long, reference_attention, None),
        ("reference", mixed, reference_attention, None),
        ("cudnn", mixed, by_xla, None),
        ("splash", mixed, splash_attention, kernel(2, heads // 2)),
    ):
        mesh = make_mesh(**sizes)

        def on_devices(*inputs, mesh=mesh, attend=attend, given=given):
            with on_mesh(mesh):
                return attention_on_mesh(attend, *inputs, given)

        whole = NamedSharding(mesh, PartitionSpec())
        found = jax.jit(partial(slopes, on_devices))(*jax.device_put(inputs, whole))
        results[f"{name} {sizes}"] = jax.tree.map(error, expected, found)
    return {name: max(jax.tree.leaves(errors)) for name, errors in results.items()}


def error(a: jax.Array, b: jax.Array) -> float:
    return float(np.abs(a - b).max() / np.abs(a).max())


if __name__ == "__main__":
    print(json.dumps({"loss": loss, "attention": attention}[sys.argv[1]]()))
