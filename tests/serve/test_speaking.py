"""Pieces of a text become one sound; requests become what is asked for."""

import base64
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax.search.continuous import TakeFailed
from llasa_jax.search.strategies import Pool
from llasa_jax.serve import speaking as module
from llasa_jax.serve.errors import ApiError
from llasa_jax.serve.requests import recording
from llasa_jax.serve.speaking import Speaking, Wish, faded
from llasa_jax.serve.studio import Piece


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_edges_fade_however_the_wave_comes(lengths):
    waves = [np.ones(length, np.float32) for length in lengths]
    found = np.concatenate(list(faded(waves, 10)))
    assert len(found) == sum(lengths)
    if len(found) >= 20:
        ramp = np.sin(np.linspace(0, np.pi / 2, 10)) ** 2
        assert np.allclose(found[:10], ramp, atol=1e-6)
        assert np.allclose(found[-10:], ramp[::-1], atol=1e-6)
        assert (found[10:-10] == 1).all()


@settings(deadline=None)
@given(st.binary(min_size=60, max_size=200))
def test_inline_recordings_are_their_bytes(data):
    text = base64.b64encode(data).decode()
    assert recording(text) == data
    assert recording(f"data:audio/wav;base64,{text}") == data


@pytest.mark.parametrize(
    "given_", ["data:audio/wav,abc", "data:", "/" * 100 + "!", "https://example.com/" + "a" * 60]
)
def test_addresses_and_paths_are_refused(given_):
    with pytest.raises(ApiError):
        recording(given_)


def test_what_is_short_is_a_name():
    assert recording("slt") is None and recording("/etc/passwd") is None


def test_errors_hold_nothing_that_json_cannot():
    body = ApiError(400, "\ud800 é", param="input").body
    assert body["error"]["message"].isascii()


@pytest.mark.parametrize("heard", [0, 4000])
def test_a_first_take_that_fails_fades_and_is_said_again(monkeypatch, heard):
    """Nothing is lost where nothing was heard of it yet; else the piece begins anew."""

    def fails(news, task, decoder, guards):
        yield np.full(heard, 0.5, np.float32)
        raise TakeFailed("loop")

    again = np.full(3000, 0.25, np.float32)
    studio = SimpleNamespace(
        engine=SimpleNamespace(rate=16_000, guards=None), stream_decoder=lambda seconds: None
    )
    wish = Wish([Piece("one", 0.1), Piece("two", 0.3)], None, 0, 1, False, "pcm", 1.0)
    speaking = Speaking(studio, None, wish, 0.5)
    monkeypatch.setattr(module, "heard", fails)
    monkeypatch.setattr(speaking, "_submit", lambda number: (None, number))
    monkeypatch.setattr(speaking, "_kept", lambda number, told: again)
    found = np.concatenate(list(speaking._begun(SimpleNamespace(task=None), None)))
    pause = 1600 if heard else 0
    assert len(found) == heard + pause + len(again)
    np.testing.assert_array_equal(found[heard + pause :], again)
    if heard:
        assert abs(found[heard - 1]) < 1e-3 and (found[heard : heard + pause] == 0).all()
        assert (found[100 : heard - 100] == 0.5).all()


@pytest.mark.parametrize("bad", [0, 2, 3])
def test_a_piece_is_tried_with_other_seeds_before_it_fails(monkeypatch, bad):
    statuses = ["loop"] * bad + ["ok"]
    seeds = []

    def submit(job):
        status = statuses[len(seeds)]
        seeds.append(job.seed)
        job.tell(Pool("one", [None], [np.full(5, len(seeds), np.float32)], [status], {}))

    studio = SimpleNamespace(task=lambda text, voice: None, weights={}, accept={})
    wish = Wish([Piece("one", 0.1)], None, 7, 1, False, "pcm", 1.0)
    speaking = Speaking(studio, SimpleNamespace(submit=submit), wish, 0.5)
    monkeypatch.setattr(module, "best_of", lambda pool, weights: 0)
    told = speaking._submit(0)[1]
    if bad == module.SEEDS:
        with pytest.raises(TakeFailed):
            speaking._kept(0, told)
    else:
        assert speaking._kept(0, told)[0] == bad + 1
    assert seeds == [7 + n * module.ANOTHER for n in range(min(bad + 1, module.SEEDS))]
