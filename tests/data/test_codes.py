import json

import numpy as np
import pytest

from llasa_jax.data.codes import Encoded, describe, read_codes, write_codes
from llasa_jax.data.utterance import Utterance
from llasa_jax.errors import UserError

MADE = {"codec": "abc", "codebook": 64, "frame_rate": 50.0}


def encoded(count=4):
    rng = np.random.default_rng(0)
    return [
        Encoded(
            Utterance(
                f"c/{i}", f"Zpráva „{i}“\u2028", f"s{i % 2}", "cs", "MIT", "recorded", "train"
            ),
            rng.integers(0, 64, 50 * (i + 1)).astype(np.int32),
        )
        for i in range(count)
    ]


def test_round_trip(tmp_path):
    path, written = tmp_path / "a" / "codes.jsonl", encoded()
    write_codes(path, written, **MADE)
    read = read_codes(path, codec="abc")
    assert [one.utterance for one in read] == [one.utterance for one in written]
    for a, b in zip(read, written, strict=True):
        np.testing.assert_array_equal(a.codes, b.codes)
        assert a.codes.dtype == np.int32
    assert [p.name for p in path.parent.iterdir()] == ["codes.jsonl"]


def test_describe():
    about = describe(encoded(), 50)
    assert about["utterances"] == 4 and about["codes"] == 500
    assert about["hours"] == pytest.approx(10 / 3600, abs=1e-6)
    assert set(about["hours_by"]["speaker"]) == {"s0", "s1"}
    assert about["hours_by"]["licence"] == {"MIT": about["hours"]}
    json.dumps(about, allow_nan=False)


def damage_version(lines):
    return [lines[0].replace('"version": 1', '"version": 9'), *lines[1:]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]],
        lambda lines: [],
        lambda lines: ["[]", *lines[1:]],
        lambda lines: [lines[0].replace("64", "3"), *lines[1:]],
        damage_version,
    ],
)
def test_damage_is_a_user_error(tmp_path, damage):
    path = tmp_path / "codes.jsonl"
    write_codes(path, encoded(), **MADE)
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    path.write_text("\n".join(damage(lines)), encoding="utf-8")
    with pytest.raises(UserError, match=r"codes\.jsonl.*encode again"):
        read_codes(path)


def test_missing_or_of_another_codec(tmp_path):
    with pytest.raises(UserError, match="data prepare"):
        read_codes(tmp_path / "codes.jsonl")
    write_codes(tmp_path / "codes.jsonl", encoded(), **MADE)
    with pytest.raises(UserError, match="made by codec abc, not other"):
        read_codes(tmp_path / "codes.jsonl", codec="other")


def test_a_failed_write_keeps_what_was_there(tmp_path):
    path = tmp_path / "codes.jsonl"
    write_codes(path, encoded(), **MADE)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_codes(path, [*encoded(), None], **MADE)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["codes.jsonl"]
