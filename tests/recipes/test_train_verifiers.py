"""`llasa train` of a recogniser and a speaker encoder, through the command line."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from llasa_jax import cli
from llasa_jax.config import RecogniserConfig
from llasa_jax.data import batches
from llasa_jax.data.corpora import StoreCorpus
from llasa_jax.data.store import WaveStore
from llasa_jax.interop.bundle import save_part
from llasa_jax.recipes import stages
from llasa_jax.recipes.stages import load_recogniser, load_speaker
from llasa_jax.training.record import read_curve
from llasa_jax.verifiers.recogniser import init_recogniser

RUNS = {
    "recogniser": "RecogniserRun(RecogniserConfig(mel_bins=8, dim=8, layers=1, width=3), TRAIN)",
    "speaker": "SpeakerRun(SpeakerConfig(mel_bins=8, channels=8, layers=1, embedding=4), TRAIN)",
}


class Words(StoreCorpus):
    """The same sounds with a text that a recogniser can learn."""

    def utterances(self):
        return [replace(one, text="one Two three") for one in super().utterances()]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tones):
    """A folder with a store and a configuration of each verifier."""
    folder = tmp_path_factory.mktemp("verifiers")
    WaveStore.build([Words(tones)], folder / "corpus")
    train = "TrainConfig(steps=4, batch=4, log_every=2, valid_every=4, save_every=2)"
    for name, run in RUNS.items():
        text = f"from llasa_jax.config import *\nTRAIN = {train}\n\ndef get_config():\n"
        (folder / f"{name}.py").write_text(f"{text}    return {run}\n")
    return folder


def command(place, name, *more):
    words = ("train", place / f"{name}.py", "--out", place, "--set", "train.compile_cache=False")
    return [str(word) for word in (*words, *more)]


@pytest.mark.parametrize("name", RUNS)
def test_a_verifier_is_trained_on_a_store_and_goes_on_where_it_stopped(place, name):
    line = command(place, name, "--store", place / "corpus")
    assert cli.main(line) == 0
    curve = read_curve(place / name / "curve.csv")
    assert curve[-1]["step"] == 4
    file = place / "model" / f"{name}.safetensors"
    made = file.read_bytes()
    if name == "speaker":
        assert list(load_speaker(place / "model")[2]) == ["s0", "s1"]
    else:
        assert load_recogniser(place / "model", name)[0].alphabet == " ehnortw"
    assert cli.main(line) == 0  # all its steps are done: the same model
    assert file.read_bytes() == made and read_curve(place / name / "curve.csv") == curve


def test_a_recogniser_goes_on_from_another_with_its_part_of_the_recordings(
    place, tmp_path, monkeypatch
):
    given = RecogniserConfig(mel_bins=8, dim=8, layers=1, width=3, alphabet=" enotw")
    params = init_recogniser(given, jax.random.key(0))
    save_part(tmp_path / "given", "recogniser", given, params)
    heard = []

    def transcribed(store, indices, *more, **settings):
        heard.extend(indices)
        return batches.transcribed(store, indices, *more, **settings)

    monkeypatch.setattr(stages, "transcribed", transcribed)
    more = ("--init", tmp_path / "given", "--out", tmp_path / "out", "--set", "part=(1, 2)")
    more += ("--set", "train.optimizer.peak=1e-9", "--set", "speed=1.1", "--set", "train.steps=1")
    assert cli.main(command(place, "recogniser", "--store", place / "corpus", *more)) == 0
    config, made = load_recogniser(tmp_path / "out" / "model", "recogniser")
    assert config.alphabet == " ehnortw"
    first = made["stem1"]["kernel"]
    np.testing.assert_allclose(first, params["stem1"]["kernel"], atol=1e-6)
    every = WaveStore.open(place / "corpus").select(split="train", with_text=True)
    assert heard == every[1::2] and len(heard) == 10


def test_what_no_training_begins_with_is_one_line(place, tmp_path, capsys):
    line = command(place, "speaker", "--store", place / "corpus", "--init", tmp_path)
    assert cli.main(line) == 2
    assert "a speaker encoder begins with random numbers" in capsys.readouterr().err
    line = command(place, "recogniser", "--store", place / "corpus", "--set", "part=(3, 3)")
    assert cli.main(line) == 2
    assert "part: (k, n) with k from 0 to n - 1" in capsys.readouterr().err


def test_what_a_run_is_not_trained_on_is_one_line(place, capsys):
    for more in ((), ("--tokens", "t"), ("--store", place / "corpus", "--tokens", "t")):
        assert cli.main(command(place, "speaker", *more)) == 2
        assert "is trained on --store, not on --tokens" in capsys.readouterr().err
    assert cli.main(["train", "quickstart_codec", "--out", str(place), "--store", "s"]) == 2
    assert "DecoderRun or RecogniserRun or SpeakerRun" in capsys.readouterr().err
