"""Sentences and pieces: where they end, and that nothing is lost between them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax.text.english import read_aloud
from llasa_jax.text.sentences import Chunk, chunks, sentences

SPLIT = [
    ["Dr. Smith met Mr. J. R. Brown at 3.5 p.m. on Jan. 5.", "They talked."],
    ["It cost $3.50.", "The U.S. Army came."],
    ["Then he left...", "What?", "Yes!"],
    ["See Fig. 3 and p. 10.", "Then go."],
    ['"Is it you?" she asked.', '"It is," he said.'],
    ["(He lied.)", "Nobody knew."],
    ['He said "Go now."', "She went."],
    ["I said no.", "He said yes."],
    ["I like J.K. Rowling.", "Visit www.example.com."],
    ["It is 3.14159 exactly.", "No. 5 is alive."],
    ["One, e.g. this, is it.", "Two follow."],
    ["你好。", "今天天气很好！", "你去哪里？", "我说：“没事。”"],
    ["こんにちは。", "はい！"],
]


@pytest.mark.parametrize("expected", SPLIT)
def test_where_sentences_end(expected):
    joint = "" if expected[0][0] > "\u3000" else " "
    assert [one.text for one in sentences(joint.join(expected))] == expected


def test_paragraphs_and_wrapped_lines():
    found = sentences("One line\nand its end. Two.\n\n \nThree\n\n...\n\n你\n好。")
    assert [(one.text, one.paragraph) for one in found] == [
        ("One line and its end.", 0),
        ("Two.", 0),
        ("Three", 1),
        ("你好。", 3),
    ]


def test_what_is_spoken_stands_beside_what_is_written():
    (one, other) = sentences("It cost $5. 它花了5元。", read_aloud)
    assert (one.spoken, other.spoken) == ("It cost five dollars.", "它花了5元。")


def texts(found, limit):
    return [chunk.text for chunk in chunks(found, limit)]


def test_long_sentences_are_cut_between_clauses_then_words_then_letters():
    found = sentences("When the rain came, we ran home, and the dog ran after us.")
    assert texts(found, 45) == ["When the rain came, we ran home,", "and the dog ran after us."]
    assert texts(sentences("one two three four five six"), 14) == ["one two three", "four five six"]
    assert texts(sentences("我们走吧，天要下雨了，快点回家。"), 8) == [
        "我们走吧，",
        "天要下雨了，",
        "快点回家。",
    ]


def test_short_neighbours_are_said_together():
    assert chunks(sentences("Yes! No. It was a very long day for all of us."), 40) == [
        Chunk("Yes! No.", (0, 1), "sentence"),
        Chunk("It was a very long day for all of us.", (2,), "paragraph"),
    ]
    assert [c.ends for c in chunks(sentences("Yes.\n\nNo."), 40)] == ["paragraph", "paragraph"]


WORD = st.sampled_from(["Dr.", "no.", "3.5", "cat", "dog,", '"Go!"', "(so)", "end.", "end?", "…"])
WORD |= st.sampled_from(["\n\n", "\n", "—", "你好。", "大家，", "é", "x" * 30, "U.S.", "-"])


@settings(max_examples=150, deadline=None)
@given(st.lists(WORD, max_size=60), st.integers(4, 60))
def test_no_letter_is_lost_or_moved(words, limit):
    text = " ".join(words)
    letters = [letter for letter in text if letter.isalnum()]
    found = sentences(text)
    assert [x for one in found for x in one.text if x.isalnum()] == letters
    pieces = chunks(found, limit)
    assert [x for piece in pieces for x in piece.text if x.isalnum()] == letters
    assert all(0 < len(piece.text) <= limit for piece in pieces)
    numbers = [number for piece in pieces for number in piece.sentences]
    assert sorted(set(numbers)) == list(range(len(found))) and numbers == sorted(numbers)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200), st.integers(1, 60))
def test_any_text_is_cut(text, limit):
    for piece in chunks(sentences(text, read_aloud), limit):
        assert 0 < len(piece.text) <= limit
