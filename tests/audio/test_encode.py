"""Every format decodes to the wave that went in, whole or in pieces, and carries its tags."""

import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax.audio.encode import FORMATS, PCM_RATE, encode, encoded
from llasa_jax.audio.io import to_int16
from llasa_jax.errors import UserError

TAGS = {"title": "Größe & Maß", "comment": "synthetic speech"}
LOSSLESS = ("wav", "flac")


def tone(rate: int, seconds: float = 1.0, pitch: float = 440.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)).astype("f")


def decoded(data: bytes) -> tuple[np.ndarray, int, dict]:
    """Wave, rate and tags, by FFmpeg's decoders."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        tags = dict(container.metadata) | dict(stream.metadata)
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        wave = np.concatenate([f.reshape(-1) for f in frames])
        scale = 1 if wave.dtype.kind == "f" else np.iinfo(wave.dtype).max
        return wave / scale, stream.rate, tags


def pitch_of(wave: np.ndarray, rate: int) -> float:
    return np.abs(np.fft.rfft(wave)).argmax() * rate / len(wave)


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"pcm"}))
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_what_is_encoded_is_heard_again_with_its_tags(format, rate):
    wave = tone(rate)
    data = encode(wave, rate, format, TAGS)
    assert data == encode(wave, rate, format, TAGS)  # the same bytes
    heard, its_rate, tags = decoded(data)
    assert {name: tags[name] for name in TAGS} == TAGS
    assert abs(len(heard) / its_rate - 1) < 0.12  # of aac and mp3 with what they begin with
    assert abs(pitch_of(heard, its_rate) - 440) < 3
    if format in LOSSLESS:
        assert its_rate == rate and len(heard) == len(wave)
        assert np.abs(heard - wave).max() < 1e-4


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_in_pieces_the_same_is_heard(format):
    wave, rate = tone(16_000), 16_000
    pieces = [wave[:1], wave[1:5000], wave[5000:5000], wave[5000:]]
    found = list(encoded(pieces, rate, format, TAGS))
    data, whole = b"".join(found), encode(wave, rate, format, TAGS)
    assert len(found) > 1
    if format == "pcm":
        assert data == whole
    else:
        # Only the header of a whole mp3 says by how much the encoder is late, to be skipped.
        late = 1105 if format == "mp3" else 0
        heard = decoded(data)[0][late : late + 14_000]
        assert np.abs(heard - decoded(whole)[0][:14_000]).max() < 1e-3


def test_a_piece_comes_out_before_the_next_goes_in():
    asked = []

    def waves():
        for number in range(4):
            asked.append(number)
            yield tone(16_000, 0.5)

    stream = encoded(waves(), 16_000, "wav", {})
    next(stream)
    assert len(asked) == 1


def test_pcm_is_bare_samples_at_the_rate_that_clients_expect():
    wave = tone(PCM_RATE, 0.1)
    assert encode(wave, PCM_RATE, "pcm", TAGS) == to_int16(wave).tobytes()
    assert abs(len(encode(tone(16_000), 16_000, "pcm", {})) - 2 * PCM_RATE) < 200


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=300))
def test_loud_samples_are_clipped(samples):
    wave = np.array(samples, np.float32)
    heard, _, _ = decoded(encode(wave, 16_000, "flac", {}))
    assert np.abs(heard - np.clip(wave, -1, 1)).max() < 1e-4


@pytest.mark.parametrize(
    ("wave", "format", "message"),
    [
        (np.zeros(0), "wav", "there is no sound"),
        (np.zeros((2, 100)), "wav", "is no sound"),
        (np.array([0.0, np.nan]), "mp3", "is no sound"),
        (np.zeros(100), "wma", "unknown, there are: wav, flac, mp3, opus, aac, pcm"),
    ],
)
def test_what_is_no_sound_is_refused(wave, format, message):
    with pytest.raises(UserError, match=message):
        encode(wave, 16_000, format, {})
