"""`llasa quickstart`: the whole path at a small size, from a corpus to a report to listen to.

Every stage leaves its result in the run's folder; interrupted and started again, the run goes on
where it stopped.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llasa_jax.config import (
    CodecRun,
    DataRun,
    DecoderRun,
    FilterConfig,
    RecogniserRun,
    SpeakerRun,
    load_config,
)
from llasa_jax.console import log
from llasa_jax.data.codes import read_codes
from llasa_jax.data.corpora import NAMES, named_corpus
from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError
from llasa_jax.metrics.ngram import Bigram, Unigram, cross_entropy
from llasa_jax.recipes import measure, stages
from llasa_jax.recipes.memory import PeakMemory
from llasa_jax.recipes.prepare import prepare
from llasa_jax.recipes.say import say
from llasa_jax.recipes.strategy import Search

MINUTES = 15.0  # for which the configurations' numbers of steps are meant
ENGLISH = ("quickstart-synthetic", "asterisk-en", "fillets-nl", "fillets-cs")
SYNTHETIC_MINUTES = 66.0
GREETING = "a small bird that sings at night"

# Seconds each training may take with the default minutes, compiling included; a slow machine makes
# fewer steps. The corpus, speaking and judging take four more minutes on two slow cores.
BUDGETS = {"recogniser": 65.0, "judge": 65.0, "speaker": 20.0, "codec": 590.0, "lm": 105.0}


@dataclass(frozen=True)
class Quickstart:
    """One run: its settings and its folder."""

    out: Path
    minutes: float
    corpus: str | None
    seed: int

    @property
    def english(self) -> bool:
        """The default corpus: paired speech is synthetic English, and pocketsphinx can judge."""
        return self.corpus is None

    @property
    def model(self) -> Path:
        return self.out / "model"

    def config(self, name: str, kind: type) -> Any:
        """A quickstart configuration, its steps scaled to the run's minutes."""
        run = load_config(f"quickstart_{name}", kind)
        steps = max(20, round(run.train.steps * self.minutes / MINUTES))
        return replace(run, train=replace(run.train, steps=steps))

    def budget(self, name: str) -> float:
        return BUDGETS[name] * self.minutes / MINUTES

    def store(self) -> WaveStore:
        return WaveStore.open(self.out / "corpus")

    def spoken(self, store: WaveStore, split: Literal["train", "valid", "test"]) -> list[int]:
        """The paired utterances that recogniser and language model learn from."""
        kind = "synthetic" if self.english else None
        return store.select(split=split, kind=kind, with_text=True)


def quickstart(out: Path, minutes: float, corpus: str | None, seed: int) -> dict[str, Any]:
    """Runs all stages and returns the report.

    Args:
        out: the run's folder; one with an unfinished run of the same settings is continued.
        minutes: time for all of it; training steps are scaled by it.
        corpus: name or folder of a paired corpus; None is the built-in English mixture.

    Raises:
        UserError: on settings that cannot be run, or a folder that holds another run.
    """
    if not 0.1 <= minutes <= 24 * 60:
        raise UserError(f"--minutes {minutes:g}: give from 0.1 to 1440")
    if corpus is not None and corpus not in NAMES:
        named_corpus(corpus)  # a mistyped name or an empty folder claims no run's folder
    run = Quickstart(out, minutes, corpus, seed)
    _claim(run)
    ledger = Ledger(out / "stages.json")
    ledger.run("hello", lambda: greet(run))
    ledger.run("corpus", lambda: build_corpus(run))
    ledger.run("recogniser", lambda: train_recognisers(run))
    ledger.run("speaker", lambda: train_speaker(run))
    ledger.run("codec", lambda: train_codec(run))
    ledger.run("tokens", lambda: make_tokens(run))
    ledger.run("lm", lambda: train_language(run))
    ledger.run("judge codec", lambda: measure.judge_codec(run))
    ledger.run("search", lambda: measure.search(run))
    report = ledger.run("report", lambda: measure.report(run, ledger))
    log(f"listen: {out / 'report.html'}")
    log(f'speak: llasa say "any text" --model {out} -o out.wav')
    return report


def _claim(run: Quickstart) -> None:
    """Marks the folder as this run's.

    Raises:
        UserError: if it holds a run with other settings, or cannot be written.
    """
    path = run.out / "run.json"
    corpus = None if run.corpus is None else str(run.corpus)
    settings = {"minutes": run.minutes, "corpus": corpus, "seed": run.seed}
    if path.is_file():
        found = json.loads(path.read_text())
        if found != settings:
            raise UserError(f"{run.out}: holds a run with settings {found}; choose another --out")
        return
    try:
        run.out.mkdir(parents=True, exist_ok=True)
        if any(run.out.iterdir()):
            raise UserError(f"{run.out}: holds other files; choose another --out")
        stages.write_json(path, settings)
    except OSError as error:
        raise UserError(f"{run.out}: cannot be written ({error.strerror}); choose --out") from error


