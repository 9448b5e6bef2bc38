import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.errors import UserError
from llasa_jax.metrics.text import character_errors, normalise, word_errors

WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "don't", "straße"]), max_size=8)


def distance(a, b):
    """Textbook edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def test_normalise():
    assert (
        normalise("  Don\u2019t STOP, 'he' said - 3 times_now! ") == "don't stop he said times now"
    )
    assert normalise("Příliš žluťoučký KŮŇ") == "příliš žluťoučký kůň"
    assert normalise("e\u0301") == "\u00e9"
    assert normalise("12 ... !") == ""


@given(st.text(max_size=40))
def test_normalise_is_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)


def test_corpus_rate_is_a_ratio_of_sums():
    counts = word_errors(["a b c d", "x"], ["A, b! c d", "y"])
    assert counts.errors.tolist() == [0, 1]
    assert counts.length.tolist() == [4, 1]
    assert counts.rate == 1 / 5
    assert counts.interval().n == 2


def test_kinds_of_error():
    counts = word_errors(["a b c", "a b", "a"], ["a x c", "a", "a b"])
    assert counts.substitutions.tolist() == [1, 0, 0]
    assert counts.deletions.tolist() == [0, 1, 0]
    assert counts.insertions.tolist() == [0, 0, 1]


def test_empty_texts():
    counts = word_errors(["two words", "", ""], ["", "heard this", ""])
    assert counts.errors.tolist() == [2, 2, 0]
    assert counts.length.tolist() == [2, 0, 0]
    assert counts.rate == 2.0
    with pytest.raises(UserError, match="hold no words"):
        _ = word_errors(["..."], ["a"]).rate
    with pytest.raises(UserError):
        _ = word_errors([], []).rate
    with pytest.raises(ValueError):
        word_errors(["a"], [])


def test_characters():
    counts = character_errors(["ab c"], ["abc"])
    assert counts.errors.tolist() == [1] and counts.length.tolist() == [4]


@given(st.lists(st.tuples(WORDS, WORDS), max_size=4))
def test_errors_are_edit_distances(pairs):
    references = [" ".join(a) for a, _ in pairs]
    hypotheses = [" ".join(b) for _, b in pairs]
    words = word_errors(references, hypotheses)
    assert words.errors.tolist() == [distance(a, b) for a, b in pairs]
    characters = character_errors(references, hypotheses)
    expected = [distance(a, b) for a, b in zip(references, hypotheses, strict=True)]
    assert characters.errors.tolist() == expected
    assert np.array_equal(words.length, [len(a) for a, _ in pairs])
