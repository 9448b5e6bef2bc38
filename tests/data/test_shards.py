import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.data import shards as module
from llasa_jax.data.shards import (
    Example,
    Row,
    TokenShards,
    decode_row,
    encode_row,
    write_shards,
)
from llasa_jax.errors import UserError

MADE = {"row": 64, "codec": "c0dec", "vocabulary": "v0cab", "about": {"hours": 1.5}}


def examples(count=40, seed=0, longest=40):
    rng = np.random.default_rng(seed)
    made = []
    for n in rng.integers(3, longest, count):
        learned = np.zeros(n, np.float32)
        learned[n // 3 : -1] = 1
        made.append((rng.integers(0, 193_800, n).astype(np.int32), learned))
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EXAMPLES_PER_SHARD", 12)
    write_shards(tmp_path / "train", examples(), **MADE)
    return tmp_path / "train"


@given(st.lists(st.integers(1, 20), max_size=6), st.integers(0, 2**31))
def test_a_record_gives_its_row_back(lengths, seed):
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    row = Row(np.array(lengths, int), rng.integers(0, 2**31, n, np.int32), rng.random(n) < 0.5)
    record = encode_row(row)
    for ours, theirs in zip(row, decode_row(record), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for torn in (record[:-1], record + b"\0", record[:-5]):
        with pytest.raises(ValueError):
            decode_row(torn)


def test_every_example_comes_back(folder):
    shards = TokenShards.open(folder, codec="c0dec", vocabulary="v0cab")
    assert len(shards.manifest["shards"]) > 2
    found = []
    for index in range(len(shards)):
        lengths, ids, learned = decode_row(shards[index])
        assert len(ids) <= shards.row == 64
        ends = np.cumsum(lengths)
        found += [
            (tuple(a), tuple(b))
            for a, b in zip(
                np.split(ids, ends[:-1]), np.split(learned.astype(int), ends[:-1]), strict=True
            )
        ]
    expected = [(tuple(ids), tuple(w.astype(int))) for ids, w in examples()]
    assert sorted(found) == sorted(expected)


def test_manifest(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["examples"] == 40 and manifest["row"] == 64
    assert manifest["ids"] == sum(len(ids) for ids, _ in examples())
    assert manifest["learned"] == sum(int(w.sum()) for _, w in examples())
    assert manifest["used"] == manifest["ids"] / (64 * manifest["rows"])
    assert manifest["largest"] == max(int(ids.max()) for ids, _ in examples())
    assert manifest["about"] == {"hours": 1.5} and manifest["rejects"] == {}


def test_too_long_examples_are_left_out_and_counted(tmp_path):
    shards = write_shards(tmp_path / "t", examples(longest=90), **MADE)
    long = sum(len(ids) > 64 for ids, _ in examples(longest=90))
    assert shards.manifest["rejects"] == {"longer than a row": long} and long
    assert shards.manifest["examples"] == 40 - long
    with pytest.raises(UserError, match="longer rows"):
        write_shards(tmp_path / "u", examples()[:3], **(MADE | {"row": 2}))
    with pytest.raises(UserError, match="no example"):
        write_shards(tmp_path / "u", [], **MADE)
    assert not (tmp_path / "u").exists()


def test_same_examples_same_bytes(folder, tmp_path):
    write_shards(tmp_path / "again", examples(), **MADE)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_replaces_shards_but_not_other_files(folder, tmp_path):
    write_shards(folder, examples(3), **MADE)
    assert TokenShards.open(folder).manifest["examples"] == 3
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(UserError, match="other files"):
        write_shards(tmp_path / "notes", examples(3), **MADE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "train"]


def test_an_interrupted_write_leaves_nothing(folder, tmp_path, monkeypatch):
    def stop(row):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "encode_row", stop)
    with pytest.raises(KeyboardInterrupt):
        write_shards(folder, examples(3), **MADE)
    assert TokenShards.open(folder).manifest["examples"] == 40
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_another_codec_or_vocabulary_is_refused(folder):
    with pytest.raises(UserError, match="codec c0dec, this run has other"):
        TokenShards.open(folder, codec="other", vocabulary="v0cab")
    with pytest.raises(UserError, match="vocabulary v0cab, this run has other"):
        TokenShards.open(folder, codec="c0dec", vocabulary="other")


def test_a_torn_shard_is_named(folder):
    victim = sorted(folder.glob("*.array_record"))[1]
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(UserError, match=victim.name):
        TokenShards.open(folder)
    victim.unlink()
    with pytest.raises(UserError, match=victim.name):
        TokenShards.open(folder)


@pytest.mark.parametrize("place", [150, 700, -65_536])  # rows and the index
def test_a_damaged_shard_is_named_when_it_is_read(folder, place):
    victim = sorted(folder.glob("*.array_record"))[1]
    data = bytearray(victim.read_bytes())
    for byte in range(place, place + 40):
        data[byte] ^= 255
    victim.write_bytes(data)
    shards = TokenShards.open(folder)
    assert decode_row(shards[0])
    with pytest.raises(UserError, match=victim.name):
        for index in range(len(shards)):
            shards[index]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"version": 7}', '{"version": 2, "shards": []}', "\0"]
)
def test_a_damaged_manifest_is_a_user_error(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        TokenShards.open(folder)


def test_a_manifest_may_not_point_elsewhere(folder):
    text = (folder / "manifest.json").read_text().replace("rows-00000", "../rows-00000")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        TokenShards.open(folder)
    with pytest.raises(UserError, match="no token shards"):
        TokenShards.open(folder / "nowhere")


def test_weights_are_bits(tmp_path):
    with pytest.raises(ValueError, match="0 or 1"):
        write_shards(tmp_path / "t", [(np.arange(4), np.full(4, 0.5))], **MADE)


def test_goes_to_another_process(folder):
    shards = TokenShards.open(folder)
    first = shards[0]
    assert pickle.loads(pickle.dumps(shards))[0] == first


def test_an_index_tells_of_every_example(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EXAMPLES_PER_SHARD", 12)
    made = [Example(ids, w, {"id": f"ü/{k}"}) for k, (ids, w) in enumerate(examples(longest=70))]
    shards = write_shards(tmp_path / "train", made, **MADE)
    told = list(shards.about())
    assert sum(shard["rows"] for shard in shards.manifest["shards"]) == len(shards)
    assert {one["row"] for one in told} == set(range(len(shards)))
    place = 0
    for number in range(len(shards)):
        row = decode_row(shards[number])
        for ids in np.split(row.ids, np.cumsum(row.lengths)[:-1]):
            one = made[int(told[place]["id"].removeprefix("ü/"))]
            assert told[place]["row"] == number
            np.testing.assert_array_equal(ids, one.ids)
            place += 1
    assert place == len(told) == shards.manifest["examples"]
    index = sorted((tmp_path / "train").glob("*.jsonl"))[-1]
    index.write_text("no json")
    with pytest.raises(UserError, match=index.name):
        list(shards.about())


def test_many_rows_are_read_at_once_in_any_order(folder):
    shards = TokenShards.open(folder)
    wanted = np.array([len(shards) - 1, 0, 7, 0, -1, 3])
    assert shards.read(wanted) == [shards[int(i)] for i in wanted]
    for wrong in (len(shards), -len(shards) - 1):
        with pytest.raises(IndexError):
            shards[wrong]
