"""`llasa data distil`: a model's own takes that verifiers prefer, as rows to train it on.

Best-of-N fine-tuning: every sentence is spoken many times, the best takes become training examples,
and `llasa train CONFIG --init MODEL` learns to say them first, with the ordinary loop and rows of
recordings beside them (reward-ranked fine-tuning: Dong et al. 2023, RAFT, section 3). Only text is
needed. Any number of processes do it together, killed and started again at will, as `prepare`:

    data.json           what all of it is; written last
    takes/              of each sentence the scores of all takes, and the codes of those kept
    tokenizer.json      the vocabulary
    generation/train/   rows, their index and manifest (`data.shards`)
    work/               plan and claims; gone at the end
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax import __version__
from llasa_jax.config import DistilRun, to_dict
from llasa_jax.console import Bar, bar
from llasa_jax.data.claims import Claims, share_out
from llasa_jax.data.codes import BY, Counts
from llasa_jax.data.debian import default_cache
from llasa_jax.data.place import Place
from llasa_jax.data.shards import Example, write_shards
from llasa_jax.data.synthetic import FliteEnglish
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import part_hash
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.recipes.eval_nano import read_sentences
from llasa_jax.recipes.stages import codec_config, model_folder
from llasa_jax.recipes.strategy import MAX_CANDIDATES
from llasa_jax.recipes.voice import Voice
from llasa_jax.search.strategies import Pool, worth_learning
from llasa_jax.verifiers.protocol import Verifier

VERSION = 1
PLAN, DATA, ROWS = "work/plan.json", "data.json", "generation/train"
PARTS = ("lm", "codec", "recogniser", "speaker")


def distil(
    run: DistilRun, model: Path, out: Path, *, sentences: Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Speaks sentences and keeps the best takes as token rows under `out`; returns its manifest.

    Args:
        sentences: a file with one a line; None: training sentences of the shipped voice's corpus,
            recorded or not.
        out: another run of the same goes on there, or beside.

    Raises:
        UserError: `out` holds something else, no take is good enough, or as `Voice`.
    """
    if run.candidates > MAX_CANDIDATES:
        raise UserError(f"distil.candidates: {run.candidates}, at most {MAX_CANDIDATES}")
    texts = training_sentences(run.sentences, sentences)
    return Distillation(run, model_folder(model), out, texts, seed).work()


def training_sentences(count: int, path: Path | None) -> list[str]:
    """The first texts of a file, or of the training split of the shipped voice's corpus.

    Raises:
        UserError: the file has none, or one that cannot be spoken.
    """
    if path is not None:
        return read_sentences(path)[:count]
    return FliteEnglish(default_cache()).sentences("train", count)


def require_verifiers(names: Sequence[str], verifiers: Sequence[Verifier]) -> None:
    """Refuses names that no verifier has."""
    known = [verifier.name for verifier in verifiers]
    for name in names:
        if name not in known:
            raise UserError(f"verifier {name}: unknown, there are: {', '.join(known)}")


