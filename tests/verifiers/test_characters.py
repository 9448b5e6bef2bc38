import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.metrics.text import normalise
from llasa_jax.verifiers.characters import alphabet_of, collapse, encode, readable

ALPHABET = " 'abcdefghijklmnopqrstuvwxyzčřž"


def test_alphabet_keeps_marks_and_drops_strays():
    texts = ["žluťoučký kůň"] * 10 + ["привет"]
    assert alphabet_of(texts) == "".join(sorted(set("žluťoučký kůň")))


def test_digits_and_unknown_letters_are_not_readable():
    for text, ok in [("the cat", True), ("LC 10", False), ("naïve", False), ("...", False)]:
        assert readable(text, normalise(text), ALPHABET) is ok


@given(st.text(alphabet=ALPHABET, max_size=30))
def test_a_path_with_repeats_and_blanks_collapses_to_its_text(text):
    text = " ".join(text.split())
    path = [k for i in encode(text, ALPHABET) for k in (0, i, i, 0)]
    assert collapse(np.array(path, np.int32), ALPHABET) == text


def test_equal_neighbours_need_a_blank():
    a = encode("a", ALPHABET)[0]
    assert collapse([a, a, 0, a], ALPHABET) == "aa"
