"""One's own voice by one command: it trains, goes on where it stopped, and speaks."""

import json
import shutil

import pytest

from llasa_jax.audio.io import read_audio
from llasa_jax.cli import main
from llasa_jax.recipes.voices import load_voices


def train(recordings, out, *more):
    words = ["voices", "train", recordings, "--name", "mine", "--out", out, *more]
    return main([*map(str, words), "--set", "train.steps=2", "--set", "train.batch=1"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_folder_of_recordings_becomes_a_model_that_speaks(speech_corpus, tmp_path, capsys):
    (tmp_path / "me").mkdir()
    for path in (speech_corpus / "low").iterdir():
        if path.stem != "broken":
            shutil.copy(path, tmp_path / "me" / path.name)
    out = tmp_path / "out"
    assert train(tmp_path / "me", out, "--consent") == 0
    assert capsys.readouterr().out.strip() == str(out / "model")
    (voice,) = load_voices(out / "model").values()
    assert voice.name == "mine" and voice.consent.startswith("given")
    words = ["say", "amber bell", "--model", str(out), "-o", str(tmp_path / "o.wav"), "--json"]
    assert main([*words, "--candidates", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["voice"] == "mine"
    assert len(read_audio(tmp_path / "o.wav")[0]) > 1000


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "a voice is a person's own"),
        (("--consent", "--name", "../x"), "give a name of letters"),
        (("--consent",), "no valid recording with a text"),
        (("--consent", "--set", "train.stops=2"), "train.stops: unknown setting"),
    ],
)
def test_what_cannot_be_trained_is_one_line(speech_corpus, tmp_path, capsys, more, message):
    (tmp_path / "me").mkdir()
    for suffix in (".wav", ".txt"):
        shutil.copy(speech_corpus / "low" / f"0{suffix}", tmp_path / "me")
    assert train(tmp_path / "me", tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert message in error and error.splitlines()[-1].startswith("llasa: error: ")
