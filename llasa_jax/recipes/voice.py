"""A model folder as something that speaks: its engine, its verifiers and its voices."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from llasa_jax import nn
from llasa_jax.audio.io import write_audio
from llasa_jax.config import GuardConfig, SamplerConfig
from llasa_jax.console import log
from llasa_jax.errors import UserError
from llasa_jax.lm.model import Decoder
from llasa_jax.metrics.text import normalise
from llasa_jax.recipes import stages
from llasa_jax.search.engine import Engine
from llasa_jax.search.record import search_record
from llasa_jax.search.sampler import Sampler
from llasa_jax.search.strategies import Pool, best_of
from llasa_jax.verifiers.recogniser import content_verifier
from llasa_jax.verifiers.speaker import speaker_verifier

WEIGHTS = {"content": 1.0, "speaker": 1.0}
MAX_TEXT = 300  # characters; longer texts are for a splitter
MAX_CANDIDATES = 256


class Voice:
    """The engine of a model folder, with content and speaker verifiers.

    Raises:
        UserError: if a part of the model is missing, damaged or of another configuration.
    """

    def __init__(self, model: Path, *, slots: int = 64):
        model = stages.model_folder(model)
        config, params, vocabulary = stages.load_language(model)
        graphdef, _ = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
        recogniser = stages.load_recogniser(model, "recogniser")
        speaker_config, speaker_params, self.voices = stages.load_speaker(model)
        self.content = content_verifier(*recogniser, "content")
        self.speaker = speaker_verifier(speaker_config, speaker_params, "speaker")
        about = json.loads((model / "voice.json").read_text())
        self.spoken: list[str] = about["speakers"]
        self.sampling, self.guards, self.slots = SamplerConfig(), guards(about), slots
        sampler = Sampler(graphdef, params, vocabulary, self.sampling, slots=slots)
        codec = stages.load_codec(model)
        if codec.config.codebook_size != config.codes:
            raise UserError(
                f"{model}: the codec has {codec.config.codebook_size} codes, the language model "
                f"{config.codes}; they belong to different runs"
            )
        self.engine = Engine(sampler, vocabulary, codec, [self.content, self.speaker], self.guards)

    @property
    def settings(self) -> dict:
        """What sampled and guarded the takes, for the record."""
        return {"sampler": asdict(self.sampling), "guards": asdict(self.guards)}

    def pools(
        self, texts: Sequence[str], speakers: Sequence[str], *, candidates: int, seed: int
    ) -> tuple[list[Pool], float]:
        """A pool of takes for each text in the voice of each speaker, and the seconds it took.

        Raises:
            UserError: if a text holds nothing to say or a speaker is unknown.
        """
        references = [
            (self.content.reference(normalise(text), None), self.embedding(speaker))
            for text, speaker in zip(texts, speakers, strict=True)
        ]
        return self.engine.pools(texts, references, candidates=candidates, seed=seed)

    def embedding(self, speaker: str) -> np.ndarray:
        """The mean unit embedding of a voice, float32 [E]."""
        if speaker not in self.voices:
            raise UserError(f"voice {speaker!r}: unknown, there are: {', '.join(self.spoken)}")
        return self.voices[speaker]


def slowest(codes: Sequence[int], texts: Sequence[str]) -> float:
    """Codes a character that one of a thousand utterances exceeds, of their numbers of codes."""
    rates = [count / len(text.strip()) for count, text in zip(codes, texts, strict=True)]
    return float(np.quantile(rates, 0.999))


def guards(about: dict) -> GuardConfig:
    """The guards of a voice: a take is cut where it is slower than the speech it learned from."""
    usual = GuardConfig()
    return replace(usual, max_codes=min(usual.max_codes, about.get("max_codes", np.inf)))


def say(
    text: str, *, model: Path, out: Path, candidates: int, voice: str | None, seed: int
) -> dict:
    """Speaks `text` into the file `out` and returns the search's record.

    Draws `candidates` takes, scores them by content and by closeness to the voice, keeps the best.

    Raises:
        UserError: if the text holds no letter or is too long, or the model cannot be used.
    """
    check_text(text)
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise UserError(f"--candidates {candidates}: give from 1 to {MAX_CANDIDATES}")
    if out.suffix.lower() not in (".wav", ".flac"):
        raise UserError(f"{out}: can write .wav and .flac")
    speaker = Voice(model, slots=candidates)
    name = voice or speaker.spoken[0]
    (pool,), seconds = speaker.pools([text], [name], candidates=candidates, seed=seed)
    place = best_of(pool, WEIGHTS)
    wave, rate = pool.waves[place], speaker.engine.rate
    write_audio(out, wave, rate)
    record = search_record(
        pool,
        WEIGHTS,
        {candidates: place},
        strategy="best-of",
        seconds=seconds,
        seed=seed,
        settings=speaker.settings,
    )
    length = len(wave) / rate
    record |= {"out": str(out), "voice": name, "audio_seconds": length, "rtf": seconds / length}
    chosen = record["candidates"][place]
    scores = ", ".join(f"{name} {value:.3f}" for name, value in chosen["scores"].items())
    log(
        f"{out}: {length:.2f} s of audio in {seconds:.2f} s (real-time factor "
        f"{record['rtf']:.2f}), take {place + 1} of {candidates}, {chosen['status']}: {scores}"
    )
    return record


def check_text(text: str) -> None:
    """Refuses what cannot be spoken.

    Raises:
        UserError: if there is no letter in it, or it is too long.
    """
    if not normalise(text):
        raise UserError(f"text {text[:40]!r}: has no letter to speak; give words")
    if len(text) > MAX_TEXT:
        raise UserError(f"text: has {len(text)} characters, at most {MAX_TEXT}; split it")
