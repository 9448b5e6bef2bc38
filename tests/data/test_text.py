from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.data.text import has_letters, normalise


def test_words_of_letters_and_inner_apostrophes():
    assert normalise("  Don't -- 'stop', J.P.  at 3_4! ") == "don't stop j p at"
    assert normalise("Zo\u2019n vis: \u00e9\u00e9n!") == "zo'n vis één"


def test_composed_and_decomposed_letters_are_the_same_word():
    assert normalise("z\u030cluty\u0301") == normalise("\u017elut\u00fd") == "žlutý"


def test_has_letters():
    assert has_letters("3 vissen") and has_letters("č")
    assert not has_letters("12:30, ... — 5%") and not has_letters("")


@given(st.text())
def test_normalised_text_is_a_fixed_point(text):
    once = normalise(text)
    assert normalise(once) == once
    assert once == once.strip() and "  " not in once
