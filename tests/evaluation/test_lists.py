import numpy as np
import pytest

from llasa_jax.audio.io import write_audio
from llasa_jax.errors import UserError
from llasa_jax.evaluation.lists import BUILT_IN, MAX_TEXT, Item, read_set


def written(folder, text, name="meta.lst"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def test_lines_have_the_fields_of_the_original(tmp_path):
    lines = ("a|one", "b.wav|two|v/b.wav", "c|said|p/c.wav|three", "d|said|/p/d.wav|four|g/d.wav")
    which = read_set(written(tmp_path / "en", "\n".join(["\ufeff" + lines[0], "", *lines[1:]])))
    folder = tmp_path / "en"
    assert which.name == "en-meta" and which.language == "en" and not which.refused
    assert which.items == [
        Item("a", "one"),
        Item("b", "two", "", folder / "v/b.wav"),
        Item("c", "three", "said", folder / "p/c.wav"),
        Item("d", "four", "said", __import__("pathlib").Path("/p/d.wav"), folder / "g/d.wav"),
    ]
    a, b, c, d = which.items
    assert a.spoken == (None, "one") and b.spoken == (folder / "v/b.wav", "two")
    assert c.spoken == (folder / "p/c.wav", "said") and d.spoken == (folder / "g/d.wav", "four")
    assert which.first(2).items == [a, b]


def test_lines_of_no_use_are_named_with_their_number(tmp_path):
    lines = [
        "a|one",
        "a|two",
        "one field",
        "b|1|2|3|4|5",
        "c|",
        "d|?!",
        "../e|up",
        f"f|{'x' * 6000}",
    ]
    which = read_set(written(tmp_path, "\n".join(lines)))
    assert [item.id for item in which.items] == ["a"]
    assert [(one.line, one.id) for one in which.refused] == [
        (2, "a"),
        (3, ""),
        (4, ""),
        (5, "c"),
        (6, "d"),
        (7, "../e"),
        (8, "f"),
    ]
    reasons = [one.reason for one in which.refused]
    assert "earlier line" in reasons[0] and "1 fields" in reasons[1] and "6 fields" in reasons[2]
    assert "empty" in reasons[3] and "empty" in reasons[4] and "no name" in reasons[5]
    assert str(MAX_TEXT) in reasons[6]


def test_language_and_hash_are_of_the_texts(tmp_path):
    chinese = read_set(written(tmp_path, "a|你好\nb|世界\nc|ok"))
    assert chinese.language == "zh" and read_set(str(tmp_path / "meta.lst"), "en").language == "en"
    other = read_set(written(tmp_path, "a|你好\nb|世界!\nc|ok"))
    assert chinese.hash != other.hash


@pytest.mark.parametrize("text", ["", "a\n\n", "a|"])
def test_a_list_without_a_line_of_use_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="no line of use"):
        read_set(written(tmp_path, text))


def test_what_is_no_list_is_refused(tmp_path):
    with pytest.raises(UserError, match="understanding-en"):
        read_set("no such set")
    with pytest.raises(UserError, match="LibriSpeech"):
        read_set(str(tmp_path))
    (tmp_path / "bytes.lst").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="as text"):
        read_set(str(tmp_path / "bytes.lst"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_our_sets_have_seven_categories_of_twenty_and_more(name):
    which = read_set(name)
    assert which.language == name[-2:] and not which.refused
    counts: dict = {}
    for item in which.items:
        counts[item.category] = counts.get(item.category, 0) + 1
    assert len(counts) == 7 and min(counts.values()) >= 20
    assert len({item.text for item in which.items}) == len(which.items)


def test_librispeech_is_continued_after_three_seconds(tmp_path):
    folder = tmp_path / "test-clean" / "1" / "2"
    folder.mkdir(parents=True)
    for number, seconds in enumerate((3.0, 5.0, 11.0)):
        write_audio(folder / f"1-2-000{number}.flac", np.full(int(16000 * seconds), 0.1), 16000)
    lines = [f"1-2-000{number} SOME WORDS {number}" for number in range(4)]
    (folder / "1-2.trans.txt").write_text("\n".join(lines))
    which = read_set(str(tmp_path / "test-clean"))
    assert which.name == "test-clean" and which.continues == 3
    (item,) = which.items
    assert item.id == "1-2-0001" and item.text == "some words 1"
    assert item.prompt == item.truth == folder / "1-2-0001.flac"
    (refused,) = which.refused
    assert refused.line == 4 and "no readable recording" in refused.reason


def test_esd_asks_for_the_next_sentence_in_the_same_emotion(tmp_path):
    folder = tmp_path / "0011"
    folder.mkdir()
    rows = [f"0011_{i:06d}\tsentence {i}\t{e}" for e in ("Angry", "Sad") for i in range(3)]
    (folder / "0011.txt").write_text("\n".join([*rows, "only\ttwo"]))
    which = read_set(str(tmp_path))
    assert len(which.items) == 4 and which.continues is None
    first = which.items[0]
    assert (first.id, first.prompt_text, first.text) == (
        "Angry-0011_000001",
        "sentence 0",
        "sentence 1",
    )
    assert first.prompt == folder / "Angry" / "0011_000000.wav"
    assert first.truth == folder / "Angry" / "0011_000001.wav"
    assert [one.line for one in which.refused] == [7]
