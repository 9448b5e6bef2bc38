"""Every fault is planted in a copy of a good set and found; the good one is clean."""

import json
import shutil
import signal

import numpy as np
import pytest

from llasa_jax.cli import main
from llasa_jax.config import DataRun
from llasa_jax.data.check import FAULTS, check, lines
from llasa_jax.data.shards import Example, TokenShards, decode_row, write_shards
from llasa_jax.errors import UserError
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.recipes.prepare import prepare

ROW = 192


@pytest.fixture(scope="module")
def good(tones, make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    make_model(folder / "model")
    kinds = ("generation", "understanding")
    prepare(DataRun(corpora=(str(tones),), kinds=kinds, row=ROW), folder / "out", folder / "model")
    return folder / "out"


def read(folder):
    shards, found = TokenShards.open(folder), []
    told = shards.about()
    for number in range(len(shards)):
        row = decode_row(shards[number])
        ends = np.cumsum(row.lengths)[:-1]
        for ids, learned in zip(np.split(row.ids, ends), np.split(row.learned, ends), strict=True):
            about = {k: v for k, v in next(told).items() if k != "row"}
            found.append(Example(ids, learned, about))
    return found, shards.manifest


def planted(good, tmp_path, change, kind="generation", split="train"):
    """A copy whose first example of a split is what `change(ids, about)` makes of it."""
    shutil.copytree(good, tmp_path / "out")
    folder = tmp_path / "out" / kind / split
    examples, manifest = read(folder)
    changed = change(examples[0].ids.copy(), dict(examples[0].about))
    made = [Example(ids, np.zeros(len(ids)), about) for ids, about in changed]
    about = {name: manifest[name] for name in ("row", "codec", "vocabulary", "about")}
    write_shards(folder, made + examples[1:], **about)
    return tmp_path / "out"


def found(folder, vocabulary=None):
    return {fault["name"]: fault["count"] for fault in check(folder, vocabulary)["faults"]}


@pytest.fixture(scope="module")
def vocabulary(good):
    return Vocabulary.load(good)


def test_the_good_one_is_clean(good):
    result = check(good)
    assert result["good"] and result["faults"] == [] and result["examples"] == 80
    assert "nothing wrong" in lines(result)


def test_codes_without_their_offset(good, vocabulary, tmp_path):
    def change(ids, about):
        ids[ids >= vocabulary.first_code] -= vocabulary.first_code
        return [(ids, about)]

    assert found(planted(good, tmp_path, change)) == {"offset": 1}


@pytest.mark.parametrize("kind", ["generation", "understanding"])
@pytest.mark.parametrize("count", [0, 2])
def test_a_missing_or_doubled_end(good, vocabulary, tmp_path, kind, count):
    end = vocabulary.speech_end if kind == "generation" else vocabulary.text_end

    def change(ids, about):
        place = int(np.flatnonzero(ids == end)[0])
        return [(np.concatenate([ids[:place], [end] * count, ids[place + 1 :]]), about)]

    assert found(planted(good, tmp_path, change, kind)) == {"end": 1}


def test_a_frame_too_much_at_the_end(good, vocabulary, tmp_path):
    def change(ids, about):
        place = int(np.flatnonzero(ids == vocabulary.speech_end)[0])
        return [(np.insert(ids, place, vocabulary.first_code + 1), about)]

    assert found(planted(good, tmp_path, change)) == {"extra frame": 1}


def test_a_truncated_row(good, vocabulary, tmp_path):
    def change(ids, about):
        start = int(np.flatnonzero(ids == vocabulary.speech_start)[0]) + 1
        codes = np.full(ROW - start, vocabulary.first_code)
        return [(np.concatenate([ids[:start], codes]), about)]

    assert found(planted(good, tmp_path, change)) == {"truncated": 1}


def test_another_sample_rate(good, vocabulary, tmp_path):
    """As if 24 kHz had been encoded for 16: half as many codes again."""

    def change(ids, about):
        place = int(np.flatnonzero(ids == vocabulary.speech_end)[0])
        more = np.full(about["codes"] // 2, vocabulary.first_code + 2)
        return [(np.insert(ids, place, more), about)]

    assert found(planted(good, tmp_path, change)) == {"sample rate": 1}


def test_an_empty_text(good, vocabulary, tmp_path):
    def change(ids, about):
        is_text = (ids < 256) & (np.cumsum(ids >= vocabulary.text_vocab) == 1)
        return [(ids[~is_text], about | {"text": ""})]

    assert found(planted(good, tmp_path, change)) == {"empty text": 1}


def test_far_too_few_codes_for_the_text(good, vocabulary, tmp_path):
    def change(ids, about):
        text = "so many words for so short a sound " * 2
        codes = ids[ids >= vocabulary.first_code] - vocabulary.first_code
        made = vocabulary.example(text, codes[:8])[0]
        return [(made, about | {"text": text, "samples": 8 * 320})]

    assert found(planted(good, tmp_path, change)) == {"length": 1}


def test_a_duplicate(good, tmp_path):
    change = lambda ids, about: [(ids, about), (ids, about | {"id": "again"})]  # noqa: E731
    assert found(planted(good, tmp_path, change)) == {"duplicate": 1}


def test_leakage_between_splits(good, vocabulary, tmp_path):
    (same, *_), _ = read(good / "generation/train")
    change = lambda ids, about: [(ids, about), (same.ids, same.about)]  # noqa: E731
    assert found(planted(good, tmp_path, change, split="test")) == {"leakage": 1}


def test_the_same_words_in_two_splits(good, vocabulary, tmp_path):
    text = "these words are said in both"

    def change(ids, about):
        codes = ids[ids >= vocabulary.first_code] - vocabulary.first_code
        return [(vocabulary.example(text, codes)[0], about | {"text": text})]

    once = planted(good, tmp_path / "a", change)
    assert found(once) == {}
    assert found(planted(once, tmp_path / "b", change, split="valid")) == {"leakage": 1}


def test_an_unknown_id(good, vocabulary, tmp_path):
    def change(ids, about):
        ids[3] = vocabulary.size
        return [(ids, about)]

    assert found(planted(good, tmp_path, change)) == {"unknown id": 1}


def test_damage(good, tmp_path):
    shutil.copytree(good, tmp_path / "out")
    shard = next((tmp_path / "out/generation/train").glob("*.array_record"))
    shard.write_bytes(shard.read_bytes()[:-50])
    index = next((tmp_path / "out/understanding/test").glob("*.jsonl"))
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    result = check(tmp_path / "out")
    assert [fault["name"] for fault in result["faults"]] == ["damage"]
    assert result["faults"][0]["count"] == 2
    (tmp_path / "out/data.json").write_text("{}")
    with pytest.raises(UserError, match=r"data\.json"):
        check(tmp_path / "out")


def test_rows_of_the_released_layout(vocabulary, tmp_path):
    start = vocabulary.text_vocab + 2
    ids = [
        [start, 72, 105 + k, start + 1, vocabulary.speech_start]
        + [vocabulary.first_code + (k + j) % 60 for j in range(10)]
        + [vocabulary.speech_end]
        for k in range(6)
    ]
    ids[1] = ids[1][:-1] + [vocabulary.first_code] * 20  # cut
    ids[2] = [i - vocabulary.first_code if i >= vocabulary.first_code else i for i in ids[2]]
    ids[3] = [*ids[3], vocabulary.speech_end]
    rows = np.array([(row + [vocabulary.eot] * 32)[:32] for row in ids], np.int32)
    (tmp_path / "train_input_ids.memmap").write_bytes(rows.tobytes())
    np.save(tmp_path / "train_input_ids_shape.npy", np.array(rows.shape))
    assert found(tmp_path, vocabulary) == {"truncated": 1, "offset": 1, "end": 1}


def test_the_command_says_so_by_its_status(good, tmp_path, capsys):
    old = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["data", "check", str(good)]) == 0
        assert "nothing wrong" in capsys.readouterr().out
        change = lambda ids, about: [(ids, about), (ids, about)]  # noqa: E731
        bad = planted(good, tmp_path, change)
        assert main(["data", "check", str(bad)]) == 1
        printed = capsys.readouterr().out
        assert "duplicate: 1 times" in printed and FAULTS["duplicate"] in printed
        assert main(["data", "check", str(bad), "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["faults"][0]["name"] == "duplicate"
        assert main(["data", "check", str(tmp_path)]) == 2
    finally:
        signal.signal(signal.SIGTERM, old)
