"""`--init` of codecs and recognisers, through the command line (language models: test_train.py)."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from llasa_jax import cli, nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, CodecRun, RecogniserConfig, SemanticConfig, load_config
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten, load_part, save_part
from llasa_jax.recipes.stages import load_codec
from llasa_jax.recipes.warm import starting_recogniser
from llasa_jax.verifiers.recogniser import Recogniser, recogniser_definition

EAR = RecogniserConfig(mel_bins=8, dim=16, layers=1, width=3, alphabet="abé")
RUN = """
from dataclasses import replace
from llasa_jax.config import *

SMALL = TransformerConfig(dim=8, ffn=8, layers=1, heads=2)
EAR = RecogniserConfig(mel_bins=8, dim=16, layers=1, width=3, alphabet="ab\u00e9")
CODEC = CodecConfig(
    hop=640,
    levels=(4, 3, 5),
    spectral=SpectralConfig(8, SMALL, frames=4),
    semantic=SemanticConfig(kind="recogniser", dim=16, recogniser=EAR),
    decoder=SMALL,
    istft_frames=4,
    norm_groups=4,
    scan_layers=False,
)
TRAIN = TrainConfig(
    steps=1, batch=2, optimizer=OptimizerConfig(peak=1e-9), valid_every=9, compile_cache=False
)


def get_config():
    return CodecRun(CODEC, TRAIN, crop_seconds=0.32, recorded_share=1.0, semantic_weight=1.0)
"""


def filled(config, module, seed):
    rng = np.random.default_rng(seed)
    _, template = nn.abstract(lambda rngs: module(config, rngs=rngs))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), template)


@pytest.fixture
def place(tmp_path):
    """A codec run's configuration, and a model with a codec of its shapes."""
    (tmp_path / "tiny.py").write_text(RUN, encoding="utf-8")
    codec = load_config(str(tmp_path / "tiny.py"), CodecRun).codec
    save_part(tmp_path / "given" / "model", "codec", codec, filled(codec, Codec, 0))
    return tmp_path


def train(place, tones, *more):
    words = ["codec", "train", place / "tiny.py", "--store", tones, "--out", place / "out", *more]
    return cli.main([str(word) for word in words])


def parts(folder):
    build = lambda c, r: Codec(c, rngs=r)  # noqa: E731
    return flatten(load_part(folder, "codec", CodecConfig, build)[1])


def test_a_codec_begins_with_another_and_its_frozen_model(place, tones):
    assert train(place, tones, "--init", place / "given") == 0
    given, made = parts(place / "given" / "model"), parts(place / "out" / "model")
    assert given.keys() == made.keys()
    for name in given:  # a step of next to nothing
        np.testing.assert_allclose(made[name], given[name], atol=1e-6, err_msg=name)
    heard = [name for name in given if name.startswith("semantic.model")]
    assert heard and all(np.array_equal(made[name], given[name]) for name in heard)
    assert load_codec(place / "out" / "model").config.semantic == SemanticConfig(
        kind="recogniser", dim=16, recogniser=EAR
    )


def test_a_codec_of_other_shapes_or_none_is_one_line(place, tones, capsys):
    assert train(place, tones, "--init", place / "given", "--set", "codec.levels=(4,4,4)") == 2
    assert "codec.levels is (4, 3, 5) there, (4, 4, 4) in" in capsys.readouterr().err
    assert train(place, tones, "--init", place) == 2
    assert "no model part" in capsys.readouterr().err
    assert train(place, tones, "--init", place / "given", "--set", "semantic_model=x") == 2
    assert "--init brings its own" in capsys.readouterr().err
    assert train(place, tones) == 2  # random numbers need the frozen model from elsewhere
    assert "set semantic_model" in capsys.readouterr().err


def test_a_known_letter_keeps_its_output_and_a_new_one_has_none(tmp_path):
    save_part(tmp_path, "recogniser", EAR, filled(EAR, Recogniser, 1))
    wave = np.random.default_rng(2).normal(0, 0.1, (1, 16000)).astype("f4")
    length = np.array([16000], np.int32)

    def logits(config):
        params = starting_recogniser(tmp_path, config)
        return np.asarray(nn.merge(recogniser_definition(config), params)(wave, length)[0])

    save_part(tmp_path / "model", "recogniser", EAR, filled(EAR, Recogniser, 9))  # not this one
    same, other = logits(EAR), logits(replace(EAR, alphabet="bxéa"))
    assert np.abs(same).max() > 0.1
    np.testing.assert_allclose(other[..., [0, 4, 1, 3]], same, atol=1e-5)
    own = nn.merge(recogniser_definition(EAR), filled(EAR, Recogniser, 1))(wave, length)[0]
    np.testing.assert_allclose(same, own, atol=1e-5)
    assert not other[..., 2].any()
    with pytest.raises(UserError, match=r"recogniser.dim is 16 there, 32 in"):
        starting_recogniser(tmp_path, replace(EAR, dim=32))