class Ledger:
    """What each stage gave, took and held, over interruptions: `stages.json`."""

    def __init__(self, path: Path):
        self.path = path
        self.entries: dict[str, dict] = json.loads(path.read_text()) if path.is_file() else {}

    def run(self, name: str, stage: Callable[[], dict]) -> dict:
        """The stage's result: from the ledger if it is done, else by running it."""
        entry = self.entries.setdefault(name, {"seconds": 0.0, "peak_memory_gib": 0.0})
        if "result" in entry:
            log(f"{name}: done before")
            return entry["result"]
        start = time.monotonic()
        memory = PeakMemory()
        try:
            with memory:
                result = stage()
        finally:
            entry["seconds"] += time.monotonic() - start
            entry["peak_memory_gib"] = max(entry["peak_memory_gib"], memory.gib)
            stages.write_json(self.path, self.entries)
        entry["result"] = result
        stages.write_json(self.path, self.entries)
        return result

    def result(self, name: str) -> dict:
        return self.entries[name]["result"]


def greet(run: Quickstart) -> dict:
    """Speaks with the voice that the package carries, before anything is trained."""
    out = run.out / "hello.wav"
    record = say(
        GREETING, model=stages.shipped_model(), out=out, search=Search(candidates=4), seed=run.seed
    )
    log(f"listen: {out}: {GREETING!r}, as the shipped voice says it; now to one of your own")
    return {"text": GREETING, "audio_seconds": record["audio_seconds"], "rtf": record["rtf"]}


def build_corpus(run: Quickstart) -> dict:
    """Fetches, speaks and reads the corpora into one store."""
    names = ENGLISH if run.english else (run.corpus,)
    minutes = SYNTHETIC_MINUTES * max(run.minutes / MINUTES, 1 / 15)
    corpora = [named_corpus(name, minutes=minutes, seed=run.seed) for name in names]
    store = WaveStore.build(corpora, run.out / "corpus")
    for split in stages.SPLITS:
        if not run.spoken(store, split):
            raise UserError(
                f"corpus {run.corpus}: no {split} recording with a text; give more recordings"
            )
    return measure.describe_corpus(store)


def train_recognisers(run: Quickstart) -> dict:
    """The content verifier; where pocketsphinx cannot judge, a second recogniser that can.

    The judge is of another architecture and learns from the other half of the recordings.
    """
    store = run.store()
    train, valid = run.spoken(store, "train"), run.spoken(store, "valid")

    def fitted(name: str, model: Path, part: tuple[int, int]) -> dict:
        config, budget = replace(run.config(name, RecogniserRun), part=part), run.budget(name)
        given = {"train": train, "valid": valid, "seed": run.seed, "budget": budget}
        return stages.train_recogniser(config, store, run.out / name, model, name, **given)

    if run.english:
        return {"content": fitted("recogniser", run.model, (0, 1))}
    return {
        "content": fitted("recogniser", run.model, (0, 2)),
        "judge": fitted("judge", run.out / "judge", (1, 2)),
    }


def train_speaker(run: Quickstart) -> dict:
    """The speaker verifier, on every voice of the store."""
    store = run.store()
    config = run.config("speaker", SpeakerRun)
    return stages.train_speaker(
        config, store, run.out / "speaker", run.model, seed=run.seed, budget=run.budget("speaker")
    )


def train_codec(run: Quickstart) -> dict:
    config = run.config("codec", CodecRun)
    fitted = stages.train_codec(
        config,
        run.store(),
        run.out / "codec",
        run.model,
        seed=run.seed,
        budget=run.budget("codec"),
    )
    return measure.describe_training(fitted) | {"bits_per_second": bits_per_second(config)}


def bits_per_second(config: CodecRun) -> float:
    """Of the code stream, as if every code took log2(codebook) bits."""
    return math.log2(config.codec.codebook_size) * config.codec.frame_rate


def make_tokens(run: Quickstart) -> dict:
    """Codes of every paired utterance, and packed rows of text and speech ids."""
    data = DataRun(
        corpora=(str(run.out / "corpus"),),
        filter=FilterConfig(kind="synthetic" if run.english else ""),
        row=run.config("lm", DecoderRun).row,
    )
    made = prepare(data, run.out / "tokens", run.model)["folders"]["generation/train"]
    names = ("rows", "examples", "ids", "learned", "used", "rejects")
    return {name: made[name] for name in names}


def train_language(run: Quickstart) -> dict:
    """The language model, beside the n-gram models that it has to beat on the same codes."""
    tokens = run.out / "tokens"
    config = run.config("lm", DecoderRun)
    fitted = stages.train_language(
        config, tokens, run.out / "lm", run.model, seed=run.seed, budget=run.budget("lm")
    )
    encoded = read_codes(tokens / "codes")
    codes = {
        split: [e.codes for e in encoded if e.utterance.split == split] for split in stages.SPLITS
    }
    size = config.lm.codes
    # START is learned too, and is certain: counting it as a code would flatter the mean.
    manifest = stages.open_tokens(tokens / "generation", run.model, "valid").manifest
    learned, examples = manifest["learned"], manifest["examples"]
    nats = fitted.curve[-1]["valid_nats"] * learned / (learned - examples)
    return measure.describe_training(fitted) | {
        "valid_nats": nats,
        "unigram_nats": cross_entropy(Unigram(codes["train"], size), codes["valid"]),
        "bigram_nats": cross_entropy(Bigram(codes["train"], size), codes["valid"]),
        "tokens": fitted.steps * config.train.batch * config.row,
    }
