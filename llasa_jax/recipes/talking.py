"""Lists spoken by a model, in the ways of the paper's tables.

Every utterance hangs on its own text, voice, model and settings alone: its randomness is drawn
from their hash, so that it sounds the same in any list, and can be kept by that hash.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from llasa_jax import nn
from llasa_jax.audio.io import read_audio, resample
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.config import BeamConfig, GuardConfig
from llasa_jax.errors import UserError
from llasa_jax.evaluation.lists import EvalSet, Item
from llasa_jax.evaluation.scorers import RATE, Listeners
from llasa_jax.interop.bundle import part_hash
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.metrics import seed_tts
from llasa_jax.metrics.text import normalise
from llasa_jax.parallel.mesh import make_mesh
from llasa_jax.recipes import stages
from llasa_jax.recipes.voice import guards
from llasa_jax.recipes.voices import load_voices
from llasa_jax.search.beam import beam_pools
from llasa_jax.search.engine import Engine, Prompt
from llasa_jax.search.sampler import Sampler
from llasa_jax.search.strategies import Pool
from llasa_jax.search.take import OK

STRATEGIES = {
    "direct": "direct sampling",
    "best-of": "best-of-N",
    "partial": "partial process reward",
    "partial+best-of": "partial process reward + best-of-N",
    "truth": "the recordings themselves",
    "codec": "the recordings through the codec",
}
RECORDED = ("truth", "codec")
SEARCHED = ("partial", "partial+best-of")
WORDS = "-wer"  # ends the name of a judge whose word errors choose
SLOTS = 64
VERSION = 1  # of what is kept
NO_SOUND = "no_sound"  # nothing was spoken, or no recording is there


@dataclass(frozen=True)
class TalkSettings:
    """How lists are spoken.

    Attributes:
        strategies: of `STRATEGIES`, a row of the table each.
        candidates, beams, step_codes, prefix_seconds, completions: as of `BeamConfig`; of best-of,
            `candidates` takes.
        lead: the verifier that leads beams, and chooses where nothing else does.
        select: what chooses among ended takes: a verifier, or a judge's word error ("whisper-wer"),
            of which a tie goes to the take that `lead` prefers.
        chunk: texts of more characters are spoken in parts: in two over `chunk`, in three over
            twice as many, and so on. None: never.
    """

    strategies: tuple[str, ...] = ("direct",)
    candidates: int = 16
    beams: int = 16
    step_codes: int = 25
    prefix_seconds: float = 2.0
    completions: int | None = None
    lead: str = "speaker"
    select: str = "content"
    chunk: int | None = None
    seed: int = 0

    def __post_init__(self):
        for name in self.strategies:
            if name not in STRATEGIES:
                raise UserError(f"--strategy {name}: give some of {', '.join(STRATEGIES)}")
        if not self.strategies or self.candidates < 1:
            raise UserError("eval tts: name a strategy, and at least one candidate")
        if self.chunk is not None and self.chunk < 1:
            raise UserError(f"--chunk {self.chunk}: give a number of characters")
        _ = self.beam

    @property
    def beam(self) -> BeamConfig:
        sizes = self.beams, self.candidates, self.step_codes
        return BeamConfig(*sizes, self.prefix_seconds, self.completions)

    def choosing(self, strategy: str) -> list[str]:
        """Names of the verifiers and judges that take part in a strategy's choice."""
        used = {"best-of": [self.select], "partial": [self.lead]}
        return used.get(strategy, [self.lead, self.select] if strategy in SEARCHED else [])

    def of(self, strategy: str) -> dict[str, Any]:
        """What a strategy's speech hangs on."""
        if strategy in RECORDED:
            return {"strategy": strategy}
        found = {"strategy": strategy, "seed": self.seed, "chunk": self.chunk}
        if strategy == "best-of":
            found |= {"candidates": self.candidates, "select": self.select}
        if strategy in SEARCHED:
            found |= asdict(self.beam) | {"lead": self.lead}
        return found | ({"select": self.select} if strategy == "partial+best-of" else {})


class Spoken(NamedTuple):
    """A wave float32 [samples] at 16 kHz, or None; and what is known of it, JSON-able."""

    wave: np.ndarray | None
    about: dict[str, Any]


