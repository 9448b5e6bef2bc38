"""The voice that the package carries: it is whole, it is small, and it speaks."""

import json
import subprocess
import sys

import numpy as np
import pytest

from llasa_jax.audio.io import read_audio
from llasa_jax.data.utterance import split_of
from llasa_jax.metrics.text import character_errors
from llasa_jax.metrics.waves import si_sdr
from llasa_jax.recipes import stages
from llasa_jax.recipes.voice import USUAL, Voice
from llasa_jax.recipes.voices import SYNTHETIC, load_voices
from llasa_jax.search.continuous import ContinuousBatch
from llasa_jax.verifiers.recogniser import BatchRecogniser

NANO = stages.shipped_model()
PARTS = {"codec", "lm", "recogniser", "speaker"}
TEXT = "a small bird that sings at night"


def llasa(*arguments: object, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "llasa_jax", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=280)


def test_it_is_whole_and_small():
    files = [path for path in NANO.rglob("*") if path.is_file()]
    assert {path.stem for path in files if path.suffix == ".safetensors"} == PARTS
    assert sum(path.stat().st_size for path in files) <= 24 * 2**20
    card = (NANO / "README.md").read_text()
    for part in ("Data", "Licence", "Limits", "must not be used", "FLOPs"):
        assert part in card


def test_its_voices_are_synthetic_and_say_what_was_not_trained_on():
    voices = load_voices(NANO)
    assert len(voices) >= 8 and USUAL in voices
    for voice in voices.values():
        assert voice.consent == SYNTHETIC
        assert split_of("", voice.text.rstrip(".").partition(". ")[0]) == "valid"


def test_without_a_model_it_speaks(tmp_path):
    done = llasa("say", TEXT, "--candidates", 8, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["voice"] == USUAL
    wave, rate = read_audio(tmp_path / "out.wav")
    assert rate == 16000 and 1.0 < len(wave) / rate < 4.0
    (search,) = record["searches"]
    assert search["candidates"][search["choices"]["8"]]["status"] == "ok"
    recogniser = BatchRecogniser(*stages.load_recogniser(NANO, "recogniser"))
    heard = recogniser.transcribe([wave])
    assert character_errors([TEXT], heard).rate < 0.4, heard


def test_it_is_heard_while_it_speaks(monkeypatch):
    """The first sound comes before the take is whole, and all of it is that of a pool of one."""
    speaker = Voice(NANO, slots=1)
    text = f"{TEXT}, and another one that answers from the other side"
    (pool,), _ = speaker.pools([text], [USUAL], candidates=1, seed=3)
    steps, first, step = [], None, ContinuousBatch.step
    monkeypatch.setattr(ContinuousBatch, "step", lambda self: steps.append(1) or step(self))
    waves = []
    for wave in speaker.stream(text, speaker=USUAL, seed=3):
        first = first or len(steps)
        waves.append(wave)
    streamed, whole = np.concatenate(waves), pool.waves[0]
    assert first < len(steps) / 2 and len(waves) > 3
    assert len(streamed) == len(whole)
    assert si_sdr(whole, streamed) > 20  # docs/codec.md: 20 dB for chunks of 2 s


@pytest.mark.network
@pytest.mark.timeout(600)
def test_it_is_measured(tmp_path):
    words = ["eval", "nano", "--utterances", 4, "--json", "--out", tmp_path / "eval"]
    done = llasa(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for n in (1, 16):
        assert 0 <= found[f"wer_n{n}"] and found[f"failures_n{n}"] in range(5)
        assert found[f"rtf_n{n}"] > 0 and np.sum(found[f"confusion_n{n}"]) == 4
    assert found["wer_original"] < 1 and len(found["wer_codec_interval"]) == 2
    assert (tmp_path / "eval" / "nano.html").is_file()


def test_sentences_that_cannot_be_said_are_one_line(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "signs.txt").write_text("hello\n...\n")
    for name, message in (
        ("empty", "holds no sentence"),
        ("signs", "has no letter"),
        ("none", "cannot be read"),
    ):
        done = llasa("eval", "nano", "--sentences", tmp_path / f"{name}.txt")
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert done.stderr.splitlines()[-1].startswith("llasa: error: ")
