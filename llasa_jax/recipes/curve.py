"""`llasa curve`: what more candidates are worth, by judges that took no part in the choice.

One pool of the most candidates serves every N of best-of-N: the first n takes are the pool of n.
Every sentence leaves a record, so an interrupted run goes on where it stopped.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llasa_jax.console import bar
from llasa_jax.data.debian import default_cache
from llasa_jax.data.synthetic import FliteEnglish
from llasa_jax.errors import UserError
from llasa_jax.evaluation.curve_report import describe_curve, write_curve_report
from llasa_jax.interop.bundle import part_hash
from llasa_jax.interop.resemblyzer import load_ge2e
from llasa_jax.metrics.text import word_errors
from llasa_jax.parallel.flops import parameter_count, sampling_flops
from llasa_jax.recipes import stages
from llasa_jax.recipes.eval_nano import AT_ONCE, read_sentences
from llasa_jax.recipes.measure import hear, machine
from llasa_jax.recipes.strategy import MAX_CANDIDATES, Search
from llasa_jax.recipes.voice import Voice
from llasa_jax.search.record import search_record
from llasa_jax.search.strategies import Pool, best_of, first_accepted
from llasa_jax.verifiers.external import Judge, Pocketsphinx
from llasa_jax.verifiers.ge2e import Ge2eEncoder
from llasa_jax.verifiers.protocol import ensure_judge_differs
from llasa_jax.verifiers.recogniser import BatchRecogniser

JUDGES = ("pocketsphinx", "content")
SLOTS = 64
CALIBRATION = 16  # sentences whose first takes say what "sequential" accepts
PARTS = ("lm", "codec", "recogniser", "speaker")
VERSION = 2  # of the records


@dataclass(frozen=True)
class CurveSettings:
    """What is searched and how it is chosen.

    Attributes:
        candidates: the N of the points; of beams the samples of each.
        beams: how many; None: as many as the samples.
        select: weights of the verifiers that choose among ended takes.
        lead: those of the verifiers that lead a beam.
        accept: scores at which "sequential" stops, by verifier; empty: the median of first takes.
    """

    strategy: str = "best-of"
    candidates: tuple[int, ...] = (1, 4, 16)
    beams: int | None = None
    step_codes: int = 25
    prefix_seconds: float = 2.0
    select: Mapping[str, float] = field(default_factory=lambda: {"content": 1.0})
    lead: Mapping[str, float] = field(default_factory=lambda: {"speaker": 1.0})
    accept: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if not self.candidates or not all(1 <= n <= MAX_CANDIDATES for n in self.candidates):
            raise UserError(f"--candidates: numbers from 1 to {MAX_CANDIDATES}, as 1,4,16")
        self.search(self.candidates[0])  # raises where its settings are of no use

    def search(self, n: int) -> Search:
        """That of the point n."""
        return Search(
            self.strategy,
            n,
            self.beams,
            self.step_codes,
            self.prefix_seconds,
            self.select,
            self.lead,
            self.accept,
        )

    @property
    def by_steps(self) -> bool:
        return self.search(self.candidates[0]).by_steps

    @property
    def selecting(self) -> list[str]:
        """Names of all verifiers that take part in the choice."""
        return self.search(self.candidates[0]).verifiers

    def width(self, n: int) -> int:
        """Candidates of a sentence that are drawn at once at the point n."""
        return self.search(n).width

    @property
    def slots(self) -> int:
        return max(SLOTS, *map(self.width, self.candidates))


def curve(
    model: Path,
    settings: CurveSettings,
    *,
    sentences: Path | None = None,
    utterances: int = 200,
    judge: str = JUDGES[0],
    out: Path,
    seed: int = 0,
) -> dict[str, Any]:
    """Searches every sentence and has what is kept judged.

    Args:
        sentences: a file with one a line; None: held-out ones of the shipped voice's corpus.
        utterances: at most so many of them.
        judge: "pocketsphinx", or "content", the model's own recogniser.
        out: folder for records, `curve.json`, table and figure; a second run goes on there.

    Returns:
        JSON-able: `points`, `differences` and the rest of `curve_report.describe_curve`, and what
        was searched how.

    Raises:
        UserError: the judge took part in the choice, or model, sentences or settings are of no use.
    """
    if judge not in JUDGES:
        raise UserError(f"--judge {judge}: one of {', '.join(JUDGES)}")
    ensure_judge_differs(settings.selecting, judge)
    if sentences:
        texts = read_sentences(sentences)[:utterances]
    else:
        texts = FliteEnglish(default_cache()).held_out(utterances)
    if not texts:
        raise UserError("curve: there is no sentence to speak")
    found = Curve(stages.model_folder(model), settings, texts, judge, out, seed)()
    write_curve_report(out, found)
    return found


class Label(NamedTuple):
    """A point of the curve. `matched_to`: best-of-N with the tokens that another strategy spent."""

    strategy: str
    n: int
    beams: int | None = None
    step_tokens: int | None = None
    prefix_seconds: float | None = None
    matched_to: str | None = None


class Group(NamedTuple):
    """Pools of some sentences, and of each point that they serve what it keeps of each pool: the
    place of the take, the tokens drawn for it, the takes looked at."""

    label: Label
    pools: list[Pool]
    seconds: float
    points: list[tuple[Label, list[tuple[int, int, int]]]]


class Curve:
    """One run: the voice, the judges, and where the records are."""

    def __init__(
        self,
        model: Path,
        settings: CurveSettings,
        texts: Sequence[str],
        judge: str,
        out: Path,
        seed: int,
    ):
        self.voice = Voice(model, slots=settings.slots)
        known = [verifier.name for verifier in self.voice.engine.verifiers]
        for name in settings.selecting:
            if name not in known:
                raise UserError(f"verifier {name}: unknown, there are: {', '.join(known)}")
        names = list(self.voice.voices)
        if not names:
            raise UserError(f"{model}: has no voice; add one with `llasa voices add`")
        self.settings, self.texts, self.seed = settings, list(texts), seed
        self.spoken = [names[i % len(names)] for i in range(len(texts))]
        self.judge = _judge(judge, model)
        self.similarity = Ge2eEncoder(load_ge2e())
        self.targets = self._targets()
        what = {
            "version": VERSION,
            "parts": {part: part_hash(model, part) for part in PARTS},
            "voices": names,
            "settings": asdict(settings),
            "voice": self.voice.settings,
            "judge": judge,
            "seed": seed,
        }
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = out / f"{settings.strategy}-{key}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def _targets(self) -> dict[str, np.ndarray]:
        """The GE2E embedding of each voice that has a prompt: of the prompt, through the codec."""
        prompts = {name: voice.prompt for name, voice in self.voice.voices.items() if voice.prompt}
        if not prompts:
            return {}
        waves = self.voice.engine.codec.decode([prompt.codes for prompt in prompts.values()])
        return dict(zip(prompts, self.similarity.embed(waves), strict=True))

    def __call__(self) -> dict[str, Any]:
        if self.settings.strategy == "sequential" and not self.settings.accept:
            self.settings = replace(self.settings, accept=self._usual())
        settings = self.settings
        # Best-of-N in the batches of `llasa eval nano`, so that both draw the same takes.
        at_once = max(
            1, min(AT_ONCE, 4 * settings.slots // max(map(settings.width, settings.candidates)))
        )
        rows: list[dict] = []
        with bar("speak and search", len(self.texts), "sentences") as progress:
            for start in range(0, len(self.texts), at_once):
                part = range(start, min(start + at_once, len(self.texts)))
                rows += self._done_before(part) or self._search(part)
                progress.advance(len(part))
        return describe_curve(rows, self._seconds()) | {
            "strategy": settings.strategy,
            "parameters": parameter_count(self.voice.engine.sampler.lm),
            "voices": sorted(set(self.spoken)),
            "verifiers": settings.selecting,
            "judges": [self.judge.name] + [self.similarity.name] * bool(self.targets),
            "settings": asdict(settings) | self.voice.settings,
            "seed": self.seed,
            "records": self.folder.name,  # beside the curve
            "machine": machine(),
        }

    def _usual(self) -> dict[str, float]:
        """What half of the first takes reach by each selecting verifier."""
        texts, speakers = self.texts[:CALIBRATION], self.spoken[:CALIBRATION]
        pools, _ = self.voice.pools(texts, speakers, candidates=1, seed=self.seed)
        return {
            name: float(np.median([pool.scores[name][0] for pool in pools]))
            for name in self.settings.select
        }

    def _draw(
        self, n: int, texts: Sequence[str], speakers: Sequence[str], seed: int
    ) -> tuple[list[Pool], float]:
        """Pools of the point n, by the run's strategy, and the seconds."""
        return self.settings.search(n).draw(self.voice, texts, speakers, seed)

    def _groups(self, texts: Sequence[str], speakers: Sequence[str], seed: int) -> Iterator[Group]:
        settings = self.settings
        draw = partial(self._draw, texts=texts, speakers=speakers, seed=seed)
        if not settings.by_steps:
            pools, seconds = draw(max(settings.candidates))
            points = [
                (Label(settings.strategy, n), [self._pick(pool.first(n)) for pool in pools])
                for n in settings.candidates
            ]
            yield Group(Label(settings.strategy, max(settings.candidates)), pools, seconds, points)
            return
        for n in settings.candidates:
            beam = settings.search(n).beam
            shape = (beam.beams, beam.step_codes, beam.prefix_seconds)
            label = Label(settings.strategy, n, *shape)
            pools, seconds = draw(n)
            picks = [self._pick(pool) for pool in pools]
            yield Group(label, pools, seconds, [(label, picks)])
            budgets = [pool.tokens for pool in pools]
            usual = [np.mean([len(take.codes) + 1 for take in pool.takes]) for pool in pools]
            most = math.ceil(1.25 * max(np.divide(budgets, usual)))
            most = min(1 << (most - 1).bit_length(), MAX_CANDIDATES)  # few programs are compiled
            more, seconds = self.voice.pools(texts, speakers, candidates=most, seed=seed)
            equal = [pool.within(budget) for pool, budget in zip(more, budgets, strict=True)]
            label = Label("best-of", n, matched_to=settings.strategy)
            yield Group(label, equal, seconds, [(label, [self._pick(pool) for pool in equal])])

    def _pick(self, pool: Pool) -> tuple[int, int, int]:
        """Place of the kept take, tokens drawn for it, takes looked at."""
        if self.settings.strategy == "sequential":
            place = first_accepted(pool, self.settings.accept)
            if place is not None:
                return place, pool.first(place + 1).tokens, place + 1
        return best_of(pool, self.settings.select), pool.tokens, len(pool.takes)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.json"

    def _done_before(self, part: range) -> list[dict]:
        """The rows of these sentences, if an earlier run left all of them."""
        try:
            records = [json.loads(self._path(i).read_text()) for i in part]
        except (FileNotFoundError, ValueError):
            return []
        same = all(r["text"] == self.texts[i] for i, r in zip(part, records, strict=True))
        return [record["row"] for record in records] if same else []

    def _search(self, part: range) -> list[dict]:
        """Searches some sentences, has what is kept judged, and leaves their records."""
        texts, speakers = ([x[i] for i in part] for x in (self.texts, self.spoken))
        references, prompts = self.voice.arguments(texts, speakers)
        tasks = self.voice.engine.tasks(texts, references, prompts)
        seed = self.seed + part.start
        rows = [{"text": text, "points": [], "statuses": []} for text in texts]
        records: list[list[dict]] = [[] for _ in part]
        judged: list[tuple[dict, np.ndarray, str]] = []
        for group in self._groups(texts, speakers, seed):
            for i, pool in enumerate(group.pools):
                choices = {}
                for label, picks in group.points:
                    place, tokens, takes = picks[i]
                    choices[label.n] = place
                    asked = 1 if self.voice.sampling.guidance == 1 else 2  # with and without text
                    flops = asked * sampling_flops(
                        self.voice.engine.sampler.lm,
                        len(tasks[i].ids),
                        tokens,
                        len(pool.takes[place].codes),
                    )
                    kept = label._asdict() | {
                        "status": pool.statuses[place],
                        "scores": {name: float(x[place]) for name, x in pool.scores.items()},
                        "tokens": tokens,
                        "takes": takes,
                        "flops": flops,
                        "sound": len(pool.waves[place]) / self.voice.engine.rate,
                    }
                    rows[i]["points"].append(kept)
                    judged.append((kept, pool.waves[place], texts[i], speakers[i]))
                rows[i]["statuses"] += pool.statuses
                record = search_record(
                    pool,
                    self.settings.select,
                    choices,
                    strategy=group.label.strategy,
                    seconds=group.seconds / len(part),
                    seed=seed,
                    settings=self.voice.settings | asdict(self.settings),
                )
                records[i].append(record | {"label": group.label._asdict()})
        self._hear(judged)
        for row, speaker, own, index in zip(rows, speakers, records, part, strict=True):
            record = {"text": row["text"], "voice": speaker, "row": row, "searches": own}
            stages.write_json(self._path(index), record)
        return rows

    def _hear(self, judged: Sequence[tuple[dict, np.ndarray, str, str]]) -> None:
        """Adds what the judges say to each (kept, wave, text, speaker)."""
        kept, waves, texts, speakers = zip(*judged, strict=True)
        heard = hear(self.judge, waves)
        errors = word_errors(texts, heard)
        near = self.similarity.embed(list(waves)) if self.targets else None
        for i, one in enumerate(kept):
            one["judge"], one["heard"] = self.judge.name, heard[i]
            one["errors"], one["words"] = int(errors.errors[i]), int(errors.length[i])
            target = self.targets.get(speakers[i])
            one["similarity"] = None if target is None else float(near[i] @ target)

    def _seconds(self) -> dict[int, float]:
        """Seconds a sentence at each N, decoding and verifiers included, with all slots in use."""
        path, found = self.folder / "seconds.json", {}
        if path.is_file():
            return {int(n): x for n, x in json.loads(path.read_text()).items()}
        for n in self.settings.candidates:
            count = max(1, self.settings.slots // self.settings.width(n))
            texts, speakers = self.texts[:count], self.spoken[:count]
            for _ in range(2):  # the first compiles
                _, seconds = self._draw(n, texts, speakers, self.seed)
            found[n] = seconds / len(texts)
        stages.write_json(path, found)
        return found


def _judge(name: str, model: Path) -> Judge:
    if name == "pocketsphinx":
        return Pocketsphinx()
    recogniser = stages.load_recogniser(model, "recogniser")
    return BatchRecogniser(*recogniser, name=name)
