import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, DecoderRun, LoraConfig, TrainConfig
from llasa_jax.config.lm import PROJECTIONS
from llasa_jax.errors import UserError
from llasa_jax.lm.lora import join, merged, separate
from llasa_jax.lm.model import Decoder
from llasa_jax.training.language import language_objective
from llasa_jax.training.step import initial_state, train_step

PLAIN = DecoderConfig(
    dim=32, ffn=48, layers=2, heads=4, kv_heads=2, head_dim=8, text_vocab=20, codes=30
)
LORA = dataclasses.replace(PLAIN, lora=LoraConfig(rank=3, alpha=6.0, targets=PROJECTIONS))


def hidden(config, params, tokens):
    graphdef, _ = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return jax.jit(lambda p: nn.merge(graphdef, p).hidden(tokens, places))(params)


def test_merged_weights_are_those_of_a_plain_decoder():
    _, params = nn.split(Decoder(LORA, rngs=nnx.Rngs(0)))
    adapters, base = separate(params)
    assert len(jax.tree.leaves(adapters)) == 2 * len(PROJECTIONS)
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, PLAIN.vocab)
    before = hidden(PLAIN, base, tokens)
    np.testing.assert_allclose(hidden(LORA, params, tokens), before, atol=1e-6)  # they add nothing
    numbers = np.random.default_rng(0)
    trained = jax.tree.map(lambda x: x + 0.3 * numbers.normal(size=x.shape), adapters)
    trained = jax.tree.map(lambda x: x.astype(jnp.float32), trained)
    found = hidden(LORA, join(trained, base), tokens)
    assert float(jnp.abs(found - before).max()) > 0.1
    plain = merged(LORA, join(trained, base))
    assert jax.tree.structure(plain) == jax.tree.structure(base)
    np.testing.assert_allclose(hidden(PLAIN, plain, tokens), found, atol=1e-4)


def test_only_adapters_learn():
    run = DecoderRun(lm=LORA, train=TrainConfig(steps=4, batch=2), row=8, loss_chunk=8)
    base = nn.split(Decoder(PLAIN, rngs=nnx.Rngs(0)))[1]
    objective = language_objective(run, (30,), base)
    state = initial_state(objective, run.train, jax.random.key(0))
    assert set(state["model"]["params"]) == {"adapters"}
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, PLAIN.vocab)
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": jnp.ones((2, 8))}
    batch["positions"] = jnp.broadcast_to(jnp.arange(8), (2, 8))
    batch["segments"] = jnp.ones((2, 8), jnp.int32)
    step = jax.jit(lambda state, n: train_step(objective, run.train, state, {"base": base}, batch,
                                              jax.random.key(2), n))  # fmt: skip
    losses = []
    for _ in range(4):
        state, metrics = step(state, 4)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]


def test_targets_that_are_no_projection():
    with pytest.raises(UserError, match="lm.lora.targets: no 'queries', known: q, k, v"):
        LoraConfig(targets=("queries",))
