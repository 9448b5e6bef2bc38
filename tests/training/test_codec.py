from dataclasses import replace

import jax
import numpy as np
import pytest

from llasa_jax.codec import losses
from llasa_jax.config import (
    CodecConfig,
    CodecRun,
    OptimizerConfig,
    SpectralConfig,
    TrainConfig,
    TransformerConfig,
)
from llasa_jax.data.batches import by_step
from llasa_jax.training.codec import codec_objective
from llasa_jax.training.loop import fit

SMALL = TransformerConfig(dim=16, ffn=32, layers=1, heads=2)
RUN = CodecRun(
    codec=CodecConfig(
        sample_rate=1600,
        output_rate=1600,
        hop=32,
        levels=(4, 4, 4),
        spectral=SpectralConfig(mel_bins=8, transformer=SMALL),
        decoder=SMALL,
        norm_groups=4,
        scan_layers=False,
    ),
    train=TrainConfig(
        steps=40, batch=4, optimizer=OptimizerConfig(peak=0.01), log_every=5, save_every=40
    ),
    crop_seconds=0.32,
)


def waves(step):
    """Four crops of 16 hops, each a tone; the second half of the last is digital silence."""
    rng = np.random.default_rng(step)
    turns = rng.uniform(0.03, 0.3, (4, 1))
    wave = 0.3 * np.sin(2 * np.pi * (turns * np.arange(512) + rng.uniform(size=(4, 1))))
    wave[3, 256:] = 0
    return {"wave": wave.astype(np.float32)}


def start(template):
    """Random kernels of variance 1 / fan-in; the codec's own start takes long to compile."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        kind = path[-1].key
        if kind != "kernel":
            return np.full(leaf.shape, kind == "scale", np.float32)
        fan_in = np.prod(leaf.shape["layers" in [entry.key for entry in path] : -1])
        return (rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, template)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Parameters before a short run, and the run."""
    objective = codec_objective(RUN)
    params = start(jax.eval_shape(objective.init, jax.random.key(0)))
    objective = replace(objective, init=lambda key: params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "MEL_RESOLUTIONS", ((64, 8), (256, 16)))  # two compile faster
        folder = tmp_path_factory.mktemp("codec")
        return params, fit(objective, by_step(waves), RUN.train, folder, seed=0)


def test_a_codec_learns(trained):
    _, fitted = trained
    first, last = fitted.curve[0], fitted.curve[-1]
    assert last["mel"] < 0.8 * first["mel"]
    assert last["spread"] < first["spread"]
    assert not sum(row["skipped"] for row in fitted.curve)
    for row in fitted.curve:
        np.testing.assert_allclose(row["loss"], row["mel"] + row["spread"], rtol=1e-5)


def test_every_parameter_learns(trained):
    before, fitted = trained
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, fitted.params)
    still = [path for path, hit in jax.tree_util.tree_leaves_with_path(moved) if not hit]
    assert not still
