from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.cli import main
from llasa_jax.codec import losses
from llasa_jax.config import (
    CodecConfig,
    CodecRun,
    DiscriminatorConfig,
    GanConfig,
    OptimizerConfig,
    SemanticConfig,
    SpectralConfig,
    TrainConfig,
    TransformerConfig,
)
from llasa_jax.data.batches import by_step
from llasa_jax.recipes.stages import load_codec
from llasa_jax.training.codec import codec_objective, divided, whole
from llasa_jax.training.loop import fit
from llasa_jax.training.record import read_curve

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


GAN = replace(
    RUN,
    codec=replace(
        RUN.codec,
        semantic=SemanticConfig(
            **dict(dim=8, ffn=16, layers=1, heads=2, mel_bins=4, conv_width=5),
            **dict(left=4, right=2, edge=16),
        ),
    ),
    mel_weight=15.0,
    spread_weight=0.0,
    perceptual_weight=2.0,
    gan=GanConfig(
        discriminators=DiscriminatorConfig(
            periods=(2,), period_channels=(4, 4), windows=(16,), window_channels=(4, 4)
        ),
        adversarial_weight=0.5,
        feature_weight=3.0,
    ),
)


@pytest.fixture(scope="module")
def gan():
    """Of a codec with everything: (loss, metrics), its gradient, and the parameters."""
    objective = codec_objective(GAN)
    template = jax.eval_shape(objective.init, jax.random.key(0))
    judges = jax.eval_shape(objective.rival.init, jax.random.key(0))
    params = start(template | objective.frozen | {"discriminators": judges})
    lift = lambda path, x: x + (path[-1].key == "gain")  # noqa: E731
    params = jax.tree_util.tree_map_with_path(lift, params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "MEL_RESOLUTIONS", ((64, 8),))
        parts = lambda p, b: objective.loss(p, b, jax.random.key(0))  # noqa: E731
        each = jax.jit(jax.value_and_grad(parts, has_aux=True))
        return *each(params, waves(0)), params


def test_every_loss_counts_with_its_weight(gan):
    (total, found), _, _ = gan
    weights = {"mel": 15, "semantic": 5, "perceptual": 2, "judged": 0.5, "features": 3}
    weights["discriminators"] = 1
    assert set(found) == set(weights) and all(value > 0 for value in found.values())
    expected = sum(weights[name] * value for name, value in found.items())
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_every_trained_parameter_has_a_gradient(gan):
    _, gradient, _ = gan
    trained = {name: value for name, value in gradient.items() if name != "semantic_model"}
    silent = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(trained)
        if not np.any(leaf)
    ]
    assert not silent


def test_discriminators_learn_to_tell_and_nothing_else(gan):
    """Their gradient is that of telling alone: neither judged nor features reach them."""
    _, gradient, params = gan
    alone = replace(GAN, gan=replace(GAN.gan, adversarial_weight=0.0, feature_weight=0.0))
    objective = codec_objective(alone)

    def loss(judges):
        given = params | {"discriminators": judges}
        return objective.loss(given, waves(0), jax.random.key(0))[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "MEL_RESOLUTIONS", ((64, 8),))
        expected = jax.jit(jax.grad(loss))(params["discriminators"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        gradient["discriminators"],
        expected,
    )


def test_the_frozen_model_is_no_part_of_what_is_trained():
    objective = codec_objective(GAN)
    trained = jax.eval_shape(objective.init, jax.random.key(0))
    assert set(trained["codec"]["semantic"]) == {"adapter"}
    together = whole(trained | objective.frozen | {"discriminators": {}})
    assert set(together["codec"]["semantic"]) == {"adapter", "model"}
    back, frozen = divided(together)
    assert jax.tree.structure(back) == jax.tree.structure(trained)
    assert jax.tree.structure(frozen) == jax.tree.structure(objective.frozen)


def test_a_codec_of_another_rate_is_compared_at_that_rate():
    run = replace(RUN, codec=replace(RUN.codec, output_rate=2400))
    objective = codec_objective(run)
    params = jax.eval_shape(objective.init, jax.random.key(0))
    batch = {"wave": jnp.zeros((2, 512)), "target": jnp.zeros((2, 768))}
    total, _ = jax.eval_shape(objective.loss, params, batch, jax.random.key(0))
    assert total.shape == ()


SMALL_RUN = (
    "train.steps=4",
    "train.valid_every=2",
    "train.save_every=4",
    "train.log_every=1",
    "train.batch=2",
    "crop_seconds=0.32",
    "codec.decoder={'dim': 32, 'ffn': 32, 'layers': 1, 'heads': 2}",
    "gan.discriminators={'periods': [2], 'period_channels': [4], 'windows': [126], "
    "'window_channels': [4]}",
    "codec.spectral.transformer={'dim': 32, 'ffn': 32, 'layers': 1, 'heads': 2}",
)


@pytest.mark.timeout(300)
def test_the_command_trains_in_two_stages(speech_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "MEL_RESOLUTIONS", ((64, 8),))
    store, out = str(tmp_path / "corpus"), tmp_path / "run"
    assert main(["data", "prepare", str(speech_corpus), "--out", store]) == 0
    train = ["codec", "train", "codec_gan_small", "--store", store, "--out", str(out)]
    assert main([*train, *(f"--set={one}" for one in SMALL_RUN)]) == 0
    curve = read_curve(out / "codec" / "curve.csv")
    assert ["judged" in row for row in curve] == [False, False, True, True]
    assert ["valid_stoi" in row for row in curve] == [False, True, False, True]
    for row in (curve[1], curve[3]):
        assert 0 < row["valid_codebook_share"] <= 1 and 0 < row["valid_codebook_bits"] <= 14
        assert row["valid_mel"] > 0
    names = sorted(path.name for path in (out / "codec" / "samples").iterdir())
    assert "2_0.wav" in names and "4_0.wav" in names
    assert load_codec(out / "model").encode([np.zeros(640, np.float32)])[0].shape == (2,)


def test_a_semantic_branch_needs_a_model(tmp_path, capsys, speech_corpus):
    store = str(tmp_path / "corpus")
    assert main(["data", "prepare", str(speech_corpus), "--out", store]) == 0
    train = ["codec", "train", "xcodec2", "--store", store, "--out", str(tmp_path / "run")]
    assert main([*train, "--set=train.mesh.fsdp=1"]) == 2
    assert "set semantic_model to a model folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
