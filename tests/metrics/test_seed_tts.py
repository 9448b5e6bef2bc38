"""Seed-tts-eval's counting by its rules; `--parity` compares with the packages it is made of."""

import random
import string

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.errors import UserError
from llasa_jax.evaluation.lists import BUILT_IN, read_set
from llasa_jax.metrics import seed_tts


@pytest.mark.parametrize(
    "text, language, expected",
    [
        ("Hello, World!", "en", "hello world"),
        ("don't -- stop", "en", "don't  stop".replace("  ", " ")),
        ("a  b   c", "en", "a b  c"),  # pairs of blanks, once
        ("state-of-the-art", "en", "stateoftheart"),
        ("It costs $5.50", "en", "it costs 550"),
        ("“curly” ‘quotes’", "en", "curly quotes"),
        ("你好，世界！", "zh", "你 好 世 界"),
        ("他说：“OK 吧”", "zh", "他 说 O K   吧"),
        ("", "en", ""),
    ],
)
def test_texts_are_compared_as_the_rules_say(text, language, expected):
    assert seed_tts.normalise(text, language) == expected


def test_errors_are_counted_by_word_or_character():
    found = seed_tts.errors("one two three four", "one too three three four", "en")
    assert found == (1, 0, 1, 4) and found.rate == 0.5
    assert seed_tts.errors("你好世界", "你世界", "zh") == (0, 1, 0, 4)
    assert seed_tts.errors("a b", "", "en").rate == 1
    assert seed_tts.errors("a", "a b c d", "en").rate == 3
    assert seed_tts.average([0.0, 1 / 3]) == 16.667


def test_an_empty_reference_is_named():
    for text in ("", " ", "?!", "。"):
        with pytest.raises(UserError, match="no word to be heard"):
            seed_tts.errors(text, "anything", "en")


@given(st.text(), st.sampled_from(["en", "zh"]))
def test_no_sign_is_left(text, language):
    signs = set(seed_tts.HANZI_SIGNS + string.punctuation) - {"'"}
    assert not signs & set(seed_tts.normalise(text, language))


def test_simplified_characters_need_their_package(monkeypatch):
    monkeypatch.setattr(seed_tts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install zhconv"):
        seed_tts.simplified("漢字")


def pairs(seed=0):
    """References of our own sets and numbers, each with what might have been heard: 600 pairs."""
    draw = random.Random(seed)
    for name in BUILT_IN:
        which = read_set(name)
        for item in which.items:
            text = item.text
            yield text, text, which.language
            units = list(text) if which.language == "zh" else text.split(" ")
            for _ in range(draw.randrange(1, 4)):
                place = draw.randrange(len(units))
                units[place : place + draw.randrange(2)] = draw.choice(
                    [[], ["word"], ["字"], ["don't"], ["  "], ["..."], ["42"], ["A-B", "，"]]
                )
                units = units or [""]
            joined = ("" if which.language == "zh" else " ").join(units)
            yield text, "" if draw.random() < 0.1 else joined, which.language
    for number in range(40):
        heard = draw.choice([f"number {number}", f"No. {number:,}!", "number", ""])
        yield f"Number {number * 1001:,}, or {number}%", heard, "en"


@pytest.mark.parity
def test_pairs_are_counted_as_the_packages_of_the_original_do():
    """The original's own steps with zhon, zhconv and jiwer, written here from its description."""
    zhconv, hanzi = pytest.importorskip("zhconv"), pytest.importorskip("zhon.hanzi")
    assert hanzi.punctuation == seed_tts.HANZI_SIGNS
    compared, rates = 0, []
    for reference, heard, language in pairs():
        if language == "zh":
            heard = zhconv.convert(heard, "zh-cn")
            assert heard == seed_tts.simplified(heard)
        wanted, found = reference, heard
        for sign in hanzi.punctuation + string.punctuation:
            if sign != "'":
                wanted, found = wanted.replace(sign, ""), found.replace(sign, "")
        wanted, found = wanted.replace("  ", " "), found.replace("  ", " ")
        if language == "zh":
            wanted, found = " ".join(wanted), " ".join(found)
        else:
            wanted, found = wanted.lower(), found.lower()
        theirs = jiwer.wer(wanted, found)
        assert seed_tts.errors(reference, heard, language).rate == theirs, (reference, heard)
        rates.append(theirs)
        compared += 1
    assert compared >= 300 and 0.01 < np.mean(rates) < 0.9
    assert seed_tts.average(rates) == round(np.mean(rates) * 100, 3)
