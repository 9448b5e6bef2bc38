"""`llasa eval asr` with a tiny model of random weights, through the command line."""

import json

import numpy as np
import pytest

from llasa_jax.audio.io import write_audio
from llasa_jax.cli import main
from llasa_jax.recipes import eval_asr as recipe


@pytest.fixture
def run(speaking_model, tmp_path, capsys):
    for name, pitch in (("a", 0.1), ("b", 0.2)):
        wave = 0.2 * np.sin(np.arange(8000) * pitch)
        write_audio(tmp_path / f"{name}.wav", wave.astype(np.float32), 16000)
    lines = ("a|one bird|a.wav", "b|said|b.wav|never heard", "c|no file|c.wav", "d|text alone", "e")
    (tmp_path / "meta.lst").write_text("\n".join(lines))

    def command(*more, status=1):
        words = ["eval", "asr", tmp_path / "meta.lst", "--model", speaking_model, "--json"]
        words += ["--out", tmp_path / "out", *more]
        assert main([str(word) for word in words]) == status
        captured = capsys.readouterr()
        return (json.loads(captured.out) if captured.out else None), captured.err

    return command


def test_recordings_are_heard_by_the_model_and_by_others(run, tmp_path, monkeypatch):
    found, _ = run("--scorer", "content")
    assert list(found["judges"]) == ["content", "self"] and len(found["refused"]) == 1
    for one in found["judges"].values():
        assert one["heard"] == 2 and set(one["not_heard"]) == {"c", "d"}
        assert "no audio file" in one["not_heard"]["c"] and one["wer"]["n"] == 2
    row = json.loads((tmp_path / "out" / "self" / "rows" / "b.json").read_text())
    assert row["text"] == "said" and row["recording"] == "b.wav" and row["errors"][3] == 1
    kept = (tmp_path / "out" / "asr.json").read_bytes()
    monkeypatch.setattr(recipe, "_hear", lambda *_: 1 / 0)
    run("--scorer", "content")
    assert (tmp_path / "out" / "asr.json").read_bytes() == kept


def test_judges_of_anything_else_are_refused(run):
    assert "hears no words" in run("--scorer", "ge2e", status=2)[1]
