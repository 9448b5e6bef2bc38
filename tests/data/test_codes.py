import json

import numpy as np
import pytest

from llasa_jax.data.codes import Counts, Encoded, dump_codes, load_codes, read_codes
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
            16_000 * (i + 1) + 7,
        )
        for i in range(count)
    ]


def test_round_trip(tmp_path):
    written = encoded()
    for number, part in enumerate((written[:3], written[3:])):
        (tmp_path / f"{number:05d}.jsonl").write_bytes(dump_codes(part, **MADE))
    read = read_codes(tmp_path, codec="abc")
    assert [one.utterance for one in read] == [one.utterance for one in written]
    for a, b in zip(read, written, strict=True):
        np.testing.assert_array_equal(a.codes, b.codes)
        assert a.codes.dtype == np.int32 and a.samples == b.samples
    assert dump_codes(read, **MADE) == dump_codes(written, **MADE)


def test_rejects_go_with_the_codes():
    found = load_codes(dump_codes([], **MADE, rejects=[("c/9", "broken: ž")]), "x")
    assert found.encoded == [] and found.rejects == [("c/9", "broken: ž")]
    assert (found.codec, found.frame_rate) == ("abc", 50.0)


def test_counts_add_up_and_merge():
    counts, whole = Counts(), Counts()
    for one in encoded():
        counts.add(len(one.codes), speaker=one.utterance.speaker, licence=one.utterance.licence)
    for _ in range(2):
        whole.merge(json.loads(json.dumps(counts.to_json())))
    about = whole.describe(50)
    assert about["utterances"] == 8 and about["codes"] == 1000
    assert about["hours"] == pytest.approx(20 / 3600, abs=1e-6)
    assert set(about["hours_by"]["speaker"]) == {"s0", "s1"}
    assert about["hours_by"]["licence"] == {"MIT": about["hours"]}
    assert about["hours_by"]["language"] == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]],
        lambda lines: [],
        lambda lines: ["[]", *lines[1:]],
        lambda lines: [lines[0].replace("64", "3"), *lines[1:]],
        lambda lines: [lines[0].replace('"version": 2', '"version": 9'), *lines[1:]],
        lambda lines: [lines[0], lines[1].replace("samples", "simples"), *lines[2:]],
    ],
)
def test_damage_is_named(tmp_path, damage):
    lines = damage(dump_codes(encoded(), **MADE).decode().removesuffix("\n").split("\n"))
    (tmp_path / "00000.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"00000\.jsonl are damaged"):
        read_codes(tmp_path)
    (tmp_path / "00000.jsonl").write_bytes(b"\xff")
    with pytest.raises(UserError, match="damaged"):
        read_codes(tmp_path)


def test_no_codes_and_another_codec(tmp_path):
    with pytest.raises(UserError, match="data prepare"):
        read_codes(tmp_path)
    (tmp_path / "00000.jsonl").write_bytes(dump_codes(encoded(), **MADE))
    with pytest.raises(UserError, match="made by codec abc, not other"):
        read_codes(tmp_path, codec="other")
