"""Figures: valid pictures in both themes, whatever is absent; ranks keep their shares."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from llasa_jax.evaluation import figures

PAPER = {"light": (255, 255, 255), "dark": (25, 28, 34)}


def check(png: bytes, theme: str = "light") -> None:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    assert image.size[0] == 900
    assert image.getpixel((1, 1)) == PAPER[theme]
    assert len(image.getcolors(1 << 20)) > 10  # something is drawn
    assert len(png) < 400_000


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_loss_curves(theme):
    points = [{"step": s, "loss": 9 / s, "valid_stoi": 0.1 * s} for s in range(1, 9)]
    points[3] |= {"valid_nats": float("nan")}
    points[5] |= {"valid_nats": 2.0, "loss": None}
    baselines = {"unigram": 3.0, "bigram": None}
    check(figures.loss_curves(points, label="nats", baselines=baselines, theme=theme), theme)


def test_loss_curves_of_nothing_and_of_one_point():
    check(figures.loss_curves([]))
    check(figures.loss_curves([{"step": 1, "loss": 3.0}]))


def test_search_curve():
    points = [
        {"n": n, "judge": "$x$", "judge_wer": 0.5, "judge_wer_interval": [0.6, 0.4], "content": -n}
        for n in (1, 4, 16)
    ]
    check(figures.search_curve({"judges": ["$x$", "other"], "points": points}))
    check(figures.search_curve({"points": [{"n": 1, "similarity": 0.5}, {"n": None}]}))
    check(figures.search_curve({"points": [{"n": 2, "scores": {"content": 1.0}}]}))


def test_verifier_scores_are_those_that_are_not_judged():
    point = {"n": 4, "judge_wer": 0.1, "seconds": 2.0, "content": 0.5, "scores": {"speaker": 0.7}}
    assert figures.verifier_scores(point) == {"content": 0.5, "speaker": 0.7}
    assert figures.verifier_scores({"n": 4, "scores": None, "content": float("nan")}) == {}


def test_codebook_use():
    counts = np.random.default_rng(0).poisson(3.0, 4096)
    book = {"size": 4096, "used_share": 0.9, "entropy_bits": 11.0}
    check(figures.codebook_use(book | {"ranks": figures.rank_shares(counts)}))
    check(figures.codebook_use({"size": 4096, "used_share": None, "entropy_bits": 11.0}))


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.int64, st.integers(1, 300), elements=st.integers(0, 50)))
def test_rank_shares(counts):
    ranks = figures.rank_shares(counts, points=16)
    used = np.sort(counts[counts > 0])[::-1]
    assert len(ranks) <= 16 and bool(ranks) == bool(used.size)
    if ranks:
        assert ranks[0] == {"rank": 1, "share": pytest.approx(used[0] / used.sum())}
        assert ranks[-1] == {"rank": used.size, "share": pytest.approx(used[-1] / used.sum())}
        shares = [entry["share"] for entry in ranks]
        assert shares == sorted(shares, reverse=True)


def test_spectrogram():
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    waves = {"Reference": (noise, 16000), "Silence": (np.zeros(100, np.float32), 24000)}
    with np.errstate(all="raise"):
        check(figures.spectrogram(waves))