class Distillation:
    """One distillation, seen by one process."""

    def __init__(
        self, run: DistilRun, model: Path, out: Path, texts: Sequence[str], seed: int
    ) -> None:
        self.run, self.model, self.texts, self.seed = run, model, list(texts), seed
        self.out, self.place = out, Place(out, "work/scratch")
        self.claims = Claims(self.place)
        self.weights = {one.verifier: one.weight for one in run.select}
        self.least = {one.verifier: one.least for one in run.select if one.least is not None}

    @cached_property
    def voice(self) -> Voice:
        found = Voice(self.model, slots=self.run.slots, sampling=self.run.sampler)
        require_verifiers(list(self.weights), found.engine.verifiers)
        if not found.voices:
            raise UserError(f"{self.model}: has no voice; add one with `llasa voices add`")
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Names everything that the result depends on."""
        parts = [
            VERSION,
            to_dict(self.run),
            self.seed,
            self.texts,
            Vocabulary.load(self.model).hash,
        ]
        parts += [part_hash(self.model, part) for part in PARTS]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def work(self) -> dict[str, Any]:
        """Does what is left, beside whoever else does; returns the manifest."""
        if not self.place.exists(DATA):
            self.claim_folder()
            starts = range(0, len(self.texts), self.run.item)
            jobs = [f"item-{start:06d}" for start in starts]
            done = sum(self.place.exists(_takes(job)) for job in jobs)
            before = min(done * self.run.item, len(self.texts))
            with bar("speak and choose", len(self.texts), "sentences", before) as shown:
                self._share_out(jobs, lambda job, _: self.speak(job, shown))
            self._share_out(["finish"], lambda job, _: self.finish(jobs))
        found = json.loads(self.place.read(DATA))
        if found["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.place}: was distilled with other settings, sentences or model; choose "
                "another --out"
            )
        self.place.remove_folder("work")
        return found

    def claim_folder(self) -> None:
        """Refuses a folder that another distillation, or anything else, has begun to fill."""
        self.place.refuse_others({"work", "takes", "generation", "tokenizer.json"})
        self.place.create(PLAN, self.fingerprint.encode())
        if self.place.read(PLAN).decode() != self.fingerprint:
            raise UserError(
                f"{self.place}: holds an unfinished distillation with other settings, sentences "
                "or model; choose another --out, or delete it"
            )

    def _share_out(self, jobs: list[str], finish: Any) -> None:
        def done(job: str) -> bool:
            return self.place.exists(DATA if job == "finish" else _takes(job))

        share_out(self.claims, jobs, done, lambda job: None, finish)

    def speak(self, job: str, shown: Bar) -> None:
        """Speaks the sentences of an item and leaves what came of them."""
        first, names = int(job.removeprefix("item-")), list(self.voice.voices)
        texts = self.texts[first : first + self.run.item]
        speakers = [names[(first + i) % len(names)] for i in range(len(texts))]
        pools, _ = self.voice.pools(
            texts, speakers, candidates=self.run.candidates, seed=self.seed + first
        )
        self.claims.renew()
        rows = [self.choose(*one) for one in zip(pools, speakers, strict=True)]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.place.write(_takes(job), "".join(lines).encode())
        shown.advance(len(texts), kept=sum(len(row["kept"]) for row in rows) / len(rows))

    def choose(self, pool: Pool, speaker: str) -> dict[str, Any]:
        """What is left of a sentence's takes."""
        run = self.run
        kept = worth_learning(pool, self.weights, self.least, gain=run.gain, most=run.keep)
        return {
            "text": pool.text,
            "voice": speaker,
            "statuses": pool.statuses,
            "scores": {name: _rounded(values) for name, values in pool.scores.items()},
            "tokens": pool.tokens,
            "kept": [{"take": i, "codes": pool.takes[i].codes.tolist()} for i in kept],
        }

    def finish(self, jobs: Sequence[str]) -> None:
        """Packs all that was kept, and says what it is."""
        vocabulary, config = Vocabulary.load(self.model), codec_config(self.model)
        lines = (line for job in jobs for line in self.place.read(_takes(job)).splitlines())
        spoken = [json.loads(line) for line in lines]
        distilled, counts = summary(spoken, self.weights), Counts()
        if not distilled["kept"]:
            takes = distilled["takes"]
            raise UserError(
                f"distil: none of the {takes} takes was good enough; lower `gain` or `least`"
            )
        shards = write_shards(
            self.out / ROWS,
            self._examples(spoken, vocabulary, config.hop, counts),
            row=self.run.row,
            codec=part_hash(self.model, "codec"),
            vocabulary=vocabulary.hash,
            about={},
        )
        about = counts.describe(config.frame_rate)
        about |= {"sample_rate": config.sample_rate, "hop": config.hop}
        kept = ("rows", "examples", "ids", "learned", "used", "rejects")
        folder = {name: shards.manifest[name] for name in kept} | about
        self.place.write("tokenizer.json", (self.model / "tokenizer.json").read_bytes())
        made = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "made_by": {"llasa_jax": __version__},
            "model": {part: part_hash(self.model, part) for part in PARTS},
            "seed": self.seed,
            "settings": to_dict(self.run),
            "voice": self.voice.settings,
            "distilled": distilled,
            "folders": {ROWS: folder},
        }
        self.place.write(DATA, (json.dumps(made, indent=1, sort_keys=True) + "\n").encode())

    def _examples(
        self, spoken: Sequence[dict], vocabulary: Vocabulary, hop: int, counts: Counts
    ) -> Iterator[Example]:
        """Sequences of the kept takes, each after its voice's prompt, which is not learned."""
        for place, one in enumerate(spoken):
            prompt = self.voice.named(one["voice"]).prompt
            text, known = one["text"], np.zeros(0, np.int32)
            if prompt is not None:
                text, known = f"{prompt.text} {text}", prompt.codes
            for take in one["kept"]:
                codes = np.concatenate([known, np.int32(take["codes"])])
                ids, learned = vocabulary.example(text, codes, known=len(known))
                what = dict(zip(BY, ("synthetic", one["voice"], "en", "the model's"), strict=True))
                about = {"id": f"distilled/{place}/{take['take']}", "text": text, "split": "train"}
                counts.add(len(take["codes"]), **what)
                yield Example(ids, learned, about | what | {"codes": len(codes)})


def summary(spoken: Sequence[dict], weights: dict[str, float]) -> dict[str, Any]:
    """How many takes were drawn and kept, and what the verifiers give the first and the kept."""
    kept = [[one["take"] for one in row["kept"]] for row in spoken]
    found = {
        "sentences": len(spoken),
        "takes": sum(len(row["statuses"]) for row in spoken),
        "tokens": sum(row["tokens"] for row in spoken),
        "kept": sum(map(len, kept)),
        "sentences_kept": sum(map(bool, kept)),
    }
    for name in weights:
        first = [row["scores"][name][0] for row in spoken]
        best = [row["scores"][name][i] for row, own in zip(spoken, kept, strict=True) for i in own]
        found[name] = {"first": float(np.median(first))}
        if best:
            found[name]["kept"] = float(np.median(best))
    return found


def _takes(job: str) -> str:
    return f"takes/{job.removeprefix('item-')}.jsonl"


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
