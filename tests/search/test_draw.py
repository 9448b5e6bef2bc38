import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.config import SamplerConfig
from llasa_jax.errors import UserError
from llasa_jax.search.draw import draw, draw_aware, penalised

jitted_draw = jax.jit(draw, static_argnums=2)


@pytest.mark.parametrize(
    "top_k, top_p, temperature", [(0, 0.6, 0.7), (4, 1.0, 1.5), (3, 0.5, 1.0), (1, 0.1, 1.0)]
)
def test_draw_keeps_to_top_k_and_top_p(top_k, top_p, temperature):
    config = SamplerConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = 3 * jax.random.normal(jax.random.key(1), (20, 10, 9))
    keys = jax.random.split(jax.random.key(2), (20, 10))
    found = jitted_draw(logits, keys, config).reshape(-1)
    logits = logits.reshape(-1, 9)
    for scores, choice in zip(np.asarray(logits, np.float64) / temperature, found, strict=True):
        order = np.argsort(-scores)[: top_k or 9]
        shares = np.exp(scores[order] - scores[order[0]])
        shares /= shares.sum()
        before = np.cumsum(shares) - shares
        assert int(choice) in order[before < top_p + 1e-5]


def test_draw_follows_the_distribution():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    keys = jax.random.split(jax.random.key(0), (100, 200))
    for top_k, shares in ((0, [0.5, 0.3, 0.15, 0.05]), (2, [0.625, 0.375, 0, 0])):
        config = SamplerConfig(temperature=1.0, top_k=top_k)
        drawn = jitted_draw(jnp.broadcast_to(logits, (100, 200, 4)), keys, config)
        counts = np.bincount(np.asarray(drawn).reshape(-1), minlength=4) / drawn.size
        np.testing.assert_allclose(counts, shares, atol=0.015)


def test_min_p_cuts_what_is_far_below_the_most_probable():
    config = SamplerConfig(temperature=1.0, top_k=0, min_p=0.25)
    logits = jnp.log(jnp.array([0.1, 0.5, 0.3, 0.1]))
    keys = jax.random.split(jax.random.key(0), (20, 100))
    drawn = jitted_draw(jnp.broadcast_to(logits, (20, 100, 4)), keys, config)
    counts = np.bincount(np.asarray(drawn).reshape(-1), minlength=4) / drawn.size
    np.testing.assert_allclose(counts, [0, 0.625, 0.375, 0], atol=0.03)


def test_a_penalty_makes_what_was_said_less_probable():
    logits = jnp.array([[[2.0, -2.0, 2.0, -2.0]]])
    said = jnp.array([[[True, True, False, False]]])
    found = penalised(logits, said, SamplerConfig(repetition_penalty=2.0))
    assert found.tolist() == [[[1.0, -4.0, 2.0, -2.0]]]


def test_what_repeats_too_often_is_drawn_from_all():
    """The nucleus holds one code alone; drawn again, others come out as often as they are."""
    config = SamplerConfig(temperature=1.0, top_k=1, ras_window=5, ras_threshold=0.3)
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.6, 0.3, 0.1])), (40, 100, 3))
    keys = jax.random.split(jax.random.key(0), (40, 100))
    run = jax.jit(draw_aware, static_argnums=3)
    for history, shares in (([0, 1, 0, 0, 1, 2], [0.6, 0.3, 0.1]), ([0, 0, 1, 1, 2, 2], [1, 0, 0])):
        past = jnp.broadcast_to(jnp.array(history), (40, 100, 6))
        drawn = np.asarray(run(logits, keys, past, config)).reshape(-1)
        np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, shares, atol=0.03)


@pytest.mark.parametrize(
    "setting", [{"min_p": 1.0}, {"repetition_penalty": 0.0}, {"ras_window": -1}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        SamplerConfig(**setting)
