from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llasa_jax import nn
from llasa_jax.codec.conformer import ConvModule, relative_scores
from llasa_jax.codec.semantic import SemanticAdapter, SemanticBranch
from llasa_jax.config import RecogniserConfig, SemanticConfig
from llasa_jax.errors import UserError

RATE, HOP = 1600, 32
BERT = SemanticConfig(
    dim=16, ffn=24, layers=3, heads=2, mel_bins=8, conv_width=5, left=3, right=1, edge=HOP // 2
)
RECOGNISER = SemanticConfig(
    kind="recogniser",
    dim=16,
    recogniser=RecogniserConfig(sample_rate=RATE, mel_bins=8, dim=16, layers=2, width=3),
)
CONFIGS = {"bert": BERT, "no edge": replace(BERT, edge=0), "recogniser": RECOGNISER}


def build(config, **options):
    """(definition, parameters): random, nothing trivial."""
    make = lambda rngs: SemanticBranch(config, RATE, HOP, rngs=rngs, **options)  # noqa: E731
    graphdef, template = nn.abstract(make)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        x = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return x / np.sqrt(np.prod(leaf.shape[-2:]) / leaf.shape[-1])
        return 0.3 * x + (path[-1].key == "scale")

    return graphdef, jax.tree_util.tree_map_with_path(fill, template)


def waves(*times):
    rng = np.random.default_rng(1)
    batch = np.full((len(times), max(times) * HOP), 0.7, np.float32)
    mask = np.float32(np.arange(max(times)) < np.array(times)[:, None])
    for row, time in enumerate(times):
        level = np.repeat(10 ** rng.uniform(-2, -0.5, time), HOP)
        batch[row, : time * HOP] = level * rng.normal(size=time * HOP)
    return batch, mask


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_and_what_lies_in_it_change_nothing(name):
    graphdef, params = build(CONFIGS[name])
    run = jax.jit(lambda w, m: nn.merge(graphdef, params)(w, m))
    times = (15, 6, 1)
    batch, mask = waves(*times)
    found = run(batch, mask)
    assert found.shape == (3, 15, 16) and np.isfinite(found).all()
    assert np.std(found[0], axis=0).min() > 0.05
    for row, time in enumerate(times):
        alone = run(batch[row : row + 1, : time * HOP], mask[row : row + 1, :time])
        lost = name == "no edge"
        np.testing.assert_allclose(
            found[row, : time - lost], alone[0, : time - lost], atol=2e-5 * np.abs(found).max()
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_one_frozen_feature_a_hop_and_zeros_where_none_is_valid(name):
    graphdef, params = build(CONFIGS[name])
    batch, mask = waves(7, 3, 1)

    @jax.jit
    def run(w, m):
        branch = nn.merge(graphdef, params)
        return branch.hidden(w, m), branch.valid(m)

    hidden, valid = run(batch, mask)
    assert hidden.shape == (3, 7, 16)
    lost = int(name == "no edge")
    np.testing.assert_array_equal(valid.sum(1), np.array([7, 3, 1]) - lost)
    np.testing.assert_array_equal(np.any(hidden != 0, -1), valid > 0)


def test_only_the_adapter_has_gradients():
    graphdef, params = build(BERT)
    batch, mask = waves(5)
    loss = lambda p: jnp.sum(jnp.square(nn.merge(graphdef, p)(batch, mask)))  # noqa: E731
    grads = jax.jit(jax.grad(loss))(params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads["model"]))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["adapter"]))


def test_scanned_and_unrolled_layers_agree():
    batch, mask = waves(9, 4)
    found = []
    for scan in (True, False):
        graphdef, params = build(BERT, scan=scan)
        found.append(jax.jit(lambda w, m, g=graphdef, p=params: nn.merge(g, p)(w, m))(batch, mask))
    np.testing.assert_allclose(*found, atol=1e-5 * np.abs(found[0]).max())


def test_bfloat16_features_are_near_those_of_float32():
    batch, mask = waves(12)
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
        graphdef, params = build(BERT, dtype=dtype)
        hidden = jax.jit(lambda w, m, g=graphdef, p=params: nn.merge(g, p).hidden(w, m))
        found.append(hidden(batch, mask))
    assert found[1].dtype == jnp.bfloat16
    error = np.float32(found[1]) - found[0]
    assert 0 < np.linalg.norm(error) < 0.05 * np.linalg.norm(found[0])


