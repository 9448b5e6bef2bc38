"""`llasa say`: texts from everywhere, sounds of every format, and what files say of themselves."""

import io
import json
import sys
from types import SimpleNamespace

import av
import numpy as np
import pytest

import llasa_jax
from llasa_jax.audio.encode import FORMATS
from llasa_jax.audio.io import decode_audio
from llasa_jax.cli import main
from llasa_jax.interop.bundle import part_hash
from llasa_jax.recipes import long, provenance, say

TEXT = "It cost $5. Then it rained all day, and we went home at 7 pm."


@pytest.fixture(scope="module")
def model(speaking_model):
    return speaking_model


@pytest.fixture
def speak(model, monkeypatch):
    """The command in this process, with what stands on its standard input and output."""

    monkeypatch.setattr(long, "ROUNDS", 0)  # random weights are never understood

    def run(*words, stdin=b""):
        out = io.BytesIO()
        text = io.TextIOWrapper(out, write_through=True)
        monkeypatch.setattr(sys, "stdout", text)
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        status = main([str(w) for w in ("say", *words, "--model", model, "--candidates", 1)])
        return status, out.getvalue()

    return run


@pytest.fixture(scope="module")
def spoken(model):
    """A sound of the same model through the package's own door."""
    search = llasa_jax.Search(candidates=1)
    return llasa_jax.load(model, slots=1).say("hello there", search=search, seed=3)


def tags(path):
    with av.open(str(path)) as file:
        return dict(file.metadata) | dict(file.streams[0].metadata)


def test_a_file_of_text_becomes_a_sound_and_a_record(speak, tmp_path, model):
    (tmp_path / "t.txt").write_text(TEXT)
    out = tmp_path / "o.wav"
    status, printed = speak("--file", tmp_path / "t.txt", "-o", out, "--json")
    record = json.loads(printed)
    assert status == 0
    assert [one["text"] for one in record["sentences"]] == [TEXT[:11], TEXT[12:]]
    assert record["sentences"][0]["spoken"] == "It cost five dollars."
    assert record["sentences"][1]["stop"] == pytest.approx(record["audio_seconds"])
    assert record["searches"][0]["text"].startswith("It cost five dollars.")
    wave, rate = decode_audio(out.read_bytes(), "o")
    assert len(wave) / rate == pytest.approx(record["audio_seconds"])
    made = tags(out)
    assert "synthetic speech" in made["comment"] and "seed=0" in made["comment"]
    assert f"model={part_hash(model, 'lm')}" in made["comment"]


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"pcm"}))
def test_every_format_says_what_it_is(spoken, tmp_path, form):
    spoken.save(tmp_path / f"o.{form}")
    made = {key.lower(): value for key, value in tags(tmp_path / f"o.{form}").items()}
    assert "synthetic speech" in made["comment"] and "seed=3" in made["comment"]
    assert "licence" in made["copyright"] and "voice=s0" in made["comment"]


def test_standard_input_to_standard_output(speak, spoken):
    status, streamed = speak("-", "-o", "-", "--seed", 3, stdin=b"hello there\n")
    wave, rate = decode_audio(streamed, "o")
    assert status == 0 and rate == spoken.rate
    np.testing.assert_allclose(wave, np.clip(spoken.wave, -1, 1), atol=1e-4)


def test_only_an_installed_watermark_runs(speak, spoken, tmp_path, monkeypatch):
    def half(wave, rate):
        return wave / 2

    offered = [SimpleNamespace(name="half", load=lambda: half)]
    monkeypatch.setattr(provenance, "entry_points", lambda group: offered)
    out = tmp_path / "b.wav"
    assert speak("hello there", "-o", out, "--seed", 3, "--watermark", "half")[0] == 0
    marked, _ = decode_audio(out.read_bytes(), "b")
    np.testing.assert_allclose(marked, np.clip(spoken.wave / 2, -1, 1), atol=1e-4)


def test_without_a_loudspeaker_play_is_a_plain_error(speak, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert speak("hello", "--play")[0] == 2
    error = capsys.readouterr().err
    assert "--play:" in error and "write a file with -o" in error


def test_play_plays_what_is_spoken(speak, monkeypatch):
    played = []

    class Stream:
        def __init__(self, **settings):
            assert settings == {"samplerate": 16_000, "channels": 1, "dtype": "float32"}

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def write(self, frames):
            played.append(frames)

    fake = SimpleNamespace(
        OutputStream=Stream, check_output_settings=lambda **_: None, PortAudioError=OSError
    )
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    assert speak("hello there", "--play")[0] == 0
    assert played and all(f.shape[1:] == (1,) for f in played)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "say: give a text"),
        (("hello", "--file", "x.txt"), "say: give a text"),
        (("--file", "/none.txt"), "/none.txt: cannot be read as text"),
        (("...",), "has no letter to speak"),
        (("hello", "-o", "o.mp4"), "cannot write 'mp4'"),
        (("hello", "-o", "-", "--json"), "--json: standard output takes the sound"),
        (("hello", "--voice", "nobody"), "voice 'nobody': unknown"),
        (("hello", "--verifier", "loud=1"), "verifier loud: unknown"),
        (("hello", "--verifier", "content"), "expected NAME=NUMBER"),
        (("hello", "--watermark", "none"), "no installed package offers it"),
        (("a " * 100_001,), "at most 200000; split it"),
    ],
)
def test_bad_input_is_one_line(speak, capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert speak(*words)[0] == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_text_that_is_none_is_refused(speak, tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert speak("--file", tmp_path / "latin.txt")[0] == 2
    assert "cannot be read as text" in capsys.readouterr().err
    assert speak("-", stdin=b"a" * (say.MAX_BYTES + 1))[0] == 2
    assert "split the text" in capsys.readouterr().err
