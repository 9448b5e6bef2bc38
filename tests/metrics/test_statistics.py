import json

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from llasa_jax.metrics import statistics


def _corpus(utterances=120, share=0.2, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.integers(3, 20, utterances)
    return rng.binomial(words, share), words


def test_rate_agrees_with_scipy():
    errors, words = _corpus()
    ours = statistics.rate(errors, words, resamples=4000)
    theirs = scipy_bootstrap(
        (errors, words),
        lambda e, w, axis: e.sum(axis) / w.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.value == errors.sum() / words.sum()
    assert ours.low == pytest.approx(theirs.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.high, abs=0.004)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        interval = statistics.rate(*_corpus(seed=seed), resamples=500, seed=seed)
        covered += interval.low <= 0.2 <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_same_seed_same_interval_and_blocks_do_not_matter(monkeypatch):
    errors, words = _corpus()
    once = statistics.rate(errors, words, seed=3)
    assert once == statistics.rate(errors, words, seed=3)
    assert once != statistics.rate(errors, words, seed=4)
    monkeypatch.setattr(statistics, "_BLOCK", 120 * 7)
    assert once == statistics.rate(errors, words, seed=3)


def test_pairing_makes_a_difference_sharper():
    errors, words = _corpus()
    better = errors // 2
    paired = statistics.rate_difference(better, words, errors, words)
    separate = [statistics.rate(e, words) for e in (better, errors)]
    assert paired.high < 0
    assert paired.high - paired.low < sum(i.high - i.low for i in separate)
    same = statistics.rate_difference(errors, words, errors, words)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_quotient():
    errors, words = _corpus()
    quotient = statistics.rate_quotient(2 * errors, words, errors, words)
    assert (quotient.value, quotient.low, quotient.high) == pytest.approx((2, 2, 2))
    from_zero = statistics.rate_quotient(errors, words, 0 * errors, words)
    shown = from_zero.to_json()
    assert shown["value"] is None and shown["high"] is None
    json.dumps(shown, allow_nan=False)


def test_utterances_without_words():
    interval = statistics.rate([1, 0, 0], [2, 0, 0])
    assert interval.value == 0.5 and interval.low == 0.5 == interval.high
    json.dumps(statistics.rate([0], [0]).to_json(), allow_nan=False)
    with pytest.raises(ValueError, match="no utterances"):
        statistics.rate([], [])


def test_mean():
    values = np.random.default_rng(0).normal(3, 1, 400)
    interval = statistics.mean(values)
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 20, rel=0.1)


def test_zero_failures_have_an_upper_bound():
    assert statistics.upper_bound(0, 200) == pytest.approx(1 - 0.05 ** (1 / 200))
    assert statistics.failure_text(0, 200) == "0 of 200 (under 1.5 %, 95 %)"
    assert statistics.upper_bound(3, 200) > 0.015 + 1 / 200
    assert statistics.upper_bound(5, 5) == 1