@pytest.mark.parametrize("time", [1, 2, 4, 5, 9])
def test_scores_are_with_the_embedding_of_the_clipped_distance(time):
    left, right = 3, 2
    rng = np.random.default_rng(0)
    q, embeddings = rng.normal(size=(2, 3, time, 4)), rng.normal(size=(left + 1 + right, 4))
    found = relative_scores(jnp.asarray(q), jnp.asarray(embeddings), left)
    assert found.shape == (2, 3, time, time)
    for t in range(time):
        for s in range(time):
            embedding = embeddings[np.clip(s - t, -left, right) + left]
            np.testing.assert_allclose(found[..., t, s], q[..., t, :] @ embedding, atol=1e-5)


def test_the_conv_module_looks_back_over_its_width_and_never_ahead():
    graphdef, params = nn.split(ConvModule(BERT, rngs=nnx.Rngs(0)))
    run = jax.jit(lambda x: nn.merge(graphdef, params)(x, jnp.ones((1, 20))))
    x = np.random.default_rng(0).normal(size=(1, 20, 16)).astype(np.float32)
    changed = x.copy()
    changed[0, 8, 3] += 1
    moved = np.any(np.abs(run(x) - run(changed)) > 1e-7, axis=(0, 2))
    np.testing.assert_array_equal(np.flatnonzero(moved), np.arange(8, 8 + BERT.conv_width))


def test_the_adapters_skip_starts_after_the_relu():
    graphdef, params = nn.split(SemanticAdapter(4, rngs=nnx.Rngs(0)))
    params = jax.tree.map(jnp.zeros_like, params)
    same = jnp.zeros((3, 4, 4)).at[1].set(jnp.eye(4))
    for name in ("conv1", "conv4"):
        params[name]["kernel"] = same
    x = np.random.default_rng(0).normal(size=(1, 6, 4)).astype(np.float32)
    found = nn.merge(graphdef, params)(x, jnp.ones((1, 6)))
    np.testing.assert_array_equal(found, np.maximum(x, 0))


def test_a_recognisers_features_are_those_nearest_in_time():
    """An impulse in the middle of a hop is loudest in that hop's feature or its twin's."""
    graphdef, params = build(RECOGNISER)
    wave, mask = np.zeros((1, 12 * HOP), np.float32), np.ones((1, 12), np.float32)

    @jax.jit
    def run(w):
        branch = nn.merge(graphdef, params)
        lengths = jnp.full(1, 12 * HOP)
        return branch.hidden(w, mask), branch.model.features(w, lengths)[0]

    hidden, features = run(wave + np.random.default_rng(0).normal(size=wave.shape))
    for hop in range(12):
        nearest = np.argmin(np.abs(np.arange(features.shape[1]) * 0.04 - (hop + 0.5) * 0.02))
        np.testing.assert_array_equal(hidden[0, hop], features[0, nearest])


def test_with_a_feature_at_both_ends_of_a_hop_it_gets_their_mean():
    _, params = build(RECOGNISER)
    graphdef, _ = nn.abstract(lambda rngs: SemanticBranch(RECOGNISER, RATE, 2 * HOP, rngs=rngs))
    wave, mask = waves(12)

    @jax.jit
    def run(w):
        branch = nn.merge(graphdef, params)
        features, _ = branch.model.features(w, jnp.full(1, 12 * HOP))
        return branch.hidden(w, mask[:, :6]), features

    hidden, features = run(wave)
    assert hidden.shape == (1, 6, 16) and features.shape == (1, 7, 16)
    np.testing.assert_allclose(hidden, (features[:, :-1] + features[:, 1:]) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "rate", "hop", "message"),
    [
        (BERT, 1600, 40, "codec.hop to 32"),
        (RECOGNISER, 1600, 16, "100; set codec.hop"),
        (RECOGNISER, 16000, 320, "recogniser.sample_rate: 1600"),
        (replace(BERT, edge=7), 1600, 32, "edge: 7; set 0 or 16"),
    ],
)
def test_a_model_without_one_feature_a_hop_is_refused(config, rate, hop, message):
    with pytest.raises(UserError, match=message):
        nn.abstract(lambda rngs: SemanticBranch(config, rate, hop, rngs=rngs))
