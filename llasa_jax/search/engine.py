"""Text in, scored takes out: sampler, codec and verifiers put together, with no files."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llasa_jax.codec.batch import BatchCodec
from llasa_jax.config import GuardConfig
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.search.guards import code_bounds, judge_codes, judge_take
from llasa_jax.search.sampler import REDRAWN, Sampler
from llasa_jax.search.strategies import Pool, first_accepted, join
from llasa_jax.search.take import OK, Take
from llasa_jax.verifiers.protocol import Candidates, Verifier, ensure_rate, score_all

SCORED_SECONDS = 2.56  # waves are padded to multiples of this before they are scored: few programs


class Prompt(NamedTuple):
    """What was said before, as if by the same breath: its text and its codes int [T].

    Codes without a text are the beginning of the text that is to be spoken.
    """

    text: str
    codes: np.ndarray


@dataclass(frozen=True)
class Task:
    """One text to speak.

    Attributes:
        ids: what the decoder is given.
        known: codes of the prompt int32 [T].
        bounds: least and greatest number of codes.
        targets: what each verifier compares with (`Verifier.reference`).
    """

    text: str
    ids: np.ndarray
    known: np.ndarray
    bounds: tuple[int, int]
    targets: Sequence[np.ndarray]


class Engine:
    """Draws, decodes and scores takes.

    Args:
        verifiers: what scores the takes; `references` of a call gives each one its target.

    Raises:
        UserError: if a verifier hears waves of another rate than the codec's.
    """

    def __init__(
        self,
        sampler: Sampler,
        vocabulary: Vocabulary,
        codec: BatchCodec,
        verifiers: Sequence[Verifier],
        guards: GuardConfig,
    ):
        self.sampler, self.vocabulary, self.codec = sampler, vocabulary, codec
        self.verifiers, self.guards = list(verifiers), guards
        ensure_rate(self.verifiers, self.rate)

    @property
    def rate(self) -> int:
        """Samples a second of the waves, which a codec may write at another rate than it reads."""
        return self.codec.config.output_rate

    def tasks(
        self,
        texts: Sequence[str],
        references: Sequence[Sequence[np.ndarray]],
        prompts: Sequence[Prompt | None] | None,
    ) -> list[Task]:
        """What is to be spoken; as the arguments of `pools`."""
        prompts = [None] * len(texts) if prompts is None else prompts
        found = []
        for text, targets, before in zip(texts, references, prompts, strict=True):
            known, prompt = np.zeros(0, np.int32), self.vocabulary.prompt
            if before is None:
                ids = prompt(text)
            else:
                whole = f"{before.text} {text}".strip()
                known, ids = before.codes, prompt(whole, before.codes)
            bounds = code_bounds(text, self.guards)
            found.append(Task(text, ids, known, bounds, targets))
        return found

    def pools(
        self,
        texts: Sequence[str],
        references: Sequence[Sequence[np.ndarray]],
        *,
        candidates: int,
        seed: int,
        prompts: Sequence[Prompt | None] | None = None,
        keys: Sequence[int] | None = None,
    ) -> tuple[list[Pool], float]:
        """A pool of takes for each text, and the seconds that it took.

        Args:
            references: for each text, what each verifier compares with (`Verifier.reference`).
            prompts: the voice in which each text is spoken, if any. The wave is that of prompt and
                take decoded together, and what belongs to the prompt is cut off.
            keys: a number for each text, on which its takes hang beside `seed`; default: its place.
        """
        start = time.monotonic()
        tasks = self.tasks(texts, references, prompts)
        numbers = [range(candidates)] * len(tasks)
        shape = self.sampler.shape([candidates] * len(tasks))
        keys = range(len(tasks)) if keys is None else keys
        pools = self._pools(tasks, keys, numbers, seed, shape)
        return pools, time.monotonic() - start

    def sequential(
        self,
        texts: Sequence[str],
        references: Sequence[Sequence[np.ndarray]],
        *,
        candidates: int,
        thresholds: Mapping[str, float],
        seed: int,
        prompts: Sequence[Prompt | None] | None = None,
        at_once: int = 1,
    ) -> tuple[list[Pool], float]:
        """As `pools`, but a text's pool ends with the first take that is accepted.

        The takes are those that `pools` draws, `at_once` of them a turn.

        Args:
            candidates: at most so many of each text.
            thresholds: what each of these verifiers must give a take (`first_accepted`).
        """
        start = time.monotonic()
        tasks = self.tasks(texts, references, prompts)
        pools: dict[int, Pool] = {}
        left = list(range(len(tasks)))
        shape = self.sampler.shape([at_once] * len(tasks))
        for first in range(0, candidates, at_once):
            numbers = [range(first, min(first + at_once, candidates))] * len(left)
            chosen = [tasks[i] for i in left]
            drawn = self._pools(chosen, left, numbers, seed, shape)
            for i, pool in zip(left, drawn, strict=True):
                pools[i] = pool if i not in pools else join(pools[i], pool)
            left = [i for i in left if first_accepted(pools[i], thresholds) is None]
            if not left:
                break
        return [pools[i] for i in range(len(tasks))], time.monotonic() - start

    def _pools(
        self,
        tasks: Sequence[Task],
        keys: Sequence[int],
        numbers: Sequence[Sequence[int]],
        seed: int,
        shape: tuple[int, int],
    ) -> list[Pool]:
        """Takes of these numbers of each task; those that fail are drawn again."""
        retries, guards = self.guards.retries, self.guards

        def draw(numbers: Sequence[Sequence[int]], retries: int) -> list[list[Take]]:
            return self.sampler(
                [task.ids for task in tasks],
                candidates=numbers,
                min_codes=[task.bounds[0] for task in tasks],
                max_codes=[task.bounds[1] for task in tasks],
                seed=seed,
                keys=keys,
                retries=retries,
                failed=lambda take: judge_codes(take, guards) != OK,
                guards=guards,
                shape=shape,
            )

        takes = draw(numbers, retries)
        waves = self.waves(tasks, takes)
        statuses = self.statuses(tasks, takes, waves)
        for _ in range(retries):  # what can only be heard: silence, an early stop
            again = [
                [n for n, status in enumerate(own) if status != OK and of[n].redrawn < retries]
                for own, of in zip(statuses, takes, strict=True)
            ]
            if not any(again):
                break
            chosen = [
                [number[n] + (of[n].redrawn + 1) * REDRAWN for n in places]
                for number, of, places in zip(numbers, takes, again, strict=True)
            ]
            new = draw(chosen, 0)
            new_waves = self.waves(tasks, new)
            new_statuses = self.statuses(tasks, new, new_waves)
            for i, places in enumerate(again):
                for place, n in enumerate(places):
                    takes[i][n] = new[i][place].instead_of(takes[i][n])
                    waves[i][n], statuses[i][n] = new_waves[i][place], new_statuses[i][place]
        return [
            Pool(task.text, *found, self.score(task, *found[:2]))
            for task, *found in zip(tasks, takes, waves, statuses, strict=True)
        ]

    def waves(
        self, tasks: Sequence[Task], takes: Sequence[Sequence[Take]]
    ) -> list[list[np.ndarray]]:
        """The wave of each take, decoded with its prompt before it, which is cut off.

        That of a take without a code is empty.
        """
        spoken = [
            np.concatenate([task.known, take.codes])
            for task, own in zip(tasks, takes, strict=True)
            for take in own
            if len(take.codes)
        ]
        decoded = iter(self.codec.decode(spoken))
        hop, nothing = self.codec.config.output_hop, np.zeros(0, np.float32)
        return [
            [next(decoded)[len(task.known) * hop :] if len(t.codes) else nothing for t in own]
            for task, own in zip(tasks, takes, strict=True)
        ]

    def statuses(
        self,
        tasks: Sequence[Task],
        takes: Sequence[Sequence[Take]],
        waves: Sequence[Sequence[np.ndarray]],
    ) -> list[list[str]]:
        """The guards' verdict on each take."""
        return [
            [
                judge_take(task.text, take, wave, self.rate, self.guards)
                for take, wave in zip(own, sounds, strict=True)
            ]
            for task, own, sounds in zip(tasks, takes, waves, strict=True)
        ]

    def score(
        self,
        task: Task,
        takes: Sequence[Take],
        waves: Sequence[np.ndarray],
        names: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Scores of one text's takes, from one compiled call.

        Args:
            names: of the verifiers to ask; None: all.
        """
        asked = [
            (one, target)
            for one, target in zip(self.verifiers, task.targets, strict=True)
            if names is None or one.name in names
        ]
        if not asked:
            return {}
        unit = round(SCORED_SECONDS * self.rate)
        size = max(1, -(-max(map(len, waves)) // unit)) * unit
        padded = np.zeros((len(waves), size), np.float32)
        codes = np.zeros((len(waves), size // self.codec.config.output_hop), np.int32)
        for row, (take, wave) in enumerate(zip(takes, waves, strict=True)):
            padded[row, : len(wave)] = wave
            codes[row, : len(take.codes)] = take.codes
        lengths = np.array([len(wave) for wave in waves], np.int32)
        verifiers, targets = zip(*asked, strict=True)
        scores = score_all(verifiers, Candidates(codes, padded, lengths), targets)
        return {name: np.asarray(values) for name, values in scores.items()}
