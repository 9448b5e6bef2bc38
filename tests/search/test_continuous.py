"""Takes that come and go while others are drawn are those that are drawn alone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from llasa_jax.config import GuardConfig
from llasa_jax.search.continuous import ContinuousBatch, Draw, News, TakeFailed, heard
from llasa_jax.search.engine import Task
from llasa_jax.search.take import LOOP, Take

FREE = GuardConfig(loop_codes=0)
HOP = 320


def task(tiny, text, least, most):
    return Task(text, tiny.vocabulary.prompt(text), np.zeros(0, np.int32), (least, most), ())


@pytest.fixture(scope="module")
def draws(tiny):
    """Short and long ones, some of which outgrow the caches of others; one long prompt."""
    bounds = [(20, 30), (100, 140), (1, 60), (40, 50), (20, 90), (10, 20)]
    texts = ["hello there", "one that goes on", "yes", "x" * 200, "hello there", "no more"]
    return [
        Draw(task(tiny, text, *bound), seed=7 + number // 3, number=number)
        for number, (text, bound) in enumerate(zip(texts, bounds, strict=True))
    ]


def take_of(batch, draw):
    return next(one.take for one in batch.follow(draw) if one.take is not None)


@pytest.fixture(scope="module")
def alone(tiny, draws):
    sampler = tiny.sampler()
    return [take_of(ContinuousBatch(sampler, 3, FREE), draw) for draw in draws]


def same(one: Take, two: Take) -> bool:
    return one.codes.tolist() == two.codes.tolist() and one.log_probability == two.log_probability


def test_a_take_is_the_same_whatever_else_comes_and_goes(tiny, draws, alone):
    batch = ContinuousBatch(tiny.sampler(), 3, FREE)
    arrivals = {0: [0, 1], 1: [2], 2: [3, 4], 6: [5]}
    codes, takes = {draw: [] for draw in draws}, {}
    for turn in range(100):
        for number in arrivals.get(turn, ()):
            batch.add(draws[number])
        for one in batch.step():
            assert one.draw not in takes
            codes[one.draw] += one.codes.tolist()
            if one.take is not None:
                takes[one.draw] = one.take
    assert batch.idle and len(takes) == len(draws)
    for draw, wanted in zip(draws, alone, strict=True):
        assert same(takes[draw], wanted)
        assert codes[draw] == wanted.codes.tolist()  # what was told on the way is all of it


def test_what_was_long_is_given_back(tiny, draws):
    batch = ContinuousBatch(tiny.sampler(), 3, FREE)
    rooms = []
    for number in (1, 3):  # many codes, then a long prompt
        batch.add(draws[number])
    short = iter([draws[5], draws[5], *[draws[0]] * 9])
    while not batch.idle:
        if batch.free and (draw := next(short, None)):
            batch.add(draw)
        batch.step()
        if batch._session is not None:
            session = batch._session
            rooms.append((session._slots.codes.shape[2], session._rows.seen.shape[1]))
    assert max(room for room, _ in rooms) > 64 and rooms[-1][0] == 64
    assert max(width for _, width in rooms) > 128 and rooms[-1][1] == 128


def test_a_cancelled_take_leaves_its_slot(tiny, draws, alone):
    batch = ContinuousBatch(tiny.sampler(), 3, FREE)
    for number in (0, 1, 2, 4):
        batch.add(draws[number])
    assert batch.free == -1
    takes = {one.draw: one.take for one in batch.step() if one.take is not None}
    batch.cancel(draws[1])  # it runs
    batch.cancel(draws[4])  # it waits
    batch.cancel(draws[4])  # it is gone
    batch.add(draws[5])
    while not batch.idle:
        takes |= {one.draw: one.take for one in batch.step() if one.take is not None}
    assert set(takes) == {draws[0], draws[2], draws[5]}
    for number in (0, 2, 5):
        assert same(takes[draws[number]], alone[number])


def test_an_urgent_take_waits_only_behind_urgent_ones(tiny, draws):
    batch = ContinuousBatch(tiny.sampler(), 1, FREE)
    urgent = [replace(draws[0], urgent=True), replace(draws[2], urgent=True)]
    for draw in (draws[3], draws[5], *urgent):
        batch.add(draw)
    ended = []
    while not batch.idle:
        ended += [one.draw for one in batch.step() if one.take is not None]
    assert ended == [*urgent, draws[3], draws[5]]


class Decoder:
    """Every code sounds as soon as it comes."""

    config = SimpleNamespace(output_rate=16_000)

    def __call__(self, codes, before=None):
        for some in codes:
            yield np.repeat(np.float32(0.5), len(some) * HOP)


def news(*lengths, stopped=True, doomed=""):
    codes = [np.arange(length, dtype=np.int32) for length in lengths]
    take = Take(np.concatenate(codes), stopped, 0.0, doomed=doomed)
    return [News(None, one, take if one is codes[-1] else None) for one in codes]


def test_a_failure_ends_what_is_heard(tiny):
    said = task(tiny, "hello", 1, 100)
    waves = list(heard(news(20, 5), said, Decoder(), FREE))
    assert [len(wave) for wave in waves] == [20 * HOP, 5 * HOP]
    for failing, name in (
        (news(20, 5, stopped=False), "runaway"),
        (news(20, 5, stopped=False, doomed=LOOP), LOOP),
    ):
        waves = heard(failing, said, Decoder(), FREE)
        assert len(next(waves)) == 20 * HOP
        with pytest.raises(TakeFailed, match=name):
            next(waves)
    with pytest.raises(TakeFailed, match="early_stop"):
        list(heard(news(3), said, Decoder(), FREE))
