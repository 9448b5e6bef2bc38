"""Continuous batching: takes join a session's slots while others are drawn, and are heard at once.

`Sampler` draws what it is given and returns; here takes may come, and be given up, at any time. A
take is drawn by the same program from the same randomness, so at a given number of slots it comes
out the same to the last bit whatever else is spoken.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llasa_jax.codec.stream import StreamDecoder
from llasa_jax.config import GuardConfig
from llasa_jax.errors import UserError
from llasa_jax.search.cache import CHUNK, PART, RUNNING
from llasa_jax.search.engine import Task
from llasa_jax.search.guards import judge_codes, judge_take
from llasa_jax.search.sampler import Sampler
from llasa_jax.search.session import Session, Start
from llasa_jax.search.take import OK, Take


class TakeFailed(UserError):
    """A take ended as a named failure after some of it may have been heard."""

    def __init__(self, status: str):
        super().__init__(f"the take failed ({status}); take another seed, or several candidates")
        self.status = status


@dataclass(frozen=True, eq=False)
class Draw:
    """A take that is asked for: what hangs on `seed`, `key` and `number` is as `Sampler` says.

    One that is `urgent` waits only behind others that are.
    """

    task: Task
    seed: int
    key: int = 0
    number: int = 0
    urgent: bool = False


class News(NamedTuple):
    """What has been drawn of a take since the last time.

    Attributes:
        codes: int32 [n].
        take: the whole of it, once it has ended.
    """

    draw: Draw
    codes: np.ndarray
    take: Take | None


class ContinuousBatch:
    """Slots that are refilled from a queue between chunks of steps.

    Args:
        slots: takes that are drawn at once.
        guards: whose loops and silences stop a take at once.
    """

    def __init__(self, sampler: Sampler, slots: int, guards: GuardConfig):
        self._sampler, self._guards = sampler, guards
        self._waiting: deque[Draw] = deque()
        self._drawn: list[Draw | None] = [None] * slots
        self._told = np.zeros(slots, np.int64)  # codes of each slot that were reported
        self._session: Session | None = None

    def __len__(self) -> int:
        return len(self._drawn)

    @property
    def free(self) -> int:
        """Slots for which nothing waits; negative where more waits."""
        return self._drawn.count(None) - len(self._waiting)

    @property
    def idle(self) -> bool:
        return self.free == len(self._drawn)

    def add(self, draw: Draw) -> None:
        place = sum(one.urgent for one in self._waiting) if draw.urgent else len(self._waiting)
        self._waiting.insert(place, draw)

    def cancel(self, draw: Draw) -> None:
        """Gives up a take: its slot is free from the next step on."""
        if draw in self._waiting:
            self._waiting.remove(draw)
        elif draw in self._drawn:
            slot = self._drawn.index(draw)
            self._drawn[slot] = None
            self._session.begin([Start(slot, 0, 0, 0, 0, 0, 0)])  # at most no code: it has ended

    def step(self) -> list[News]:
        """Fills free slots, draws a chunk of codes for each, and tells what there is of them.

        Raises:
            UserError: if the caches do not fit into the memory that is free.
        """
        self._fill()
        if self._session is None:
            return []
        self._session.decode(steps=CHUNK)
        busy = [slot for slot, draw in enumerate(self._drawn) if draw is not None]
        takes = self._session.takes((slot, 0) for slot in busy)
        news = []
        for slot, take in zip(busy, takes, strict=True):
            ended = self._session.seen.ending[slot, 0] != RUNNING
            new = take.codes[self._told[slot] :]
            news.append(News(self._drawn[slot], new, take if ended else None))
            self._told[slot] += len(new)
            if ended:
                self._drawn[slot] = None
        if self.idle:
            self._session = None  # its caches may have grown
        else:
            self._session.trim()
        return news

    def _fill(self) -> None:
        free = [slot for slot, draw in enumerate(self._drawn) if draw is None]
        filled = list(zip(free, self._waiting, strict=False))
        if not filled:
            return
        if self._session is None:
            lengths = [len(draw.task.ids) for _, draw in filled]
            most = max(draw.task.bounds[1] for _, draw in filled)
            self._session = Session(
                self._sampler,
                len(self._drawn),
                1,
                longest=max(PART, *lengths),
                most=most,
                guards=self._guards,
            )
        self._session.install({slot: draw.task.ids for slot, draw in filled})
        starts = []
        for slot, draw in filled:
            self._waiting.popleft()
            self._drawn[slot], self._told[slot] = draw, 0
            place = slot, 0, draw.seed, draw.key, draw.number
            starts.append(Start(*place, *draw.task.bounds))
        self._session.begin(starts)

    def follow(self, draw: Draw) -> Iterator[News]:
        """What is drawn of one take, alone, until it ends."""
        self.add(draw)
        try:
            while not self.idle:
                yield from self.step()
        finally:
            self.cancel(draw)


def heard(
    news: Iterable[News], task: Task, decoder: StreamDecoder, guards: GuardConfig
) -> Iterator[np.ndarray]:
    """The waves float32 [samples] of a take while it is drawn.

    Joined they are what `Engine.waves` gives of it, as near as the decoder's streams come to that.

    Raises:
        TakeFailed: as soon as a guard refuses it. What was heard before cannot be taken back.
    """
    take: Take | None = None

    def codes() -> Iterator[np.ndarray]:
        nonlocal take
        for one in news:
            take = one.take
            if take is not None and (status := judge_codes(take, guards)) != OK:
                raise TakeFailed(status)
            yield one.codes

    parts = []
    for wave in decoder(codes(), before=task.known if len(task.known) else None):
        parts.append(wave)
        yield wave
    wave, rate = np.concatenate([np.zeros(0, np.float32), *parts]), decoder.config.output_rate
    if (status := judge_take(task.text, take, wave, rate, guards)) != OK:
        raise TakeFailed(status)
