"""`llasa curve` with a tiny model of random weights, and judges that need no downloads."""

import json

import numpy as np
import pytest

from llasa_jax.cli import main
from llasa_jax.metrics.text import word_errors
from llasa_jax.recipes import curve

SENTENCES = ("one small bird sings", "two tall trees", "a grey stone lies here", "no")


class Judge:
    """Hears the first words; louder takes more of them."""

    name = "pocketsphinx"

    def transcribe(self, waves, on_wave=lambda: None):
        for _ in waves:
            on_wave()
        return ["one two a no" if abs(wave).mean() > 0 else "" for wave in waves]


class Encoder:
    name = "ge2e"

    def __init__(self, weights):
        assert weights == "weights"

    def embed(self, waves):
        return np.stack([np.array([1.0, abs(wave).mean()]) for wave in waves])


@pytest.fixture
def judges(monkeypatch):
    monkeypatch.setattr(curve, "Pocketsphinx", Judge)
    monkeypatch.setattr(curve, "Ge2eEncoder", Encoder)
    monkeypatch.setattr(curve, "load_ge2e", lambda: "weights")


@pytest.fixture
def run(speaking_model, judges, tmp_path, capsys):
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES))
    words = ["curve", "--model", speaking_model, "--sentences", tmp_path / "sentences.txt"]
    words += ["--out", tmp_path / "out", "--json"]

    def command(*more):
        assert main([str(word) for word in (*words, *more)]) == 0
        return json.loads(capsys.readouterr().out)

    return command


def check(found, points):
    assert found["sentences"] == 4 and found["judges"] == ["pocketsphinx"]
    assert len(found["points"]) == points
    for point in found["points"]:
        assert point["judge"] == "pocketsphinx" and point["similarity"] is None  # no prompt
        low, high = point["judge_wer_interval"]
        assert low <= point["judge_wer"] <= high
        assert 0 <= point["failures"] <= 4 and point["failures_under"] > 0.5
        assert (
            point["tokens"] > 0
            and point["flops"] > 0
            and set(point["scores"])
            == {
                "content",
                "speaker",
            }
        )
    assert found["all_takes"]["of"] >= 4


def test_best_of_leaves_records_and_goes_on_where_it_stopped(run, tmp_path, monkeypatch):
    monkeypatch.setattr(curve.Curve, "_seconds", lambda self: {1: 0.5, 2: 0.75})  # two programs
    found = run("--candidates", "1,2")
    check(found, 2)
    one, two = found["points"]
    assert (one["n"], two["n"]) == (1, 2) and one["tokens"] < two["tokens"]
    assert two["scores"]["content"] >= one["scores"]["content"]  # it was chosen by it
    assert (one["seconds"], two["seconds"]) == (0.5, 0.75)
    expected = word_errors(SENTENCES, ["one two a no"] * 4).rate
    assert one["judge_wer"] == pytest.approx(expected)
    assert found["differences"][0]["wer"]["value"] == pytest.approx(0)
    for name in ("curve.json", "curve.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    folder = next((tmp_path / "out").glob("best-of-*"))
    record = json.loads((folder / "00001.json").read_text())
    (searched,) = record["searches"]
    assert record["text"] == SENTENCES[1] and len(searched["candidates"]) == 2
    assert set(searched["choices"]) == {"1", "2"} and searched["failures"]["of"] == 2

    drawn = []
    monkeypatch.setattr(curve.Curve, "_search", lambda self, part: drawn.append(part) or 1 / 0)
    assert run("--candidates", "1,2")["points"] == found["points"] and not drawn
    (folder / "00001.json").unlink()
    with pytest.raises(ZeroDivisionError):
        run("--candidates", "1,2")
    assert drawn == [range(0, 4)]


@pytest.mark.slow
def test_sequential_and_partial(run):
    found = run("--strategy", "sequential", "--candidates", "1,3")
    check(found, 2)
    one, three = found["points"]
    assert one["takes"] == 1 <= three["takes"] <= 3
    assert 0 < one["seconds"] and 0 < three["seconds"]
    assert run("--strategy", "sequential", "--candidates", "1,3")["points"] == found["points"]
    assert found["settings"]["accept"]["content"] < 0
    found = run("--strategy", "partial", "--candidates", "2", "--step-codes", "8")
    check(found, 2)
    partial, matched = found["points"]
    assert (partial["beams"], partial["step_tokens"], partial["prefix_seconds"]) == (2, 8, 2.0)
    assert matched["matched_to"] == "partial" and matched["seconds"] is None
    assert matched["tokens"] <= partial["tokens"]
    assert found["verifiers"] == ["content", "speaker"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--judge content", "judge content: it already selected the candidates"),
        ("--judge whisper", "--judge whisper: one of pocketsphinx, content"),
        ("--select loudness=1", "verifier loudness: unknown, there are: content, speaker"),
        ("--select content", "'content': expected NAME=NUMBER"),
        ("--candidates 0,4", "--candidates: numbers from 1 to 256"),
        ("--candidates few", "argument --candidates: 'few': expected numbers, as 1,4,16"),
        ("--sentences {here}/none", "none: cannot be read as text"),
    ],
)
def test_bad_input_is_one_line(speaking_model, judges, tmp_path, capsys, more, message):
    (tmp_path / "s.txt").write_text("a bird\n")
    words = ["curve", "--model", str(speaking_model), "--out", str(tmp_path / "o")]
    words += ["--sentences", str(tmp_path / "s.txt")]
    assert main(words + [word.replace("{here}", str(tmp_path)) for word in more.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