class Voiced(NamedTuple):
    """Whose voice speaks: its recording at the codec's rate (None: only codes are known), what the
    model is given, and a name."""

    wave: np.ndarray | None
    prompt: Prompt
    name: str


class Part(NamedTuple):
    """An item's text, or a part of it, with what each verifier compares with, and the prompt."""

    item: Item
    text: str
    references: tuple[np.ndarray, ...]
    prompt: Prompt | None


class Talker:
    """A model folder that speaks lists.

    Raises:
        UserError: if a part of the model, or a verifier's weights, are missing or do not fit.
    """

    def __init__(self, model: Path, settings: TalkSettings, which: EvalSet, listeners: Listeners):
        self.model, self.settings, self.which = stages.model_folder(model), settings, which
        self.listeners = listeners.of(self.model)
        # Alone it says what needs no language model: recordings, and what the codec makes of them.
        self.codec: BatchCodec = stages.load_codec(self.model)
        self.voices = load_voices(self.model)
        self.voiced = cache(self._voiced)
        self.hash_of, self.key = cache(_file_hash), cache(self.key)
        self.targets: dict[tuple, np.ndarray] = {}  # embeddings of prompts, by judge and recording
        self._sampler: tuple[Sampler, Vocabulary, GuardConfig] | None = None

    def release(self) -> None:
        """Lets go of the weights that speak: another model's are to come."""
        self._sampler, self.codec = None, None

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Hashes of the model's parts that speak."""
        found = (p for p in ("codec", "lm") if (self.model / f"{p}.safetensors").is_file())
        return {part: part_hash(self.model, part) for part in found}

    def _sampling(self) -> tuple[Sampler, Vocabulary, GuardConfig]:
        """Made at the first use: a run that finds everything done needs none."""
        if self._sampler is not None:
            return self._sampler
        settings, speaking = self.settings, self.settings.strategies
        config, params, vocabulary, about = stages.load_language(self.model)
        if self.codec.config.codebook_size != config.codes:
            raise UserError(
                f"{self.model}: the codec has {self.codec.config.codebook_size} codes, the "
                f"language model {config.codes}; they belong to different runs"
            )
        graphdef, _ = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
        widths = [settings.beam.width] if set(speaking) & set(SEARCHED) else []
        widths += [settings.candidates] if "best-of" in speaking else []
        devices = jax.local_devices()
        sampler = Sampler(
            graphdef,
            params,
            vocabulary,
            stages.load_sampling(self.model),
            slots=max(SLOTS, *widths, 0),
            mesh=make_mesh(data=len(devices), fsdp=1, devices=devices) if devices[1:] else None,
        )
        limits = guards(self.codec.config.frame_rate, about.get("pace"))
        if self.which.continues:  # the text's beginning is not spoken: it may be as short as it is
            limits = replace(limits, min_codes=1e-3)
        self._sampler = sampler, vocabulary, limits
        return self._sampler

    def engine(self, strategies: Sequence[str]) -> Engine:
        """What speaks, with the verifiers that take part in these strategies' choices."""
        sampler, vocabulary, limits = self._sampling()
        names = [name for strategy in strategies for name in self.settings.choosing(strategy)]
        names = [name for name in dict.fromkeys(names) if not name.endswith(WORDS)]
        verifiers = [self.listeners.verifier(name) for name in names]
        return Engine(sampler, vocabulary, self.codec, verifiers, limits)

    def _voiced(self, item: Item) -> Voiced | None:
        """The voice that an item is to be spoken in; None if the model has none.

        Raises:
            UserError: the item's recording is missing or broken, or nobody says what it says.
        """
        rate = self.codec.config.sample_rate
        if item.prompt is None:
            if not self.voices:
                return None
            names = list(self.voices)
            named = self.voices[names[_number(item.id) % len(names)]]
            return None if named.prompt is None else Voiced(None, named.prompt, named.name)
        wave, _ = read_audio(item.prompt, rate)
        if self.which.continues:
            wave = wave[: round(self.which.continues * rate)]
        elif not item.prompt_text:
            raise UserError(f"{item.prompt}: what does it say? the list has no prompt text for it")
        (codes,) = self.codec.encode([wave], length="inference")
        return Voiced(wave, Prompt(item.prompt_text, codes), item.prompt.name)

    def heard_voice(self, item: Item) -> dict[str, np.ndarray]:
        """Waves at 16 kHz that an item's speech is compared with: the prompt itself ("o"), and as
        the codec gives it back ("r"); those that there are."""
        voiced = self.voiced(item)
        if voiced is None:
            return {}
        (wave,) = self.codec.decode([voiced.prompt.codes])
        found = {"r": resample(wave, self.codec.config.output_rate, RATE)}
        if voiced.wave is not None:
            found["o"] = resample(voiced.wave, self.codec.config.sample_rate, RATE)
        return found

    def key(self, item: Item, strategy: str) -> str:
        """Names what an item's speech hangs on, in twenty hexadecimal digits."""
        if item.prompt is not None:
            voice = self.hash_of(item.prompt)
        else:
            voice = hashlib.sha256(repr(self.voices).encode()).hexdigest()
        what = {
            "version": VERSION,
            "model": self.fingerprint if strategy != "truth" else {},
            "sources": {
                name: self.listeners.source(name.removesuffix(WORDS))
                for name in self.settings.choosing(strategy)
            },
            "settings": self.settings.of(strategy),
            "text": item.text,
            "voice": [voice, item.prompt_text, self.which.continues],
            "truth": self.hash_of(item.truth) if strategy in RECORDED else "",
            "id": item.id,
        }
        if strategy not in RECORDED:
            what["sampler"] = asdict(stages.load_sampling(self.model))
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]

    def speak(self, items: Sequence[Item], strategies: Sequence[str]) -> dict[str, list[Spoken]]:
        """What each strategy makes of the items, in their order."""
        found = {}
        for strategy in RECORDED:
            if strategy in strategies:
                found[strategy] = [self._recorded(item, strategy) for item in items]
        for group in (("direct",), ("best-of",), SEARCHED):
            wanted = [strategy for strategy in group if strategy in strategies]
            if wanted:
                found |= self._search(items, wanted)
        return found

    def _recorded(self, item: Item, strategy: str) -> Spoken:
        try:
            if item.truth is None:
                raise UserError(f"{item.id}: the list has no recording of this text")
            rate = RATE if strategy == "truth" else self.codec.config.sample_rate
            wave, _ = read_audio(item.truth, rate)
            if strategy == "codec":
                (wave,) = self.codec.decode(self.codec.encode([wave], length="inference"))
                wave = resample(wave, self.codec.config.output_rate, RATE)
            return Spoken(wave, {"status": OK})
        except UserError as error:
            return Spoken(None, _failed(error))

    def _search(self, items: Sequence[Item], strategies: Sequence[str]) -> dict[str, list[Spoken]]:
        """Strategies that choose from the same pools."""
        found: dict[str, dict[str, Spoken]] = {strategy: {} for strategy in strategies}
        parts: list[Part] = []
        engine = self.engine(strategies)
        for item in items:
            try:
                texts = split_text(item.text, self.settings.chunk)
                parts += [self._part(engine, item, text) for text in texts]
            except UserError as error:
                for strategy in strategies:
                    found[strategy][item.id] = Spoken(None, _failed(error))
        pools = self._pools(engine, parts, strategies[0]) if parts else []
        for strategy in strategies:
            chosen: dict[str, list[tuple[Pool, int]]] = {}
            for part, pool in zip(parts, pools, strict=True):
                place = self._choose(pool, part.text, strategy)
                chosen.setdefault(part.item.id, []).append((pool, place))
            for name, own in chosen.items():
                found[strategy][name] = self._joined(own, strategy)
        return {name: [own[item.id] for item in items] for name, own in found.items()}

    def _part(self, engine: Engine, item: Item, text: str) -> Part:
        """A text with what it is spoken with; UserError as `voiced`, or without a voice that a
        verifier needs."""
        voiced, verifiers = self.voiced(item), engine.verifiers
        heard = self.heard_voice(item) if verifiers else {}
        wave = heard.get("o", heard.get("r"))
        said = normalise(text)  # as the in-project recogniser writes
        references = [
            one.reference(said if one.name == "content" else text, wave) for one in verifiers
        ]
        return Part(item, text, tuple(references), None if voiced is None else voiced.prompt)

    def _pools(self, engine: Engine, parts: Sequence[Part], strategy: str) -> list[Pool]:
        settings = self.settings
        texts = [part.text for part in parts]
        given = {
            "references": [part.references for part in parts],
            "prompts": [part.prompt for part in parts],
            "keys": [_number(f"{part.item.id}\n{part.text}") for part in parts],
            "seed": settings.seed,
        }
        if strategy in SEARCHED:
            weights = {settings.lead: 1.0}
            return beam_pools(engine, texts, config=settings.beam, weights=weights, **given)[0]
        candidates = 1 if strategy == "direct" else settings.candidates
        return engine.pools(texts, candidates=candidates, **given)[0]

    def _choose(self, pool: Pool, text: str, strategy: str) -> int:
        """Place of the take that a strategy keeps; failures only where there is nothing else."""
        if strategy == "direct":
            return 0
        lead = pool.scores.get(self.settings.lead, np.zeros(len(pool.takes)))
        first = lead
        if strategy != "partial":
            first = self._selecting(pool, text)
        failed = [status != OK for status in pool.statuses]
        return min(range(len(pool.takes)), key=lambda i: (failed[i], -first[i], -lead[i], i))

    def _selecting(self, pool: Pool, text: str) -> np.ndarray:
        name = self.settings.select
        if not name.endswith(WORDS):
            return pool.scores[name]
        rate = self.codec.config.output_rate
        waves = [resample(wave, rate, RATE) for wave in pool.waves]
        heard = self.listeners.scorer(name.removesuffix(WORDS)).judge(waves)
        language = self.which.language
        return np.array([-seed_tts.errors(text, one, language).rate for one in heard])

    def _joined(self, chosen: Sequence[tuple[Pool, int]], strategy: str) -> Spoken:
        """The takes of a text's parts, one after the other."""
        waves = [pool.waves[place] for pool, place in chosen]
        statuses = [pool.statuses[place] for pool, place in chosen]
        wave = np.concatenate(waves)
        about = {
            "status": next((status for status in statuses if status != OK), OK),
            "codes": sum(len(pool.takes[place].codes) for pool, place in chosen),
            "tokens": int(sum(pool.tokens for pool, _ in chosen)),
            "takes": sum(len(pool.takes) for pool, _ in chosen),
            "parts": len(chosen),
            "verified": {
                name: float(np.mean([pool.scores[name][place] for pool, place in chosen]))
                for name in chosen[0][0].scores
                if name in self.settings.choosing(strategy)
            },
        }
        if not len(wave):
            return Spoken(None, about | {"status": NO_SOUND, "why": "not one code was drawn"})
        return Spoken(resample(wave, self.codec.config.output_rate, RATE), about)


