"""Search while speaking: a beam that a verifier leads, to the end or for the first seconds.

The process reward of the paper (Ye et al. 2025, section 3.4): each of B beams goes on in N ways for
M codes, a verifier hears what has been said so far, and the best B of the B x N go on. "Partial"
stops that after some seconds, draws each beam to its end, and lets best-of-N choose among those.
"""

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

from llasa_jax.config import BeamConfig
from llasa_jax.errors import UserError
from llasa_jax.search.engine import Engine, Prompt, Task
from llasa_jax.search.hearing import Listener
from llasa_jax.search.session import Session, Start
from llasa_jax.search.strategies import Pool, combined
from llasa_jax.search.take import OK, RUNAWAY, Take

BEAMS = 1 << 28  # added to the numbers of a beam's candidates: others than those of a pool


def beam_pools(
    engine: Engine,
    texts: Sequence[str],
    references: Sequence[Sequence[np.ndarray]],
    config: BeamConfig,
    weights: Mapping[str, float],
    *,
    seed: int,
    prompts: Sequence[Prompt | None] | None = None,
    keys: Sequence[int] | None = None,
) -> tuple[list[Pool], float]:
    """A pool of ended takes for each text, and the seconds that it took.

    Every pool has `drawn`, the tokens of all that was tried, and `rounds`.

    Args:
        references, prompts, keys: as `Engine.pools`.
        weights: of the verifiers that lead the beam, as in `combined`.

    Raises:
        UserError: if a beam does not fit into the sampler's slots, or as `combined`.
    """
    if config.width > engine.sampler.slots:
        raise UserError(
            f"beam: {config.beams} x {config.samples} candidates need {config.width} slots, the "
            f"sampler has {engine.sampler.slots}; take fewer beams or samples"
        )
    rows = engine.sampler.rows(len(texts), config.width)
    start = time.monotonic()
    tasks, pools = engine.tasks(texts, references, prompts), []
    keys = range(len(tasks)) if keys is None else keys
    for first in range(0, len(tasks), rows):
        part = slice(first, first + rows)
        pools += Beam(engine, tasks[part], keys[part], rows, config, weights, seed)()
    return pools, time.monotonic() - start


class Beam:
    """The beams of a few texts, a row of slots each; `keys` are the texts' own."""

    def __init__(
        self,
        engine: Engine,
        tasks: Sequence[Task],
        keys: Sequence[int],
        rows: int,
        config: BeamConfig,
        weights: Mapping[str, float],
        seed: int,
    ):
        self.engine, self.tasks, self.config = engine, tasks, config
        self.keys, self.weights, self.seed = keys, weights, seed
        most = max(task.bounds[1] for task in tasks)
        self.session = Session(
            engine.sampler,
            rows,
            config.width,
            longest=max(len(task.ids) for task in tasks),
            most=most,
            guards=engine.guards,
        )
        rate, prefix = engine.codec.config.frame_rate, config.prefix_seconds
        self.last = math.inf if prefix is None else math.ceil(prefix * rate / config.step_codes)
        leads = [n for n, one in enumerate(engine.verifiers) if one.name in weights]
        self.listeners = [
            Listener(
                [engine.verifiers[n] for n in leads],
                [task.targets[n] for n in leads],
                config.width,
                config.step_codes,
                round(min(most, self.last * config.step_codes)),
            )
            for task in tasks
        ]
        self.rounds: list[list[dict]] = [[] for _ in tasks]

    def __call__(self) -> list[Pool]:
        config, session = self.config, self.session
        session.install({row: task.ids for row, task in enumerate(self.tasks)})
        session.begin(
            [
                Start(row, column, self.seed, self.keys[row], BEAMS + column, *task.bounds)
                for row, task in enumerate(self.tasks)
                for column in range(config.width)
            ]
        )
        turn = 0
        while True:
            turn += 1
            session.decode(steps=config.step_codes)
            kept = self._select()
            if not session.running().any():
                return self._pools([list(dict.fromkeys(own)) for own in kept])
            ways = config.samples if turn < self.last else config.completions or config.samples
            self._fork(kept, turn, ways)
            if turn >= self.last:
                session.decode()
                ways_kept = range(ways)
                columns = [
                    b * config.samples + way for b in range(config.beams) for way in ways_kept
                ]
                return self._pools([columns] * len(self.tasks))

    def _takes(self) -> list[list[Take]]:
        width = self.config.width
        places = [(row, c) for row in range(len(self.tasks)) for c in range(width)]
        takes = self.session.takes(places)
        return [takes[i : i + width] for i in range(0, len(takes), width)]

    def _select(self) -> list[list[int]]:
        """The columns of each row that go on, the best first; there are `beams` of them."""
        takes, running, kept = self._takes(), self.session.running(), []
        others = [name for name in self.weights if name not in self.listeners[0].names]
        nothing = [[np.zeros(0, np.float32)] * self.config.width] * len(takes)
        waves = self.engine.waves(self.tasks, takes) if others else nothing
        for row, (task, own, sounds) in enumerate(zip(self.tasks, takes, waves, strict=True)):
            statuses = [
                take.doomed or (OK if take.stopped or runs else RUNAWAY)
                for take, runs in zip(own, running[row], strict=True)
            ]
            scores = self.listeners[row](own) | self.engine.score(task, own, sounds, others)
            totals = combined(scores, self.weights, statuses)
            order = sorted(range(len(own)), key=lambda i: (statuses[i] != OK, -totals[i], i))
            chosen = self._distinct(order, own, running[row])
            self.rounds[row].append(
                {
                    "codes": max(len(take.codes) for take in own),
                    "running": int(running[row].sum()),
                    "kept": chosen,
                    "scores": {n: [float(x[i]) for i in chosen] for n, x in scores.items()},
                }
            )
            kept.append(chosen)
        return kept

    def _distinct(
        self, order: Sequence[int], takes: Sequence[Take], running: np.ndarray
    ) -> list[int]:
        """The first of them, but of equal takes that have ended only one: a parent's copies."""
        chosen, ended = [], set()
        for i in order:
            if not running[i]:
                key = takes[i].codes.tobytes()
                if key in ended:
                    continue
                ended.add(key)
            chosen.append(i)
        count = self.config.beams
        return (chosen * -(-count // len(chosen)))[:count]

    def _fork(self, kept: Sequence[Sequence[int]], turn: int, ways: int) -> None:
        """Lets each beam go on in so many ways, as other candidates."""
        shape, samples = self.session.shape, self.config.samples
        parents, keys = np.zeros((2, *shape), np.int64)
        for row, chosen in enumerate(kept):
            parents[row] = np.repeat(chosen, samples)
            keys[row] = self.keys[row]
            self.listeners[row].fork(parents[row])
        columns = np.broadcast_to(np.arange(shape[1]), shape)
        self.session.fork(
            parents, keys, BEAMS + turn * shape[1] + columns, columns % samples < ways
        )

    def _pools(self, columns: Sequence[Sequence[int]]) -> list[Pool]:
        """The takes in these columns of each row, judged and scored by all verifiers."""
        takes = [
            [own[i] for i in chosen] for own, chosen in zip(self._takes(), columns, strict=True)
        ]
        waves = self.engine.waves(self.tasks, takes)
        statuses = self.engine.statuses(self.tasks, takes, waves)
        return [
            Pool(
                task.text,
                takes[row],
                waves[row],
                statuses[row],
                self.engine.score(task, takes[row], waves[row]),
                int(self.session.drawn[row]),
                self.rounds[row],
            )
            for row, task in enumerate(self.tasks)
        ]
