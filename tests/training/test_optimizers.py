from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llasa_jax.config import CodecRun, OptimizerConfig, load_config
from llasa_jax.training.optimizers import (
    POLAR,
    hidden_matrices,
    is_matrix,
    learning_rate,
    make_optimizer,
)


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


PARAMS = {
    "embedding": normal(10, 4),
    "stack": {
        "layers": {
            "linear": {"kernel": normal(2, 4, 6), "bias": normal(2, 6)},
            "conv": {"kernel": normal(2, 3, 4, 5)},
            "norm": {"scale": normal(2, 4)},
        }
    },
    "head": {"kernel": normal(4, 5), "bias": normal(5)},
}
GRADS = jax.tree.map(lambda p: np.cos(3 * p), PARAMS)
PLAIN = OptimizerConfig(clip=1e9, weight_decay=0.0)


def update(config, grads=GRADS, params=PARAMS):
    optimizer = make_optimizer(config)
    run = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])
    return jax.device_get(run(grads, params))


@pytest.fixture(scope="module")
def muon():
    return update(replace(PLAIN, kind="muon"))


@pytest.fixture(scope="module")
def adamw():
    return update(PLAIN)


def rates(config, count=201):
    progress = jnp.linspace(0, 1, count)
    return np.asarray(jax.jit(lambda p: learning_rate(config, p))(progress))


def test_cosine_rises_to_the_peak_and_falls_to_its_share():
    found = rates(OptimizerConfig(peak=0.5, final=0.1, warmup=0.1))
    assert found[0] == 0
    np.testing.assert_allclose(found[10], 0.25, rtol=1e-5)
    np.testing.assert_allclose(found[20], 0.5, rtol=1e-5)
    np.testing.assert_allclose(found[110], 0.5 * (1 + 0.1) / 2, rtol=1e-4)  # half-way down
    np.testing.assert_allclose(found[-1], 0.05, rtol=1e-5)
    assert np.all(np.diff(found[:21]) > 0) and np.all(np.diff(found[20:]) < 0)


def test_hold_and_decay_holds():
    found = rates(OptimizerConfig(peak=2.0, final=0.0, warmup=0.05, schedule="wsd", decay=0.25))
    np.testing.assert_allclose(found[5], 1.0, rtol=1e-5)
    np.testing.assert_allclose(found[10:150], 2.0, rtol=1e-6)
    np.testing.assert_allclose(found[175], 1.0, rtol=1e-5)
    np.testing.assert_allclose(found[-1], 0.0, atol=1e-6)


def test_x_codec2s_schedule():
    """1e-5 + 9e-5 (step / 3000)^2, then linearly from 1e-4 to 2e-5 at step 403,000, then 2e-5."""
    config = load_config("xcodec2", CodecRun)
    assert config.gan.optimizer == config.train.optimizer
    steps = np.array([0, 600, 1500, 3000, 103_000, 203_000, 403_000, 403_001, 650_000])
    progress = jnp.asarray(steps / config.train.steps, jnp.float32)
    found = jax.jit(lambda p: learning_rate(config.train.optimizer, p))(progress)
    expected = [1e-5, 1.36e-5, 3.25e-5, 1e-4, 8e-5, 6e-5, 2e-5, 2e-5, 2e-5]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_of_nothing_and_of_all_are_finite(schedule, share):
    found = rates(OptimizerConfig(schedule=schedule, warmup=share, decay=share, final=share))
    assert np.isfinite(found).all() and found.max() <= 1e-3 * (1 + 1e-6)


def test_weight_decay_is_for_matrices(adamw):
    assert is_matrix(PARAMS) == {
        "embedding": True,
        "stack": {
            "layers": {
                "linear": {"kernel": True, "bias": False},
                "conv": {"kernel": True},
                "norm": {"scale": False},
            }
        },
        "head": {"kernel": True, "bias": False},
    }
    decayed = update(replace(PLAIN, weight_decay=0.1))
    for mask, param, a, b in zip(
        *map(jax.tree.leaves, (is_matrix(PARAMS), PARAMS, decayed, adamw)), strict=True
    ):
        np.testing.assert_allclose(a - b, -0.1 * param * mask, atol=1e-6)


def test_muon_takes_the_stacked_kernels_and_adamw_the_rest(muon):
    views = hidden_matrices(PARAMS)
    layers = views["stack"]["layers"]
    # Each layer's matrix goes from all axes but the last to the last.
    assert layers["linear"]["kernel"] == ((1,), (2,))
    assert layers["conv"]["kernel"] == ((1, 2), (3,))
    layers["linear"]["kernel"] = layers["conv"]["kernel"] = None
    assert not jax.tree.leaves(views)
    rule = optax.nadam(1.0, PLAIN.beta1, PLAIN.beta2)
    others = jax.jit(lambda g, p: rule.update(g, rule.init(p), p)[0])(GRADS, PARAMS)
    changed = jax.tree.map(lambda a, b: not np.allclose(a, b, atol=1e-5), muon, others)
    taken = changed["stack"]["layers"]
    assert taken["linear"].pop("kernel") and taken["conv"].pop("kernel")
    assert not any(jax.tree.leaves(changed))


def test_muon_makes_every_direction_of_a_matrix_equal_at_adamws_size(muon):
    layers = muon["stack"]["layers"]
    for matrix in [*layers["linear"]["kernel"], *layers["conv"]["kernel"].reshape(2, 12, 5)]:
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.max() < 3 * values.min()
        assert 0.1 < np.sqrt(np.mean(matrix**2)) < 0.3  # AdamW's is about 0.2 (Liu et al. 2025)
    gradient = GRADS["stack"]["layers"]["linear"]["kernel"]
    assert np.sum(layers["linear"]["kernel"] * gradient) < 0


def test_muons_polynomials_bring_singular_values_near_one():
    values = np.geomspace(0.005, 1, 1000)
    for a, b, c in POLAR:
        values = a * values + b * values**3 + c * values**5
    assert 0.5 < values.min() and values.max() < 1.5


def test_a_rule_goes_down_at_rate_one(adamw):
    # The first step of Adam is the gradient's sign.
    np.testing.assert_allclose(
        adamw["head"]["kernel"], -np.sign(GRADS["head"]["kernel"]), rtol=1e-3
    )


def test_gradients_are_clipped_by_their_norm():
    grads = {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.array([12.0])}
    optimizer = make_optimizer(OptimizerConfig(clip=1.3))
    state = optimizer.init(grads)
    state = optimizer.update(grads, state, grads)[1]
    moments = optax.tree.get(state, "mu")  # of Adam: 0.1 of the clipped gradient
    np.testing.assert_allclose(moments["kernel"], [[0.03, 0.04]], rtol=1e-5)
    np.testing.assert_allclose(moments["bias"], [0.12], rtol=1e-5)


def test_muon_takes_the_heads_of_a_projection_as_one_matrix():
    layers = {"attention": {"q": normal(2, 6, 3, 4), "out": normal(2, 3, 4, 6)}}
    params = {"layers": {"layers": layers}, "attention": {"q": normal(6, 3, 4)}}
    views = hidden_matrices(params)
    assert views["layers"]["layers"]["attention"] == {"q": ((1,), (2, 3)), "out": ((1, 2), (3,))}
    assert views["attention"]["q"] is None
    grads = jax.tree.map(lambda p: np.cos(3 * p), params)
    moved = update(replace(PLAIN, kind="muon"), grads, params)["layers"]["layers"]["attention"]
    for matrix in (*moved["q"].reshape(2, 6, 12), *moved["out"].reshape(2, 12, 6)):
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.max() < 3 * values.min()
