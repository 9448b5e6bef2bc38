import jax
import jax.numpy as jnp
import numpy as np

from llasa_jax.data.pipeline import collate
from llasa_jax.data.shards import Row
from llasa_jax.lm.blank import BLANK, blank_prompt, blank_texts
from llasa_jax.lm.guide import kinds
from llasa_jax.lm.vocabulary import nano_vocabulary

VOCABULARY = nano_vocabulary(12)
EXAMPLES = [
    ("generation", "ab cd", [3, 1, 4, 1, 5, 9, 2]),
    ("understanding", "hello", [2, 7, 1]),
    ("generation", "x", [6, 5]),
]


def batch(rows):
    made = [VOCABULARY.example(text, codes, kind) for kind, text, codes in EXAMPLES]
    lengths = np.array([len(ids) for ids, _ in made])
    ids, weights = (np.concatenate(parts) for parts in zip(*made, strict=True))
    found = collate([Row(lengths, ids, weights > 0)] * rows, int(lengths.sum()) + 5)
    return [jnp.asarray(found[name]) for name in ("tokens", "segments", "weights")]


def test_given_texts_are_blank_whole_and_by_the_share_asked_for():
    given = batch(500)
    share = {"share": 0.3, "text_vocab": VOCABULARY.text_vocab}
    blank = np.asarray(blank_texts(jax.random.key(0), *given, **share))
    tokens, segments = (np.asarray(one) for one in given[:2])
    changed = blank != tokens
    assert (blank[changed] == BLANK).all()
    # By example: the letters of a given text change together, all others never.
    letters = {1: 5, 2: 0, 3: 1}
    for segment, count in letters.items():
        found = (changed & (segments == segment)).sum(1)
        assert set(found) == {0, count}
        if count:
            np.testing.assert_allclose((found > 0).mean(), 0.3, atol=0.08)
    np.testing.assert_array_equal(
        blank_texts(jax.random.key(0), *given, **share | {"share": 0.0}), tokens
    )


def test_a_blank_prompt_has_its_length_and_its_codes():
    ids = VOCABULARY.prompt("hello you", [3, 4, 5])
    blank = blank_prompt(ids, VOCABULARY.text_vocab)
    np.testing.assert_array_equal(blank[-3:], ids[-3:])
    np.testing.assert_array_equal(ids[blank != ids], VOCABULARY.encode_text("hello you"))
    assert (blank[blank != ids] == BLANK).all()


def test_the_kinds_of_a_prompt_are_told_without_a_program():
    ids = VOCABULARY.prompt("a text of a length of its own", np.arange(3))[None]
    found = kinds(ids, VOCABULARY.text_vocab)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, kinds(jnp.asarray(ids), VOCABULARY.text_vocab))
