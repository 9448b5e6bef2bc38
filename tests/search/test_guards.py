import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.config import GuardConfig
from llasa_jax.search.guards import code_bounds, failure_rates, judge_take, longest_loop
from llasa_jax.search.take import Take

CONFIG = GuardConfig()
RATE, HOP = 16000, 320
TEXT = "A sentence of about sixty characters, which takes four seconds."


def take(codes, stopped=True):
    return Take(np.asarray(codes, np.int32), stopped, -1.0)


def noise(frames, level=0.1):
    return level * np.random.default_rng(0).standard_normal(frames * HOP).astype(np.float32)


def varied(frames):
    return np.random.default_rng(1).integers(0, 1000, frames)


@given(st.text())
def test_bounds_are_positive_and_in_order(text):
    least, greatest = code_bounds(text, CONFIG)
    assert 1 <= least < greatest


def test_bounds_hold_natural_speech():
    least, greatest = code_bounds(TEXT, CONFIG)
    assert least < 3 * 50 and 8 * 50 < greatest


def loop_by_hand(codes):
    """Every period at every place, one code after the other."""
    longest = 0
    for period in range(1, 9):
        for start in range(len(codes)):
            run = 0
            while start + period + run < len(codes) and (
                codes[start + run] == codes[start + period + run]
            ):
                run += 1
            longest = max(longest, run + period if run else 0)
    return longest


@given(st.lists(st.integers(0, 2), max_size=40))
def test_loops_are_found_as_by_hand(codes):
    assert longest_loop(np.array(codes, np.int32)) == loop_by_hand(codes)


@pytest.mark.parametrize(
    "codes, stopped, wave, status",
    [
        (varied(200), True, noise(200), "ok"),
        (varied(200), False, noise(200), "runaway"),
        ([*varied(100), *[5] * 60, *varied(40)], True, noise(200), "loop"),
        ([*varied(100), *[5, 6, 7] * 20, *varied(40)], True, noise(200), "loop"),
        ([*varied(100), *[5] * 40, *varied(60)], True, noise(200), "ok"),
        (varied(200), True, noise(200, 1e-4), "silence"),
        (varied(200), True, np.append(noise(20), noise(180, 1e-5)), "early_stop"),
        (varied(20), True, noise(20), "early_stop"),
        ([], True, np.zeros(0, np.float32), "silence"),
    ],
)
def test_each_failure_has_its_name(codes, stopped, wave, status):
    assert judge_take(TEXT, take(codes, stopped), wave, RATE, CONFIG) == status


def test_failure_rates_have_their_upper_bound():
    found = failure_rates(["ok"] * 198 + ["loop", "silence"])
    assert found["of"] == 200 and found["any"]["count"] == 2
    assert found["runaway"]["count"] == 0 and 0.0148 < found["runaway"]["under"] < 0.0150
    assert found["loop"]["under"] > found["runaway"]["under"]
