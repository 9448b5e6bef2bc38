import jax
import numpy as np
import pytest

from llasa_jax.config import SpeakerConfig
from llasa_jax.errors import UserError
from llasa_jax.verifiers.protocol import Candidates
from llasa_jax.verifiers.speaker import init_classifier, margin_loss, speaker_verifier

CONFIG = SpeakerConfig(mel_bins=32, channels=16, layers=2, embedding=8)


@pytest.fixture(scope="module")
def verifier():
    params = jax.jit(lambda key: init_classifier(CONFIG, 3, key))(jax.random.key(0))
    return speaker_verifier(CONFIG, params["encoder"])


def test_a_wave_is_most_like_itself_whatever_its_padding_and_level(verifier):
    rng = np.random.default_rng(0)
    wave = rng.normal(0, 0.1, 9000).astype(np.float32)
    waves = np.full((3, 16000), 0.3, np.float32)
    waves[0, :9000], waves[1, :9000] = wave, 0.5 * wave
    waves[2] = np.sin(np.arange(16000) * 0.1)
    lengths = np.array([9000, 9000, 16000], np.int32)
    candidates = Candidates(np.zeros((3, 50), np.int32), waves, lengths)
    scores = jax.jit(verifier.score)(verifier.params, candidates, verifier.reference("", wave))
    np.testing.assert_allclose(scores[:2], 1.0, atol=1e-3)
    assert scores[2] < 0.99 and np.all(np.abs(scores) <= 1 + 1e-5)


def test_without_a_reference_wave_it_says_so(verifier):
    with pytest.raises(UserError, match="needs a wave"):
        verifier.reference("text", None)


def test_margin_loss_is_softmax_of_cosines_less_the_margin():
    cosines = np.array([[0.5, 0.4, -0.5]], np.float32)
    logits = 20.0 * (cosines - np.array([[0.2, 0, 0]]))
    expected = -(logits[0, 0] - np.log(np.exp(logits[0]).sum()))
    assert float(margin_loss(cosines, np.array([0]))[0]) == pytest.approx(expected, rel=1e-4)
