"""Held-out speech of corpora, as lists."""

import numpy as np
import pytest

from llasa_jax import cli
from llasa_jax.audio.io import read_audio
from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError
from llasa_jax.recipes import eval_sets


def test_the_shipped_voices_list_has_recordings_of_both(tmp_path, monkeypatch):
    class Corpus:
        identities = eval_sets.FliteEnglish.identities

        def __init__(self, cache):
            pass

        def held_out(self, count):
            return [f"held out sentence number {i} of a few words" for i in range(count)]

        def speak(self, text, name):
            return np.full(800, 0.1, np.float32), 8000

    monkeypatch.setattr(eval_sets, "FliteEnglish", Corpus)
    monkeypatch.setenv("LLASA_JAX_CACHE", str(tmp_path))
    which = eval_sets.flite_set(10)
    assert which.name == "flite-en" and len(which.items) == 10
    first = which.items[0]
    assert first.prompt.is_file() and first.truth.is_file() and first.prompt_text != first.text
    assert which.items[8].prompt == first.prompt  # eight identities
    assert eval_sets.flite_set(10).hash == which.hash


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLASA_JAX_CACHE", str(tmp_path / "cache"))


def test_a_stores_held_out_speech_is_a_list(tones, cache, monkeypatch):
    monkeypatch.setattr(eval_sets, "SECONDS", (0.4, 10.0))
    which, store = eval_sets.the_set(str(tones), None, None), WaveStore.open(tones)
    held = {i: store.utterances[i] for split in ("test", "valid") for i in store.select(split)}
    prompts = {item.prompt.name: item for item in which.items}
    assert which.name == "store" and which.language == "en" and not which.refused
    assert len(prompts) == 2 and len(which.items) == len(held) - 2
    splits = [held[int(item.id)].split for item in which.items]
    assert splits == sorted(splits) and set(splits) == {"test", "valid"}
    for item in which.items:
        own, prompt = held[int(item.id)], held[int(item.prompt.stem)]
        assert (item.text, item.prompt_text) == (own.text.strip(), prompt.text.strip())
        assert own.speaker == prompt.speaker and item.prompt.stem not in [x.id for x in which.items]
        wave = read_audio(item.truth)[0]
        np.testing.assert_allclose(wave, store[int(item.id)][1], atol=1e-4)
    of_first = [i for i in held if held[i].speaker == "s0" and held[i].split == "valid"] or [
        i for i in held if held[i].speaker == "s0"
    ]
    nearest = min(of_first, key=lambda i: abs(store.samples(i) / store.rate - 2.5))
    assert f"{nearest:06d}.wav" in prompts
    assert eval_sets.the_set(str(tones), None, 3).hash == which.first(3).hash


def test_a_store_without_held_out_speech_is_one_line(tones, cache, speaking_model, capsys):
    with pytest.raises(UserError, match="no speaker has two held-out recordings of 1 to 10 s"):
        eval_sets.store_set(tones)  # all under a second
    words = ["eval", "tts", tones, "--model", speaking_model, "--scorer", "content"]
    assert cli.main([str(word) for word in words]) == 2
    assert "no speaker has two held-out recordings" in capsys.readouterr().err