def _failed(error: UserError) -> dict[str, Any]:
    return {"status": NO_SOUND, "why": str(error)}


def _number(text: str) -> int:
    """A number under 2^30 that hangs on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 2


def _file_hash(path: Path | None) -> str:
    """Of a recording's bytes; empty where there is none."""
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_text(text: str, most: int | None) -> list[str]:
    """A text in 1 + (characters - 1) // `most` parts of about equal length, as the paper cuts hard
    sentences: two parts over 100 characters, three over 200.

    Where it is cut the paper does not say: here at the stop nearest to each equal cut, else at the
    comma, else at the blank, if one lies within half a part of it, else between two characters.
    """
    text = text.strip()
    count = 1 if most is None else 1 + (len(text) - 1) // most
    if count < 2:
        return [text]
    size, cuts = len(text) / count, [0]
    for place in (round(size * i) for i in range(1, count)):
        cuts.append(_cut_near(text, place, cuts[-1], round(size / 2)))
    parts = [text[a:b].strip() for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
    return [part for part in parts if seed_tts.normalise(part, "en").strip()]


def _cut_near(text: str, place: int, least: int, reach: int) -> int:
    """The cut after a sign that is nearest to `place`, after `least`."""
    ends: tuple[Callable[[str], bool], ...] = (
        lambda sign: sign in ".!?;。！？；…",
        lambda sign: sign in ",:，：、",
        str.isspace,
    )
    near = range(max(least + 1, place - reach), min(len(text), place + reach) + 1)
    for ends_here in ends:
        found = [i for i in near if ends_here(text[i - 1])]
        if found:
            return min(found, key=lambda i: (abs(i - place), i))
    return max(place, least + 1)
