import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, DecoderRun, RopeScaling, load_config
from llasa_jax.lm.model import MASKED, Decoder, rope_frequencies

CONFIG = DecoderConfig(
    dim=32, ffn=48, layers=3, heads=4, kv_heads=2, head_dim=8, text_vocab=20, codes=30
)


@functools.cache
def split(**changes):
    config = dataclasses.replace(CONFIG, **changes)
    return nn.split(Decoder(config, rngs=nnx.Rngs(0)))


def decoder(**changes):
    return nn.merge(*split(**changes))


@functools.partial(jax.jit, static_argnums=0)
def hidden(graphdef, params, *inputs):
    return nn.merge(graphdef, params).hidden(*inputs)


def tokens(rows=2, length=12):
    return jax.random.randint(jax.random.key(1), (rows, length), 0, CONFIG.vocab)


def positions(ids):
    return jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)


def test_later_tokens_change_nothing_before_them():
    model, ids = split(), tokens()
    changed = ids.at[:, 7].add(1)
    one, two = (hidden(*model, x, positions(x)) for x in (ids, changed))
    np.testing.assert_array_equal(one[:, :7], two[:, :7])
    assert float(jnp.abs(one[:, 7:] - two[:, 7:]).max()) > 1e-3


def test_packed_sequences_do_not_see_each_other():
    model, ids = split(), tokens(1, 12)
    alone = [hidden(*model, part, positions(part)) for part in (ids[:, :5], ids[:, 5:])]
    segments = jnp.array([[1] * 5 + [2] * 7])
    place = jnp.array([[*range(5), *range(7)]])
    packed = hidden(*model, ids, place, segments)
    np.testing.assert_allclose(packed, jnp.concatenate(alone, 1), atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_a_slice_are_a_slice_of_the_logits(tied):
    model, ids = decoder(tied_embeddings=tied), tokens()
    states = hidden(*split(tied_embeddings=tied), ids, positions(ids))
    logits = model.logits(states)
    assert logits.shape[-1] == CONFIG.padded_vocab == 256 and logits.dtype == jnp.float32
    np.testing.assert_allclose(model.logits(states, 25, 58), logits[..., 25:58], atol=1e-6)
    assert (logits[..., CONFIG.vocab :] == MASKED).all()
    assert float(logits[..., : CONFIG.vocab].min()) > -1e3


@pytest.mark.parametrize(
    "changes",
    [{"scan_layers": False}, {"remat": "full"}, {"remat": "dots"}, {"remat": "attention"}],
)
def test_scan_and_remat_change_neither_values_nor_gradients(changes):
    ids = tokens()

    @functools.partial(jax.jit, static_argnums=1)
    def value(params, graphdef):
        return jnp.sum(nn.merge(graphdef, params).hidden(ids, positions(ids)) ** 3)

    (plain, params), (other, _) = split(), split(**changes)
    expected = jax.value_and_grad(value)(params, plain)
    found = jax.value_and_grad(value)(params, other)
    equal = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(equal, expected, found)


def test_bfloat16_computes_near_float32():
    ids = tokens()
    dtypes = ("float32", "bfloat16")
    exact, rounded = (hidden(*split(compute_dtype=d), ids, positions(ids)) for d in dtypes)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.15)


def test_every_parameter_names_its_axes():
    graphdef, params = nn.abstract(lambda rngs: Decoder(CONFIG, rngs=rngs))
    axes = nn.logical_axes(graphdef, params)
    assert axes["embedding"] == ("vocab", "embed")
    layer = axes["layers"]["layers"]
    assert layer["attention"]["q"] == ("layers", "embed", "heads", "head_dim")
    assert layer["ffn"]["down"]["kernel"] == ("layers", "mlp", "embed")


@pytest.mark.parametrize(
    "name, millions", [("llasa_1b", 1370.0), ("llasa_3b", 3414.1), ("llasa_8b", 8567.2)]
)
def test_parameters_of_the_released_sizes(name, millions):
    run = load_config(name, DecoderRun)
    config = run.lm
    assert (config.vocab, config.padded_vocab) == (193_800, 194_048)
    assert (run.train.steps, run.train.batch * run.row) == (73_807, 2**21)
    _, params = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
    padding = (config.padded_vocab - config.vocab) * config.dim
    padding *= 1 if config.tied_embeddings else 2
    assert (nn.parameter_count(params) - padding) / 1e6 == pytest.approx(millions, abs=0.1)


def test_rope_scaling_keeps_fast_and_stretches_slow_turns():
    plain = rope_frequencies(DecoderConfig())
    scaled = rope_frequencies(DecoderConfig(rope_scaling=RopeScaling(factor=32.0)))
    assert scaled[0] == plain[0] == 1.0
    assert scaled[-1] == pytest.approx(plain[-1] / 32)
    assert (scaled <= plain).all() and (scaled >= plain / 32.001).all()
