import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.errors import UserError
from llasa_jax.evaluation.tts_report import score_table
from llasa_jax.evaluation.tts_summary import compare, describe, worst
from llasa_jax.metrics.statistics import sign_flip

JUDGES = ["whisper", "wavlm", "dnsmos"]


def row(number, rate=0.25, sound=True, status="ok", **more):
    words = {"heard": "a b", "errors": [1, 0, 0, 4], "rate": rate}
    scores = {"whisper": words, "wavlm": {"o": 0.5, "r": 0.6}, "dnsmos": {"value": None}}
    return {
        "id": f"u{number}",
        "text": f"text {number}",
        "category": "",
        "status": status,
        "sound": sound,
        "scores": scores if sound else {},
    } | more


def test_what_was_not_spoken_counts_as_all_wrong_and_the_original_leaves_it_out():
    rows = [row(0), row(1, 0.75), row(2, sound=False, status="no_sound", why="no audio file")]
    found = describe(rows, JUDGES)
    words = found["scores"]["whisper"]
    assert words["rate"]["value"] == pytest.approx((0.25 + 0.75 + 1) / 3)
    assert words["original"] == 50.0 and words["original_utterances"] == 2
    assert words["over_half_wrong"] == 1 and words["corpus"] == 0.25
    assert found["without_sound_ids"] == ["u2"] and found["why"] == ["no audio file"]
    assert found["failures"]["any"] == 1 and found["failures"]["no_sound"] == 1
    assert 1 / 3 < found["failures"]["under"] < 1
    assert found["scores"]["wavlm"]["o"]["n"] == 2 and found["scores"]["dnsmos"] == {}


def test_who_knows_no_words_counts_letters_too():
    heard = {"heard": "text", "errors": [1, 0, 0, 1], "rate": 1.0}
    rows = [row(0, text="tekst", scores={"recogniser": heard}), row(1, sound=False)]
    rows[1]["status"] = "no_sound"
    found = describe(rows, ["recogniser"])["scores"]["recogniser"]
    assert found["rate"]["value"] == 1.0
    assert found["letters"]["value"] == pytest.approx((2 / 5 + 1) / 2)
    again = [rows[0] | {"scores": {"recogniser": heard | {"heard": "tekst"}}}]
    pair = compare(rows[:1], again, ["recogniser"], ("A", "B"))["scores"]["recogniser letters"]
    assert pair["difference"]["value"] == pytest.approx(-0.4)
    assert "letters" not in describe([row(0)], ["whisper"])["scores"]["whisper"]


@pytest.mark.parametrize("language, head", [("en", ["WER", "CER"]), ("zh", ["CER"])])
def test_letters_have_a_column_where_words_are_not_characters(language, head):
    rows = [row(0, scores={"recogniser": {"heard": "text", "errors": [1, 0, 0, 1], "rate": 1.0}})]
    run = {"title": "a, direct", "chosen_by": []} | describe(rows, ["recogniser"])
    found = {"kinds": {"recogniser": "words"}, "language": language, "runs": [run]}
    table = score_table(found | {"set": "s", "utterances": 1})
    columns = [f"{name}, % (recogniser)" for name in head]
    assert list(table.head) == ["System", *columns, "Failures"]
    assert len(table.rows[0]) == len(table.head)


def test_nothing_spoken_at_all_is_no_crash():
    found = describe([row(0, sound=False, status="no_sound")], JUDGES)
    assert found["scores"]["whisper"]["original"] is None
    assert found["scores"]["whisper"]["rate"]["value"] == 1


def test_categories_stand_apart():
    rows = [row(i, i / 4, category="ab"[i % 2]) for i in range(4)]
    found = describe(rows, ["whisper"])["scores"]["whisper"]["categories"]
    assert found["a"]["value"] == 0.25 and found["b"]["value"] == 0.5


def test_runs_are_paired_by_utterance():
    one = [row(i, 0.5) for i in range(30)]
    other = [row(i, 0.25 if i % 5 else 0.5) for i in range(2, 32)]
    found = compare(one, other, JUDGES, ("A", "B"))
    assert found["utterances"] == 28 and found["only_in"] == {"A": 2, "B": 2}
    words = found["scores"]["whisper rate"]
    assert words["verdict"] == "better" and words["p"] < 0.01
    assert words["difference"]["value"] == pytest.approx(-0.25 * 23 / 28)
    same = found["scores"]["wavlm o"]
    assert same["p"] == 1 and same["verdict"] == "no significant difference"
    assert "dnsmos value" not in found["scores"]
    worse = compare(other, one, ["whisper"], ("B", "A"))["scores"]["whisper rate"]
    assert worse["verdict"] == "worse" and worse["p"] == words["p"]


def test_other_texts_or_none_in_common_are_refused():
    with pytest.raises(UserError, match="no utterance in common"):
        compare([row(0)], [row(1)], JUDGES, ("A", "B"))
    with pytest.raises(UserError, match="u0 has another text"):
        compare([row(0)], [row(0, text="else")], JUDGES, ("A", "B"))


def test_the_worst_come_first():
    rows = [row(0, 0.1), row(1, 0.9), row(2, sound=False), row(3, 0.0, status="loop")]
    assert [one["id"] for one in worst(rows, JUDGES, 3)] == ["u2", "u3", "u1"]
    assert [one["id"] for one in worst(rows, ["wavlm"], 1)] == ["u2"]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40))
def test_p_is_a_probability_and_knows_no_direction(values):
    p = sign_flip(values)
    assert 0 < p <= 1 and p == sign_flip([-x for x in values])


def test_p_is_small_for_what_all_agree_on_and_near_its_exact_value():
    assert sign_flip(np.ones(20)) < 1e-3
    # Eight of the same sign: 2 of 256 sign patterns reach it.
    assert sign_flip(np.ones(8)) == pytest.approx(2 / 256, rel=0.3)
    with pytest.raises(ValueError):
        sign_flip([])
