from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax import nn
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.codec.stream import StreamDecoder
from llasa_jax.errors import UserError

CHUNK = 7


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(0, 60, 200).astype(np.int32)


@pytest.fixture(scope="module")
def codec(tiny):
    return BatchCodec(*tiny)


@pytest.fixture(scope="module")
def stream(tiny):
    return StreamDecoder(*tiny, chunk=CHUNK)


def joined(stream, codes):
    return np.concatenate(list(stream(codes)))


def arrivals(codes, cuts):
    """The codes in pieces, ending at `cuts`; every other piece of one comes as a number."""
    for piece in np.split(codes, sorted(cuts)):
        yield int(piece[0]) if len(piece) == 1 else piece


@pytest.fixture(scope="module")
def causal(tiny, fill, codes):
    """A causal configuration with parameters, and what it makes of all codes at once."""
    config = replace(tiny[0], causal=True, window=8)
    params = fill(config)
    (whole,) = BatchCodec(config, params).decode([codes])
    return config, params, whole


@pytest.mark.parametrize("chunk", [1, 6, 25])
def test_a_causal_decoder_streams_what_it_decodes_at_once(causal, codes, chunk):
    config, params, whole = causal
    stream = StreamDecoder(config, params, chunk)
    assert stream.memory + stream.right + chunk < len(codes) / 2  # it does forget
    assert stream.latency == (chunk + 2) / config.frame_rate
    wave = joined(stream, codes)
    np.testing.assert_allclose(wave, whole, atol=1e-4 * np.abs(whole).max())


def test_a_causal_decoder_needs_its_contexts_and_its_memory(causal, codes):
    config, params, whole = causal
    for lacking in ("left", "right", "memory"):
        stream = StreamDecoder(config, params, 6)
        setattr(stream, lacking, {"left": 12, "right": 1, "memory": 12}[lacking])
        wave = joined(stream, codes)
        assert np.abs(wave - whole).max() > 1e-3 * np.abs(whole).max(), lacking


def test_norms_remember_the_moments_of_all_that_was_new():
    rng = np.random.default_rng(0)
    x = (3 + rng.normal(size=(1, 29, 6)) * [1, 5, 0.1, 2, 2, 2]).astype(np.float32)
    norm = nn.GroupNorm(6, 3, eps=1e-6, rngs=nnx.Rngs(0))
    left, chunk, right = 2, 5, 2
    step = jax.jit(lambda *window: norm.stream(*window[:2], nn.Span(left, chunk), window[2]))
    zero = np.zeros((1, 1, 3, 1), np.float32)
    past, padded = nn.Moments(zero, zero, zero), np.pad(x, ((0, 0), (left, 0), (0, 0)))
    for start in range(0, 29 - right - chunk + 1, chunk):
        end = start + chunk + right
        heard = np.float32(np.arange(start - left, end)[None] >= 0)
        y, past = step(padded[:, start : end + left], heard, past)
        groups = x[:, :end].reshape(end, 3, 2)
        whole = (groups - groups.mean((0, 2), keepdims=True)) / groups.std((0, 2), keepdims=True)
        np.testing.assert_allclose(y[0, left:], whole.reshape(end, 6)[start:], atol=1e-4)
    assert np.all(past.count == 2 * 25)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.lists(st.integers(0, 200)))
def test_however_the_codes_come_the_sound_is_the_same_and_whole(stream, codes, count, cuts):
    some = codes[:count]
    wave = joined(stream, some)
    assert wave.shape == (count * stream.config.output_hop,) and wave.dtype == np.float32
    pieces = arrivals(some, [cut for cut in cuts if cut <= count])
    np.testing.assert_array_equal(joined(stream, pieces), wave)
    np.testing.assert_array_equal(joined(stream, map(int, some)), wave)


def test_one_program_serves_every_length_and_chunk(stream, codes):
    for count in (1, 30, 57, 58, 200):
        joined(stream, codes[:count])
    assert stream.decode._cache_size() == 1


def test_a_chunk_sounds_as_soon_as_its_latency_has_come(stream, codes):
    """Counts the codes taken before each piece of sound."""
    taken = []

    def source():
        for code in codes:
            taken.append(code)
            yield code

    heard = [(len(taken), len(wave)) for wave in stream(source())]
    wait = round(stream.latency * stream.config.frame_rate)
    assert wait == CHUNK + stream.right
    hop = stream.config.output_hop
    assert heard[:3] == [(wait + i * CHUNK, CHUNK * hop) for i in range(3)]
    assert heard[-1][0] == len(codes)


def test_what_fits_into_one_window_is_decoded_as_a_whole(stream, codec, codes):
    some = codes[: CHUNK + stream.right - 1]
    (whole,) = codec.decode([some])
    np.testing.assert_allclose(joined(stream, some), whole, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize("count", [1, CHUNK, 90])
def test_what_comes_before_is_heard_and_does_not_sound(stream, codes, count):
    hop = stream.config.output_hop
    before, after = codes[:count], codes[count:]
    wave = np.concatenate(list(stream(arrivals(after, [3, 4]), before=before)))
    np.testing.assert_array_equal(wave, joined(stream, codes)[count * hop :])
    assert not np.array_equal(wave, joined(stream, after))
    assert list(stream([], before=before)) == []


def test_a_causal_stream_goes_on_as_the_whole_does(causal, codes):
    config, params, whole = causal
    stream = StreamDecoder(config, params, 6)
    wave = np.concatenate(list(stream(codes[40:], before=codes[:40])))
    rest = whole[40 * config.output_hop :]
    np.testing.assert_allclose(wave, rest, atol=1e-4 * np.abs(whole).max())


def test_a_chunk_is_two_seconds_and_its_context_one(tiny):
    stream = StreamDecoder(*tiny)
    rate = stream.config.frame_rate
    assert (stream.chunk, stream.right) == (2 * rate, rate) and stream.left <= rate
    assert stream.latency == 3


def test_codes_beyond_the_codebook_are_refused(stream):
    for wrong in ([60], [3, -1], [np.array([1, 60])]):
        with pytest.raises(UserError, match=r"in 0\.\.59"):
            joined(stream, wrong)
    assert list(stream([])) == []
