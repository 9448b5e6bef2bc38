"""What a request makes: bytes of sound, or lines about candidates, in a thread of its own."""

import asyncio
import base64
import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np

from llasa_jax.audio.encode import encode, encoded
from llasa_jax.audio.tempo import stretched
from llasa_jax.search.continuous import News, TakeFailed, heard
from llasa_jax.search.strategies import Pool, best_of, combined, first_accepted
from llasa_jax.search.take import OK
from llasa_jax.serve.errors import ApiError
from llasa_jax.serve.studio import Piece, Studio
from llasa_jax.serve.worker import Cancelled, Candidate, Job, Worker, model_error

AHEAD = 4  # pieces of one text that are drawn at once: other requests have their turn
SEEDS = 3  # that a piece is tried with, each as often as the guards draw again
ANOTHER = 1_000_003  # from a piece's seed to the next one's
FADE_SECONDS = 0.005  # at the edges of a piece, so that none begins or ends with a click


class Wish(NamedTuple):
    """What is asked for, checked: `voice` is the studio's, `pieces` not empty."""

    pieces: list[Piece]
    voice: Any
    seed: int
    candidates: int
    sequential: bool
    format: str
    speed: float


class Speaking:
    """Speaks one request with the worker.

    `sounds`, `stream` and `search` run in a thread; `cancel` may come from any.
    """

    def __init__(self, studio: Studio, worker: Worker, wish: Wish, chunk_seconds: float):
        self._studio, self._worker, self._wish = studio, worker, wish
        self._chunk_seconds = chunk_seconds
        self._lock, self._cancelled = threading.Lock(), False
        self._jobs: list[Job] = []
        self.samples = 0  # of sound made so far

    @property
    def seconds(self) -> float:
        """Of sound made so far."""
        return self.samples / self._studio.engine.rate

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            jobs = list(self._jobs)
        for job in jobs:
            self._worker.cancel(job)

    def sound(self) -> Iterator[bytes]:
        """The whole file."""
        count, waves = len(self._wish.pieces), []
        jobs = [self._submit(number) for number in range(min(AHEAD, count))]
        for number in range(count):
            waves.append(self._kept(number, jobs[number][1]))
            if number + AHEAD < count:
                jobs.append(self._submit(number + AHEAD))
        yield self._file(waves)

    def stream(self) -> Iterator[bytes]:
        """The file while it is drawn: the first piece as its codes come, the others whole, each
        drawn while the one before is heard."""

        def waves() -> Iterator[Iterable[np.ndarray]]:
            count = len(self._wish.pieces)
            first, after = self._submit(0, streamed=True), None
            for number in range(count):
                told, after = after, self._submit(number + 1)[1] if number + 1 < count else None
                yield [self._kept(number, told)] if number else self._begun(*first)

        rate, wish = self._studio.engine.rate, self._wish
        sound = stretched(self._counted(self._joined(waves())), rate, wish.speed)
        tags = self._studio.metadata(wish.voice, wish.seed)
        yield from encoded(sound, rate, wish.format, tags)

    def _begun(self, job: Job, told: queue.SimpleQueue) -> Iterator[np.ndarray]:
        """The first piece while it is drawn. What was heard of a take that fails cannot be taken
        back: it fades, and after a pause the piece is said again, whole."""
        studio, rate, failed = self._studio, self._studio.engine.rate, []

        def take() -> Iterator[np.ndarray]:
            decoder = studio.stream_decoder(self._chunk_seconds)
            try:
                yield from heard(_told(told), job.task, decoder, studio.engine.guards)
            except TakeFailed as error:
                failed.append(error)

        heard_of_it = 0
        for wave in faded(take(), round(FADE_SECONDS * rate)):
            heard_of_it += len(wave)
            yield wave
        if failed:
            if heard_of_it:
                yield np.zeros(round(self._wish.pieces[0].pause * rate), np.float32)
            yield self._kept(0, self._submit(0)[1])

    def search(self) -> Iterator[bytes]:
        """A line of JSON for each piece, candidate and choice, and one with the file."""
        wish, waves = self._wish, []
        for number, piece in enumerate(wish.pieces):
            about = {"piece": number, "of": len(wish.pieces), "text": piece.text}
            yield _line({"type": "piece"} | about)
            pool = None
            for found in _told(self._submit(number)[1]):
                if isinstance(found, Pool):
                    pool = found
                else:
                    yield _line(self._candidate(number, found))
            place = self._choice(pool)
            waves.append(pool.waves[place])
            yield _line({"type": "choice", "piece": number} | self._curve(pool, place))
        file = {"audio": _text(self._file(waves)), "format": wish.format}
        yield _line({"type": "speech", "seconds": self.seconds} | file)

    def _candidate(self, piece: int, found: Candidate) -> dict:
        rate = self._studio.engine.rate
        about = {"piece": piece, "candidate": found.number, "status": found.status}
        about |= {"scores": found.scores, "seconds": len(found.wave) / rate}
        if len(found.wave):
            about["audio"] = _text(encode(found.wave, rate, "wav", {}))
        return {"type": "candidate"} | about

    def _curve(self, pool: Pool, place: int) -> dict:
        """What is kept of the first n candidates, for each n: the search curve of this sentence."""
        curve = []
        for n in range(1, len(pool.takes) + 1):
            kept = self._best(pool.first(n))
            scores = {name: float(values[kept]) for name, values in pool.scores.items()}
            curve.append({"candidates": n, "kept": kept, "scores": scores})
        totals = combined(pool.scores, self._weights(pool), pool.statuses)
        return {"candidate": place, "totals": totals.tolist(), "curve": curve}

    def _weights(self, pool: Pool) -> dict[str, float]:
        return {name: w for name, w in self._studio.weights.items() if name in pool.scores}

    def _best(self, pool: Pool) -> int:
        if self._wish.sequential and pool.scores:
            place = first_accepted(pool, self._studio.accept)
            if place is not None:
                return place
        return best_of(pool, self._weights(pool))

    def _choice(self, pool: Pool) -> int:
        place = self._best(pool)
        if pool.statuses[place] != OK:
            raise TakeFailed(pool.statuses[place])
        return place

    def _kept(self, number: int, told: queue.SimpleQueue) -> np.ndarray:
        """The wave of a piece that was submitted; where all takes fail, those of other seeds.

        Raises:
            TakeFailed: if all seeds' fail.
        """
        for attempt in range(1, SEEDS + 1):
            pool = next(found for found in _told(told) if isinstance(found, Pool))
            try:
                return pool.waves[self._choice(pool)]
            except TakeFailed:
                if attempt == SEEDS:
                    raise
                told = self._submit(number, attempt=attempt)[1]

    def _submit(
        self, number: int, *, streamed: bool = False, attempt: int = 0
    ) -> tuple[Job, queue.SimpleQueue]:
        wish, told = self._wish, queue.SimpleQueue()
        job = Job(
            self._studio.task(wish.pieces[number].text, wish.voice),
            wish.seed + attempt * ANOTHER,
            told.put,
            key=number,
            candidates=wish.candidates,
            accept=self._studio.accept if wish.sequential else None,
            streamed=streamed,
        )
        with self._lock:
            if self._cancelled:
                raise Cancelled
            self._jobs.append(job)
        self._worker.submit(job)
        return job, told

    def _file(self, waves: list[np.ndarray]) -> bytes:
        rate, wish = self._studio.engine.rate, self._wish
        joined = self._counted(self._joined([wave] for wave in waves))
        wave = np.concatenate(list(stretched(joined, rate, wish.speed)))
        return encode(wave, rate, wish.format, self._studio.metadata(wish.voice, wish.seed))

    def _counted(self, waves: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for wave in waves:
            self.samples += len(wave)
            yield wave

    def _joined(self, pieces: Iterable[Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
        """The waves of all pieces, with their pauses; each fades in and out."""
        rate = self._studio.engine.rate
        for piece, waves in zip(self._wish.pieces, pieces, strict=True):
            yield from faded(waves, round(FADE_SECONDS * rate))
            if piece is not self._wish.pieces[-1]:
                yield np.zeros(round(piece.pause * rate), np.float32)


def faded(waves: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Waves float32 [samples] of which the first and last `count` samples in all fade."""
    ramp = np.sin(np.linspace(0, np.pi / 2, count, dtype=np.float32)) ** 2
    held, begun = np.zeros(0, np.float32), False
    for wave in waves:
        held = np.concatenate([held, wave])
        if not begun and len(held) >= 2 * count:
            held[:count] *= ramp
            begun = True
        if begun and len(held) > count:
            yield held[: len(held) - count]
            held = held[len(held) - count :]
    if begun:
        held[len(held) - count :] *= ramp[::-1]
    yield held


def _told(told: queue.SimpleQueue) -> Iterator[Any]:
    """What a job tells, until its pool or its streamed take is there, or it fails."""
    while True:
        found = told.get()
        if isinstance(found, Exception):
            raise found if isinstance(found, Cancelled | ApiError) else model_error(found)
        yield found
        if isinstance(found, Pool) or isinstance(found, News) and found.take is not None:
            return


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _line(found: dict) -> bytes:
    return json.dumps(found).encode() + b"\n"


def events(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of a file as OpenAI's server-sent events; a failure is one, too."""
    try:
        for chunk in chunks:
            if chunk:
                yield _event({"type": "speech.audio.delta", "audio": _text(chunk)})
    except TakeFailed as error:
        yield _event({"type": "error"} | failure(error).body)
        return
    yield _event({"type": "speech.audio.done"})


def _event(found: dict) -> bytes:
    return b"data: " + json.dumps(found).encode() + b"\n\n"


def failure(error: TakeFailed) -> ApiError:
    return ApiError(503, str(error), code=error.status)


class Items:
    """What a generator makes in a thread, taken out by the event loop.

    Args:
        on_end: called when the thread is done, in the event loop.
    """

    def __init__(self, pool: Executor, items: Iterator[bytes], on_end: Callable[[], None]):
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._on_end = on_end
        pool.submit(self._run, items)

    def _run(self, items: Iterator[bytes]) -> None:
        last: Exception | None = None
        try:
            for item in items:
                self._put(item)
        except Exception as error:
            last = error
        self._put(last)
        self._call(self._on_end)

    def _put(self, item: bytes | Exception | None) -> None:
        self._call(self._queue.put_nowait, item)

    def _call(self, function: Callable, *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            pass  # the loop is closed: the server has stopped

    async def next(self) -> bytes | None:
        """The next item, None after the last; raises what ended the thread."""
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item
