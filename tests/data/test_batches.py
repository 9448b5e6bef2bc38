"""Batches of waves: pure functions of seed and step, and what is in them."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.data.batches import bucket_sizes, crops, speaker_crops, transcribable, transcribed
from llasa_jax.data.utterance import Utterance
from llasa_jax.errors import UserError
from llasa_jax.metrics.text import normalise
from llasa_jax.verifiers.characters import collapse

RATE = 1000
ALPHABET = " abcdefghijklmnopqrstuvwxyz"


@dataclass
class Waves:
    """A store in memory; every wave counts up from its number, so that a crop shows its place."""

    utterances: list[Utterance]
    waves: list[np.ndarray]
    rate: int = RATE

    def __getitem__(self, index: int) -> tuple[Utterance, np.ndarray]:
        return self.utterances[index], self.waves[index]

    def samples(self, index: int) -> int:
        return len(self.waves[index])


def store_of(*rows: tuple[str, str, str, float]) -> Waves:
    """Rows of (text, speaker, kind, seconds)."""
    utterances = [
        Utterance(f"t/{i}", text, speaker, "en", "", kind, "train")
        for i, (text, speaker, kind, _) in enumerate(rows)
    ]
    waves = [
        1 + i + np.arange(round(RATE * seconds), dtype=np.float32) / 1e5
        for i, (*_, seconds) in enumerate(rows)
    ]
    return Waves(utterances, waves)


STORE = store_of(
    ("one two", "ann", "synthetic", 4.0),
    ("three", "bob", "synthetic", 1.0),
    ("", "eve", "recorded", 0.5),
    ("four five six", "eve", "recorded", 2.5),
    ("route 66", "bob", "synthetic", 2.0),
    ("seven eight nine ten", "ann", "synthetic", 3.5),
)
EVERY = range(len(STORE.waves))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: crops(STORE, EVERY, 1.0, 4, seed, {"recorded": 0.5, "synthetic": 0.5}),
        lambda seed: speaker_crops(STORE, EVERY, 1.0, 4, seed, ["ann", "bob", "eve"]),
        lambda seed: transcribed(STORE, EVERY, 2, 8.0, ALPHABET, seed),
    ],
)
def test_a_batch_depends_on_seed_and_step_alone(make):
    first, again, other = make(3), make(3), make(4)
    forward = [first[i] for i in range(6)]
    assert all(same(again[i], forward[i]) for i in (5, 0, 3))
    assert not all(same(other[i], forward[i]) for i in range(6))
    assert len({batch["wave"].tobytes() for batch in forward}) > 1


def test_crops_are_pieces_of_waves_one_after_the_other():
    batches = crops(STORE, EVERY, 1.0, 8, 0)
    joined = 0
    for step in range(10):
        for row in batches[step]["wave"]:
            place = 0
            while place < RATE:
                number = int(row[place]) - 1
                start = round((row[place] - number - 1) * 1e5)
                length = min(len(STORE.waves[number]) - start, RATE - place)
                piece = STORE.waves[number][start : start + length]
                np.testing.assert_array_equal(row[place : place + length], piece)
                place += length
                joined += place < RATE
    assert joined > 0


def test_languages_by_a_power_of_their_seconds():
    store = store_of(*[("", "a", "recorded", 1.0)] * 5)
    store.utterances = [
        replace(one, language="en" if i else "nl") for i, one in enumerate(store.utterances)
    ]
    for power, share in ((0.0, 1 / 2), (0.5, 1 / 3), (1.0, 1 / 5)):
        batches = crops(store, range(5), 1.0, 50, 0, {"recorded": 1.0}, language_power=power)
        first = np.concatenate([batches[i]["wave"][:, 0] for i in range(20)]).astype(int)
        assert (first == 1).mean() == pytest.approx(share, abs=0.05)


def test_speed_changes_the_pitch_and_keeps_the_length():
    time = np.arange(16_000 * 4) / 16_000
    utterance = Utterance("t/0", "", "a", "en", "", "recorded", "train")
    store = Waves([utterance], [np.sin(2 * np.pi * 1000 * time).astype(np.float32)], 16_000)
    waves = np.concatenate([crops(store, [0], 1.0, 8, 0, speed=1.2)[i]["wave"] for i in range(8)])
    assert waves.shape == (64, 16_000) and waves.dtype == np.float32
    hertz = np.abs(np.fft.rfft(waves)).argmax(1)
    assert 1000 / 1.2 - 2 <= hertz.min() < 870 and 1150 < hertz.max() <= 1000 * 1.2 + 2
    assert np.abs(np.median(hertz) - 1000) < 60


def test_crops_follow_the_shares_of_kinds_and_then_the_seconds():
    wave = np.concatenate(
        [crops(STORE, EVERY, 1.0, 50, 1, {"recorded": 0.3, "synthetic": 0.7})[i]["wave"][:, 0]
         for i in range(40)]
    ).astype(int) - 1  # fmt: skip
    recorded = np.isin(wave, [2, 3]).mean()
    assert recorded == pytest.approx(0.3, abs=0.04)
    assert (wave == 3).sum() / np.isin(wave, [2, 3]).sum() == pytest.approx(2.5 / 3.0, abs=0.05)


def test_a_kind_that_is_absent_leaves_its_share_to_the_other():
    wave = crops(STORE, [0, 1], 1.0, 16, 0, {"recorded": 0.9, "synthetic": 0.1})[0]["wave"]
    assert set(wave[:, 0].astype(int)) <= {1, 2}
    with pytest.raises(UserError, match="no recording"):
        crops(STORE, [0, 1], 1.0, 16, 0, {"recorded": 1.0})
    with pytest.raises(UserError, match="no recording"):
        crops(STORE, [], 1.0, 16, 0)


def test_voices_are_drawn_equally_often():
    batches = speaker_crops(STORE, EVERY, 1.0, 60, 0, ["ann", "bob", "eve"])
    found = [batches[i] for i in range(20)]
    speaker = np.concatenate([b["speaker"] for b in found])
    np.testing.assert_allclose(np.bincount(speaker) / speaker.size, 1 / 3, atol=0.05)
    for batch in found[:3]:
        for row, length, voice in zip(*map(batch.get, ("wave", "length", "speaker")), strict=True):
            name = STORE.utterances[int(row[0]) - 1].speaker
            assert name == ["ann", "bob", "eve"][voice]
            assert row[length - 1] > 0 and not row[length:].any()


def test_only_readable_texts_are_transcribed():
    assert transcribable(STORE, EVERY, ALPHABET, 3.9) == [1, 3, 5]
    hurried = store_of(("a text far too long for its wave", "ann", "recorded", 0.5))
    assert transcribable(hurried, [0], ALPHABET, 8.0) == []
    with pytest.raises(UserError, match="no recording with readable text"):
        transcribed(STORE, [2, 4], 2, 8.0, ALPHABET, 0)


def test_an_epoch_holds_every_transcript_with_its_wave():
    batches = transcribed(STORE, EVERY, 1, 8.0, ALPHABET, 0)
    for epoch in (0, 1):
        seen = set()
        for step in range(4 * epoch, 4 * epoch + 4):
            wave, length, labels = (batches[step][k][0] for k in ("wave", "length", "labels"))
            number = int(wave[0]) - 1
            np.testing.assert_array_equal(wave[:length], STORE.waves[number])
            assert not wave[length:].any()
            spaced = np.stack([np.zeros_like(labels), labels], 1).ravel()
            text = STORE.utterances[number].text
            assert collapse(spaced, ALPHABET) == normalise(text)
            seen.add(number)
        assert seen == {0, 1, 3, 5}


def test_transcribed_waves_are_played_at_other_speeds():
    time = np.arange(16_000 * 2) / 16_000
    utterance = Utterance("t/0", "a word", "a", "en", "", "recorded", "train")
    store = Waves([utterance], [np.sin(2 * np.pi * 1000 * time).astype(np.float32)], 16_000)
    found = transcribed(store, [0], 4, 8.0, " adorw", 0, speed=1.2)
    hertz, lengths = [], []
    for batch in (found[i] for i in range(8)):
        for wave, length in zip(batch["wave"], batch["length"], strict=True):
            assert not wave[length:].any() and wave[length - 400 : length].any()
            hertz.append(np.abs(np.fft.rfft(wave[:length])).argmax() * 16_000 / length)
            lengths.append(length / 16_000)
    hertz, lengths = np.array(hertz), np.array(lengths)
    assert 1000 / 1.2 - 2 <= hertz.min() < 900 and 1100 < hertz.max() <= 1000 * 1.2 + 2
    np.testing.assert_allclose(hertz * lengths, 2000, rtol=2e-3)


def test_every_shape_comes_at_once():
    rows = [("word", "ann", "recorded", 1 + 0.01 * i) for i in range(90)]
    batches = transcribed(store_of(*rows, *([("word", "ann", "recorded", 7.5)] * 10)),
                          range(100), 4, 8.0, ALPHABET, 0)  # fmt: skip
    shapes = [batches[i]["wave"].shape for i in range(50)]
    assert len(set(shapes)) == 2 and set(shapes[:2]) == set(shapes)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 3))
def test_bucket_sizes_waste_the_least(samples, count):
    unit = 5
    sizes = bucket_sizes(np.array(samples), count, unit)
    rounded = sorted({-(-s // unit) * unit for s in samples})
    assert len(sizes) <= count and list(sizes) == sorted(set(sizes)) and sizes[-1] == rounded[-1]

    def waste(bounds) -> int:
        return sum(min(b for b in bounds if b >= s) for s in samples)

    best = min(
        waste([*lower, rounded[-1]])
        for n in range(count)
        for lower in combinations(rounded[:-1], n)
    )
    assert waste(sizes) == best


def test_a_batch_of_crops_is_the_same_for_any_number_of_processes():
    settings = (STORE, EVERY, 1.0, 8, 0, {"recorded": 0.5, "synthetic": 0.5})
    whole = crops(*settings, speed=1.2)[3]["wave"]
    for processes in (2, 4):
        parts = [
            crops(*settings, speed=1.2, process=process, processes=processes)[3]["wave"]
            for process in range(processes)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    with pytest.raises(UserError, match="8 rows does not divide by 3 processes"):
        crops(*settings, processes=3)
