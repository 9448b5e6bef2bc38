"""A model folder as something that speaks: its engine, its verifiers and its voices."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from llasa_jax import nn
from llasa_jax.codec.stream import StreamDecoder
from llasa_jax.config import GuardConfig, SamplerConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import part_hash
from llasa_jax.lm.model import Decoder
from llasa_jax.metrics.text import normalise
from llasa_jax.recipes import stages
from llasa_jax.recipes.voices import NamedVoice, load_voices
from llasa_jax.search.continuous import ContinuousBatch, Draw, heard
from llasa_jax.search.engine import Engine, Prompt, Task
from llasa_jax.search.sampler import Sampler
from llasa_jax.search.strategies import Pool
from llasa_jax.verifiers.itself import self_verifier
from llasa_jax.verifiers.recogniser import content_verifier
from llasa_jax.verifiers.speaker import speaker_verifier

WEIGHTS = {"content": 1.0, "speaker": 1.0}
VERIFIERS = ("content", "speaker", "self")
USUAL = "slt"  # of the shipped voices
MAX_TEXT = 300  # characters that are spoken at once; longer texts are split
LEAST_TEXT = 40
LEARNED_TEXT = 90  # the same of a model that was trained before it was kept how long its texts were
CHUNK_SECONDS = 1.0  # of a stream's chunk


class Voice:
    """The engine of a model folder, with its verifiers.

    Args:
        slots: takes that are drawn at once.
        verifiers: names of `VERIFIERS` that score every take; content and speaker always do.
        sampling: how takes are drawn; None: as the model says.

    Attributes:
        folder: the model's.

    Raises:
        UserError: if a part of the model is missing, damaged or of another configuration, or a
            verifier is unknown.
    """

    def __init__(
        self,
        model: Path,
        *,
        slots: int = 64,
        verifiers: Sequence[str] = (),
        sampling: SamplerConfig | None = None,
    ):
        for name in verifiers:
            if name not in VERIFIERS:
                raise UserError(f"verifier {name}: unknown, there are: {', '.join(VERIFIERS)}")
        self.folder = model = stages.model_folder(model)
        config, params, vocabulary, about = stages.load_language(model)
        graphdef, _ = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
        recogniser = stages.load_recogniser(model, "recogniser")
        speaker_config, speaker_params, means = stages.load_speaker(model)
        self.content = content_verifier(*recogniser, "content")
        self.speaker = speaker_verifier(speaker_config, speaker_params, "speaker")
        codec = stages.load_codec(model)
        if codec.config.codebook_size != config.codes:
            raise UserError(
                f"{model}: the codec has {codec.config.codebook_size} codes, the language model "
                f"{config.codes}; they belong to different runs"
            )
        learned = about.get("speakers", [])
        self.voices = load_voices(model) or {
            name: NamedVoice(name, means[name].tolist()) for name in learned if name in means
        }
        self.sampling = sampling or stages.load_sampling(model)
        self.guards = guards(codec.config.frame_rate, about.get("pace"))
        self.slots = slots
        self._about = about
        sampler = Sampler(graphdef, params, vocabulary, self.sampling, slots=slots)
        listening = [self.content, self.speaker]
        if "self" in verifiers:
            listening.append(self_verifier(config, params, vocabulary))
        self.engine = Engine(sampler, vocabulary, codec, listening, self.guards)
        self.stream_decoder = cache(self._stream_decoder)

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
        references, prompts = self.arguments(texts, speakers)
        return self.engine.pools(
            texts, references, candidates=candidates, seed=seed, prompts=prompts
        )

    def arguments(
        self, texts: Sequence[str], speakers: Sequence[str]
    ) -> tuple[list[tuple[np.ndarray, ...]], list[Prompt | None]]:
        """What each verifier compares with, and the prompt, for each text: as `Engine.pools` takes
        them; UserError as `pools`."""
        voices = [self.named(speaker) for speaker in speakers]
        references = [
            self._references(text, voice) for text, voice in zip(texts, voices, strict=True)
        ]
        return references, [voice.prompt for voice in voices]

    def _references(self, text: str, voice: NamedVoice) -> tuple[np.ndarray, ...]:
        said = self.content.reference(normalise(text), None)
        itself = [one.reference(text, None) for one in self.engine.verifiers[2:]]
        return said, np.array(voice.embedding, np.float32), *itself

    def task(self, text: str, voice: NamedVoice) -> Task:
        """One text to speak in a voice, which need not be among the model's.

        Raises:
            UserError: if the text cannot be spoken.
        """
        check_text(text)
        return self.engine.tasks([text], [self._references(text, voice)], [voice.prompt])[0]

    def stream(
        self, text: str, *, speaker: str, seed: int, chunk_seconds: float = CHUNK_SECONDS
    ) -> Iterator[np.ndarray]:
        """One take of a text while it is drawn: waves float32 [samples] at `engine.rate`.

        The first comes once the codes for a chunk are there, and those that the decoder wants to
        see after it (`StreamDecoder.latency`). Joined they are the take that a pool of one begins
        with, as near as the decoder's streams come to whole utterances (docs/codec.md).

        Args:
            chunk_seconds: of each wave but the last.

        Raises:
            UserError: if the text cannot be spoken or the speaker is unknown.
            TakeFailed: as soon as a guard refuses the take, be it after some of it was heard.
        """
        task = self.task(text, self.named(speaker))
        batch = ContinuousBatch(self.engine.sampler, 1, self.guards)
        with closing(batch.follow(Draw(task, seed))) as news:
            yield from heard(news, task, self.stream_decoder(chunk_seconds), self.guards)

    def _stream_decoder(self, seconds: float) -> StreamDecoder:
        config = self.engine.codec.config
        chunk = max(1, round(seconds * config.frame_rate))
        return StreamDecoder(config, self.engine.codec.params, chunk)

    def limit(self, voice: NamedVoice) -> int:
        """Characters of a text that a voice speaks at once: with its prompt's no more than the
        texts that the model learned from have."""
        if "longest" in self._about:
            left = round(self._about["longest"]) - len(voice.text)
            return min(MAX_TEXT, max(LEAST_TEXT, left))
        return MAX_TEXT if self._about.get("pace") is None else LEARNED_TEXT

    @cached_property
    def fingerprint(self) -> str:
        """What names the weights: hashes of the language model and the codec."""
        return "-".join(part_hash(self.folder, part) for part in ("lm", "codec"))

    @property
    def usual(self) -> str:
        """The voice that speaks where none is named."""
        return USUAL if USUAL in self.voices else next(iter(self.voices), "")

    def named(self, name: str) -> NamedVoice:
        """The voice of that name; UserError without."""
        if name not in self.voices:
            known = ", ".join(self.voices)
            raise UserError(f"voice {name!r}: unknown, there are: {known}; `llasa voices add`")
        return self.voices[name]


def guards(frame_rate: float, pace: float | None) -> GuardConfig:
    """The guards of a model: `GuardConfig`'s rates are of 50 codes a second.

    Args:
        frame_rate: codes a second.
        pace: codes a character of the slowest speech it learned from; longer takes are cut.
    """
    usual, scale = GuardConfig(), frame_rate / 50
    return replace(
        usual,
        min_codes=usual.min_codes * scale,
        max_codes=min(usual.max_codes * scale, np.inf if pace is None else pace),
        slack_codes=round(usual.slack_codes * scale),
        loop_codes=round(usual.loop_codes * scale),
    )


def check_text(text: str) -> None:
    """Refuses what cannot be spoken.

    Raises:
        UserError: if there is no letter in it, or it is too long.
    """
    if not normalise(text):
        raise UserError(f"text {text[:40]!r}: has no letter to speak; give words")
    if len(text) > MAX_TEXT:
        raise UserError(f"text: has {len(text)} characters, at most {MAX_TEXT}; split it")
