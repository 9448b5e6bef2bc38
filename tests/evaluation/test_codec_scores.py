import numpy as np
import pytest

from llasa_jax.evaluation import codec_scores
from llasa_jax.evaluation.codec_scores import (
    NO_TEXT,
    Recording,
    describe,
    paired_scores,
    rebuild,
    summary,
    word_scores,
)
from llasa_jax.evaluation.peers import RATE


class Echo:
    """Gives back what it got, `lag` samples later and two frames longer."""

    def __init__(self, lag, late):
        self.lag, self.late = lag, late

    def encode(self, waves):
        return [bytes(25) for _ in waves]

    def decode(self, payloads):
        return [np.pad(wave, (self.lag, 640)) for wave in self.waves]

    def bits_per_second(self, payloads, seconds):
        return 8 * sum(map(len, payloads)) / seconds


def waves():
    rng = np.random.default_rng(0)
    swell = 0.55 + 0.45 * np.sin(np.arange(RATE) / 400)
    return [(0.1 * swell * rng.normal(size=RATE)).astype(np.float32) for _ in range(3)]


def test_what_comes_late_is_moved_back():
    codec = Echo(200, late=True)
    codec.waves = waves()
    found = rebuild(codec, codec.waves)
    for wave, out in zip(codec.waves, found.waves, strict=True):
        np.testing.assert_array_equal(wave, out)
    assert found.about["delay_ms"] == 12.5 and found.about["bits_per_second"] == 200
    assert found.about["encode_rtf"] >= 0 and found.about["decode_rtf"] >= 0


def test_what_is_on_time_stays():
    codec = Echo(200, late=False)
    codec.waves = waves()
    found = rebuild(codec, codec.waves)
    assert found.about["delay_ms"] == 0
    assert len(found.waves[0]) == RATE and not found.waves[0][:200].any()


def test_scores_are_means_over_what_can_be_measured(monkeypatch):
    paired = {"gap": lambda a, b: float(b.mean() - a.mean()) if len(a) > 1 else None}
    monkeypatch.setattr(codec_scores, "PAIRED", paired)
    done = []
    originals = [np.zeros(4), np.zeros(4), np.zeros(1)]
    found = paired_scores(
        originals, [np.ones(4), 3 * np.ones(4), np.ones(1)], lambda: done.append(1)
    )
    assert found["gap"] == 2 and found["gap_utterances"] == 2 and len(done) == 3
    assert found["gap_interval"] == [1, 3]
    assert summary("gap", [None]) == {"gap": None, "gap_interval": None, "gap_utterances": 0}


def test_every_measure_has_its_direction(monkeypatch):
    monkeypatch.setitem(codec_scores.PAIRED, "pesq_wb", lambda a, b: 1.0)
    monkeypatch.setitem(codec_scores.PAIRED, "pesq_nb", lambda a, b: 1.0)
    originals, rng = waves(), np.random.default_rng(1)
    better = [w + 0.01 * rng.normal(size=RATE) for w in originals]
    worse = [w + 0.1 * rng.normal(size=RATE) for w in originals]
    a, b = paired_scores(originals, better), paired_scores(originals, worse)
    assert a["stoi"] > b["stoi"] and a["si_sdr"] > b["si_sdr"]
    assert a["mel_distance"] < b["mel_distance"]


def test_words_are_counted_codec_by_codec():
    heard = {0: "one two three", 1: "four five", 2: "one two", 3: "four five six"}
    sounds = {"original": [0, 1], "ours": [2, 3]}
    found = word_scores(["one two three", "four five"], sounds, lambda x: [heard[i] for i in x])
    assert found["original"]["wer"] == 0 and found["ours"]["wer"] == pytest.approx(2 / 5)
    assert found["ours"]["wer_utterances"] == 2
    none = word_scores([], {"ours": []}, pytest.fail)
    assert none["ours"]["wer"] is None and none["ours"]["wer_reason"] == NO_TEXT


def test_the_data_is_described():
    wave = np.zeros(RATE * 36, np.float32)
    one = Recording("a/1", wave, speaker="x", language="en", kind="recorded", corpus="a")
    found = describe([one, Recording("b/1", wave, speaker="y", kind="synthetic", corpus="b")])
    assert found["voices"] == ["x", "y"] and found["corpora"] == ["a", "b"]
    assert found["kinds"] == ["recorded", "synthetic"] and found["languages"] == ["en"]
    assert found["hours"] == pytest.approx(0.02) and found["utterances"] == 2
