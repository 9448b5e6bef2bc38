"""What was heard of a text: what is lost or repeated on purpose is found, through noise."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax.text.reconcile import MOST, reconcile


def text(count, seed=0):
    """Sentences of seven made-up words."""
    draw = random.Random(seed)
    word = lambda: "".join(  # noqa: E731
        draw.choice("bdfgklmnprstvw") + draw.choice("aeiou") for _ in range(draw.randint(1, 4))
    )
    return [" ".join(word() for _ in range(7)) for _ in range(count)]


def noisy(words, rate, seed=0):
    """Letters lost, changed and added, `rate` of them."""
    draw, found = random.Random(seed), []
    for letter in words:
        chance = draw.random()
        if chance < rate / 4:
            continue
        found.append(draw.choice("etaoinshr ") if chance < rate * 3 / 4 else letter)
        if chance > 1 - rate / 4:
            found.append(draw.choice("etaoinshr "))
    return "".join(found)


def statuses(sentences, order, rate=0.0, seed=0):
    heard = noisy(" ".join(sentences[i] for i in order), rate, seed)
    return [finding.status for finding in reconcile(sentences, heard)]


@settings(max_examples=12, deadline=None)
@given(st.data(), st.sampled_from([0.0, 0.1]), st.integers(0, 100))
def test_every_loss_and_repetition_is_found_and_nothing_else(data, rate, seed):
    sentences = text(12, seed)
    fate = data.draw(st.lists(st.sampled_from([1, 1, 1, 0, 2]), min_size=12, max_size=12))
    order = [i for i, times in enumerate(fate) for _ in range(times)]
    expected = [["lost", "ok", "repeated"][times] for times in fate]
    assert statuses(sentences, order, rate, seed) == expected


def test_most_are_found_where_nearly_every_third_letter_is_misheard():
    """Then a sentence may be garbled, and of two visits one may not be recognised."""
    fate = [1, 0, 1, 2, 1, 1, 2, 1, 0, 1]
    order = [i for i, times in enumerate(fate) for _ in range(times)]
    right = []
    for seed in range(12):
        found = statuses(text(10, seed), order, 0.3, seed)
        found = ["ok" if status == "garbled" else status for status in found]
        right += [a == ["lost", "ok", "repeated"][b] for a, b in zip(found, fate, strict=True)]
    assert np.mean(right) >= 0.95


def test_a_stretch_said_twice_and_one_left_out():
    order = [0, 1, 2, 3, 2, 3, 4, 8, 9]
    expected = ["ok", "ok", "repeated", "repeated", "ok", "lost", "lost", "lost", "ok", "ok"]
    assert statuses(text(10), order, 0.1) == expected


def test_nothing_heard_and_nothing_said():
    assert [one.status for one in reconcile(["a bird", "a cat"], "")] == ["lost", "lost"]
    assert reconcile([], "words") == []


def test_other_words_in_its_place_are_no_sentence():
    sentences = text(5)
    heard = " ".join([*sentences[:2], "zzz qqq xxx jjj " * 4, *sentences[3:]])
    found = [finding.status for finding in reconcile(sentences, heard)]
    assert found[2] in ("lost", "garbled") and found[:2] + found[3:] == ["ok"] * 4


def test_where_a_sentence_was_heard():
    (one, two) = reconcile(["Hello there!", "It's me."], "hello there its me")
    assert (one.best.start, one.share, two.share) == (0, 1.0, 1.0)
    assert two.best.letters.sum() >= len("its me") - 1


def test_too_long_a_text_is_refused():
    with pytest.raises(ValueError, match="take parts"):
        reconcile(["a" * (MOST + 1)], "a")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=6), st.text(max_size=60))
def test_any_texts_can_be_compared(sentences, heard):
    found = reconcile(sentences, heard)
    assert len(found) == len(sentences)
    for finding in found:
        assert 0 <= finding.share <= 1
        assert all(visit.start < visit.stop for visit in finding.visits)
        assert all(len(visit.letters) == len(finding.text) for visit in finding.visits)
        assert np.array([visit.start for visit in finding.visits]).tolist() == sorted(
            visit.start for visit in finding.visits
        )
