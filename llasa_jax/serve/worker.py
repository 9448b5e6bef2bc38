"""The thread that owns the model: the jobs of many requests join one batch of takes."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from llasa_jax.errors import UserError
from llasa_jax.search.continuous import ContinuousBatch, Draw, News
from llasa_jax.search.engine import Engine, Task
from llasa_jax.search.guards import judge_codes, judge_take
from llasa_jax.search.sampler import REDRAWN
from llasa_jax.search.strategies import Pool, accepted
from llasa_jax.search.take import OK, Take
from llasa_jax.serve.errors import ApiError


class Cancelled(Exception):
    """Nobody waits for it any more."""


class Candidate(NamedTuple):
    """A take that has been heard: as a `Pool` holds them."""

    number: int
    take: Take
    wave: np.ndarray
    status: str
    scores: dict[str, float]


@dataclass(eq=False)
class Job:
    """One piece of text to speak.

    Attributes:
        tell: called from the worker's thread with each `News` of a streamed job, else with each
            `Candidate`, and then with their `Pool`; or with an exception, which ends it.
        key: of the piece, on which its randomness hangs besides the seed.
        accept: draws one candidate after another until one has these scores; None: all at once.
        streamed: its codes are told while they are drawn, of one candidate, which is not scored.
    """

    task: Task
    seed: int
    tell: Callable[[object], None]
    key: int = 0
    candidates: int = 1
    accept: Mapping[str, float] | None = None
    streamed: bool = False
    cancelled: bool = False
    heard: dict[int, Candidate] = field(default_factory=dict)
    failed: dict[int, Take] = field(default_factory=dict)  # takes that are drawn again


class Worker(threading.Thread):
    """Draws, decodes and scores takes; jobs may come and be given up at any time, from any thread.

    Args:
        slots: takes that are drawn at once.
    """

    def __init__(self, engine: Engine, slots: int):
        super().__init__(name="model", daemon=True)
        self._engine, self._guards = engine, engine.guards
        self._batch = ContinuousBatch(engine.sampler, slots, engine.guards)
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: dict[Draw, Job] = {}
        self._stopped = False

    def submit(self, job: Job) -> None:
        self._inbox.put(job)

    def cancel(self, job: Job) -> None:
        """Gives a job up; it is told `Cancelled`, unless it has ended."""
        job.cancelled = True
        self._inbox.put(None)  # to wake it up

    def stop(self) -> None:
        """Ends the thread after its current step; what still runs is told so."""
        self._stopped = True
        self._inbox.put(None)
        self.join()

    @property
    def drawing(self) -> int:
        """Takes that are drawn or wait for a slot."""
        return len(self._jobs)

    def run(self) -> None:
        while not self._stopped:
            try:
                self._look()
                news = self._batch.step()
            except Exception as error:  # as when memory is short: the next ones may go well
                logging.getLogger(__name__).exception("the model failed")
                self._abandon(error)
                continue
            for one in news:
                job = self._jobs.get(one.draw)
                if job is None:
                    continue  # another take of it could not be heard
                try:
                    self._hear(job, one)
                except Exception as error:
                    logging.getLogger(__name__).exception("a take could not be heard")
                    self._drop(job, error)
        self._abandon(Cancelled())

    def _look(self) -> None:
        """Takes in what has come; waits for it if there is nothing else to do."""
        waits = self._batch.idle
        while True:
            try:
                job = self._inbox.get(block=waits)
            except queue.Empty:
                break
            waits = False
            if job is not None and not job.cancelled:
                for number in range(job.candidates if job.accept is None else 1):
                    self._draw(job, number)
            elif job is not None:
                job.tell(Cancelled())
        for job in {job for job in self._jobs.values() if job.cancelled}:
            self._drop(job, Cancelled())

    def _draw(self, job: Job, number: int) -> None:
        # Of a stream somebody hears nothing yet: it takes the next free slot.
        draw = Draw(job.task, job.seed, job.key, number, urgent=job.streamed)
        self._jobs[draw] = job
        self._batch.add(draw)

    def _drop(self, job: Job, error: Exception) -> None:
        for draw in [draw for draw, one in self._jobs.items() if one is job]:
            self._batch.cancel(draw)
            del self._jobs[draw]
        job.tell(error)

    def _abandon(self, error: Exception) -> None:
        jobs, self._jobs = set(self._jobs.values()), {}
        self._batch = ContinuousBatch(self._engine.sampler, len(self._batch), self._guards)
        for job in jobs:
            job.tell(error)

    def _hear(self, job: Job, news: News) -> None:
        if job.streamed:
            job.tell(news)
        if news.take is None:
            return
        del self._jobs[news.draw]
        if job.streamed:
            return
        number = news.draw.number % REDRAWN
        old = job.failed.pop(number, None)
        take = news.take if old is None else news.take.instead_of(old)
        wave, status = np.zeros(0, np.float32), judge_codes(take, self._guards)
        if status == OK or take.redrawn == self._guards.retries:
            wave = self._engine.waves([job.task], [[take]])[0][0]
            status = judge_take(job.task.text, take, wave, self._engine.rate, self._guards)
        if status != OK and take.redrawn < self._guards.retries:
            job.failed[number] = take
            self._draw(job, number + (take.redrawn + 1) * REDRAWN)
            return
        scores = {}
        if job.candidates > 1:
            found = self._engine.score(job.task, [take], [wave])
            scores = {name: float(values[0]) for name, values in found.items()}
        self._keep(job, Candidate(number, take, wave, status, scores))

    def _keep(self, job: Job, new: Candidate) -> None:
        job.heard[new.number] = new
        job.tell(new)
        pool = _pool(job)
        if job.accept is not None and len(job.heard) < job.candidates:
            if not (job.candidates > 1 and accepted(pool, job.accept)[-1]):
                self._draw(job, new.number + 1)
                return
        elif len(job.heard) < job.candidates:
            return
        job.tell(pool)


def _pool(job: Job) -> Pool:
    found = [job.heard[number] for number in sorted(job.heard)]
    return Pool(
        job.task.text,
        [one.take for one in found],
        [one.wave for one in found],
        [one.status for one in found],
        {name: np.array([one.scores[name] for one in found]) for name in found[0].scores},
    )


def model_error(error: Exception) -> ApiError:
    """What a client is told where the model, not its request, failed."""
    reason = str(error) if isinstance(error, UserError) else "the server failed; its log says why"
    return ApiError(503 if isinstance(error, UserError) else 500, reason, code="server")
