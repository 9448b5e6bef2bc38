"""Joined waves: nothing is lost, nothing clicks, and cuts fall where it is quiet."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax.audio.joining import LONGEST, SHORTEST, join, stretches

RATE = 16_000


def sound(seconds, seed=0):
    """A tone that begins and ends in full swing."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(size=time.size) / 100
    return np.float32(0.5 * np.cos(2 * np.pi * 200 * time) + noise)


def test_the_parts_stand_where_the_spans_say():
    waves = [sound(0.3, i) for i in range(3)]
    joined, spans = join(waves, [0.1, 0.2], RATE)
    assert len(joined) == sum(map(len, waves)) + round(0.3 * RATE)
    for wave, (start, stop) in zip(waves, spans, strict=True):
        inner = slice(RATE // 100, -RATE // 100)
        np.testing.assert_array_equal(joined[start:stop][inner], wave[inner])
    assert not joined[spans[0][1] : spans[1][0]].any()


def test_no_join_clicks():
    waves = [sound(0.3, i) for i in range(4)]
    joined, spans = join(waves, [0.0, 0.1, 0.3], RATE)
    inside = max(np.abs(np.diff(wave)).max() for wave in waves)
    steps = np.abs(np.diff(joined))
    edges = [edge for span in spans for edge in span]
    assert max(steps[max(0, e - 320) : e + 320].max() for e in edges) <= inside
    plain = np.abs(np.diff(np.concatenate([waves[0], np.zeros(9), waves[1]])))
    assert plain.max() > 3 * inside  # without fades it would


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=5))
def test_waves_of_any_length_are_joined(lengths):
    joined, spans = join([np.ones(n) for n in lengths], [0.01] * (len(lengths) - 1), RATE)
    assert len(joined) == (spans[-1][1] if spans else 0)
    assert [stop - start for start, stop in spans] == lengths


def test_stretches_are_cut_in_pauses():
    waves = [sound(3.0, i) for i in range(9)]
    joined, spans = join(waves, [0.3] * 8, RATE)
    found = stretches(joined, RATE)
    assert found[0][0] == 0 and found[-1][1] == len(joined)
    assert all(a[1] == b[0] for a, b in zip(found, found[1:], strict=False))
    assert all(SHORTEST - 0.1 <= (b - a) / RATE <= LONGEST + 0.1 for a, b in found[:-1])
    pauses = [(a[1], b[0]) for a, b in zip(spans, spans[1:], strict=False)]
    for cut in (stop for _, stop in found[:-1]):
        assert any(low <= cut <= high for low, high in pauses)


def test_short_waves_stay_whole():
    for seconds in (0, 0.001, 1, 7.9):
        wave = sound(seconds)
        assert stretches(wave, RATE) == [(0, len(wave))]
