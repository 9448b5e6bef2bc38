"""Recogniser and speaker encoder learn speech of two tones within seconds."""

from dataclasses import dataclass

import numpy as np
import pytest

from llasa_jax.config import (
    OptimizerConfig,
    RecogniserConfig,
    RecogniserRun,
    SpeakerConfig,
    SpeakerRun,
    TrainConfig,
)
from llasa_jax.data.batches import speaker_crops, transcribed
from llasa_jax.data.utterance import Utterance
from llasa_jax.errors import UserError
from llasa_jax.training.loop import fit
from llasa_jax.training.recognition import (
    recogniser_objective,
    recogniser_validation,
    speaker_objective,
    speaker_validation,
    speakers_of,
)

RATE = 16000
TONES = {"a": 400.0, "b": 1600.0}
VOICES = {"low": 100.0, "high": 230.0}


@dataclass
class Waves:
    """A store in memory."""

    utterances: list[Utterance]
    waves: list[np.ndarray]
    rate: int = RATE

    def __getitem__(self, index: int) -> tuple[Utterance, np.ndarray]:
        return self.utterances[index], self.waves[index]

    def samples(self, index: int) -> int:
        return len(self.waves[index])


@pytest.fixture(scope="module")
def store() -> Waves:
    rng = np.random.default_rng(0)
    utterances, waves = [], []
    time = np.arange(RATE // 5) / RATE
    for i in range(48):
        text = "".join(rng.choice(list(TONES), 4))
        voice = list(VOICES)[i % 2]
        pulse = np.sign(np.sin(2 * np.pi * VOICES[voice] * time)) * 0.05
        tones = [np.sin(2 * np.pi * TONES[c] * time) * np.hanning(time.size) for c in text]
        wave = np.concatenate([0.2 * tone + pulse for tone in tones])
        waves.append((wave + rng.normal(0, 0.003, wave.size)).astype(np.float32))
        utterances.append(Utterance(str(i), text, voice, "en", "", "synthetic", "train"))
    return Waves(utterances, waves)


def training(steps: int, batch: int) -> TrainConfig:
    optimizer = OptimizerConfig(peak=5e-3, beta2=0.98)
    return TrainConfig(steps=steps, batch=batch, optimizer=optimizer, save_every=steps)


def test_a_recogniser_learns_to_hear(store, tmp_path):
    config = RecogniserConfig(alphabet="ab", dim=32, layers=2, width=3, mel_bins=40)
    run = RecogniserRun(config, training(200, 8))
    batches = transcribed(store, range(40), 8, run.max_seconds, "ab", 0)
    validate = recogniser_validation(run, store, range(40, 48))
    fitted = fit(recogniser_objective(run), batches, run.train, tmp_path, seed=0)
    assert validate(fitted.params, 0)["cer"] < 0.1


def test_without_held_out_text_it_says_so(store):
    with pytest.raises(UserError, match="no held-out recording"):
        recogniser_validation(RecogniserRun(RecogniserConfig(alphabet="xy")), store, range(4))


def test_a_speaker_encoder_learns_to_tell_voices_apart(store, tmp_path):
    run = SpeakerRun(
        SpeakerConfig(mel_bins=40, channels=16, layers=2, embedding=8), training(40, 8), 0.5
    )
    speakers = speakers_of(store, range(48))
    assert speakers == ["high", "low"]
    batches = speaker_crops(store, range(40), run.crop_seconds, 8, 0, speakers)
    fitted = fit(speaker_objective(run, speakers), batches, run.train, tmp_path, seed=0)
    assert set(fitted.params) == {"encoder", "classes"}
    assert (
        speaker_validation(run, store, range(40, 48), speakers)(fitted.params, 0)["accuracy"] > 0.9
    )
