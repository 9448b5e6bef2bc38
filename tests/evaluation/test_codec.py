from types import SimpleNamespace

import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.evaluation.codec import mean_stoi, resynthesise, word_error_ratio
from llasa_jax.metrics.waves import stoi

RATE = 10_000


def speech(seed, seconds=1.5):
    """Noise whose loudness goes up and down like syllables."""
    rng = np.random.default_rng(seed)
    size = int(seconds * RATE)
    return (rng.normal(size=size) * (1.1 + np.sin(np.arange(size) / 400))).astype(np.float32)


def test_resynthesis_goes_through_the_codes():
    codec = SimpleNamespace(
        encode=lambda waves: [np.arange(len(wave) // 320) for wave in waves],
        decode=lambda codes: [np.full(len(c) * 320, 0.5) for c in codes],
    )
    assert [len(w) for w in resynthesise(codec, [np.zeros(700), np.zeros(320)])] == [640, 320]


def test_stoi_is_the_mean_over_what_can_be_measured():
    waves = [speech(0), speech(1), speech(2, 0.1)]
    rebuilt = [(wave + speech(9, len(wave) / RATE))[: len(wave) // 320 * 320] for wave in waves]
    found = mean_stoi(waves, rebuilt, RATE)
    values = [stoi(a[: len(b)], b, RATE) for a, b in zip(waves[:2], rebuilt[:2], strict=True)]
    assert stoi(waves[2], rebuilt[2], RATE) is None
    assert found.n == 2 and found.value == pytest.approx(np.mean(values))
    assert found.low <= found.value <= found.high < 1
    with pytest.raises(UserError, match="none of 1 utterances has 0.4 s of speech"):
        mean_stoi(waves[2:], rebuilt[2:], RATE)


def test_word_error_ratio_is_that_of_the_sums():
    texts = ["one two three four", "five six"]
    heard = {0: "one two three more", 1: "five six", 2: "one two", 3: "five sick"}
    found = word_error_ratio(
        texts,
        [np.int32(0), np.int32(1)],
        [np.int32(2), np.int32(3)],
        lambda w: [heard[int(i)] for i in w],
    )
    assert found["wer_original"] == pytest.approx(1 / 6)
    assert found["wer_resynthesis"] == pytest.approx(3 / 6)
    assert found["wer_ratio"] == pytest.approx(3) and found["wer_utterances"] == 2


def test_a_faultless_original_has_no_ratio():
    found = word_error_ratio(["one two"], [0], [1], lambda w: ["one two", "one"])
    assert (found["wer_original"], found["wer_resynthesis"]) == (0, 0.5)
    assert found["wer_ratio"] is None and found["wer_interval_ratio"] == [None, None]
