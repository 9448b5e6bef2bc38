import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax.audio import io
from llasa_jax.errors import UserError


def sine(hertz, rate, seconds=0.5, level=0.5):
    time = np.arange(round(rate * seconds)) / rate
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_what_is_written_is_read(tmp_path, suffix):
    wave = sine(440, 16_000)
    io.write_audio(tmp_path / f"new/a{suffix}", wave, 16_000)
    back, rate = io.read_audio(tmp_path / f"new/a{suffix}")
    assert rate == 16_000 and back.dtype == np.float32 and back.shape == wave.shape
    np.testing.assert_allclose(back, wave, atol=1 / 16_384)
    assert [p.name for p in (tmp_path / "new").iterdir()] == [f"a{suffix}"]  # no temporary file


def test_stereo_at_44_kilohertz_becomes_one_channel_at_16(tmp_path):
    left, right = sine(440, 44_100), sine(1000, 44_100)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 44_100)
    wave, rate = io.read_audio(tmp_path / "a.wav", 16_000)
    assert rate == 16_000 and abs(len(wave) - 8000) <= 1
    expected = (sine(440, 16_000) + sine(1000, 16_000)) / 2
    np.testing.assert_allclose(wave[500:7500], expected[500:7500], atol=2e-3)


@pytest.mark.parametrize("rate, channels", [(8000, 1), (16_000, 3), (44_100, 2)])
def test_blocks_change_nothing(tmp_path, monkeypatch, rate, channels):
    noise = np.random.default_rng(0).uniform(-1, 1, (5000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, rate, subtype="FLOAT")
    whole, _ = io.read_audio(tmp_path / "a.wav", 16_000)
    np.testing.assert_allclose(whole, io.resample(noise.mean(1), rate, 16_000), atol=1e-6)
    monkeypatch.setattr(io, "BLOCK", 640)
    blocks, _ = io.read_audio(tmp_path / "a.wav", 16_000)
    assert blocks.shape == whole.shape
    np.testing.assert_allclose(blocks, whole, atol=1e-6)


def test_samples_somewhat_beyond_full_scale_are_kept(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.0, 2.0, -3.0]), 16_000, subtype="FLOAT")
    assert io.read_audio(tmp_path / "a.wav")[0].tolist() == [0.0, 2.0, -3.0]


def test_g722_is_decoded_at_16_kilohertz(tmp_path):
    av = pytest.importorskip("av")
    wave = sine(440, 16_000)
    with av.open(str(tmp_path / "a.g722"), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(io.to_int16(wave)[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    back, rate = io.read_audio(tmp_path / "a.g722")
    assert rate == 16_000 and abs(len(back) - len(wave)) < 400
    spectrum = np.abs(np.fft.rfft(back))
    assert abs(np.argmax(spectrum) * rate / len(back) - 440) < 5
    assert 0.4 < np.abs(back).max() < 0.6


def broken_files(folder):
    (folder / "garbage.wav").write_bytes(b"RIFF" + bytes(range(200)))
    (folder / "text.flac").write_text("not audio")
    (folder / "zero.wav").write_bytes(b"")
    (folder / "zero.g722").write_bytes(b"")
    soundfile.write(folder / "empty.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(folder / "nan.wav", np.array([0, np.nan]), 16_000, subtype="FLOAT")
    loud = np.array([0, 0, 2e38, 0], np.float32)
    soundfile.write(folder / "loud.wav", loud, 16_000, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.array([[np.inf, -np.inf]]), 16_000, subtype="FLOAT")
    soundfile.write(folder / "rate.wav", np.zeros(9), 50)
    (folder / "folder.wav").mkdir()
    return ["garbage.wav", "text.flac", "zero.wav", "zero.g722", "empty.wav", "nan.wav",
            "loud.wav", "inf.wav", "rate.wav", "folder.wav", "missing.wav"]  # fmt: skip


def test_bad_files_are_one_line_with_their_path(tmp_path):
    for name in broken_files(tmp_path):
        with pytest.raises(UserError) as caught:
            io.read_audio(tmp_path / name, 24_000)
        message = str(caught.value)
        assert name in message and "\n" not in message, message


def test_over_an_hour_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "MAX_SECONDS", 1)
    io.write_audio(tmp_path / "a.wav", sine(440, 16_000, seconds=1.5), 16_000)
    (tmp_path / "a.g722").write_bytes(bytes(12_000))
    for name in ("a.wav", "a.g722"):
        with pytest.raises(UserError, match="over an hour"):
            io.read_audio(tmp_path / name)


@pytest.mark.parametrize(
    "name, wave",
    [
        ("a.mp3", np.zeros(9)),
        ("a.wav", np.zeros((2, 9))),
        ("a.wav", np.zeros(0)),
        ("a.wav", np.array([np.nan])),
    ],
)
def test_what_is_no_wave_is_not_written(tmp_path, name, wave):
    with pytest.raises(UserError):
        io.write_audio(tmp_path / name, wave, 16_000)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    io.write_audio(tmp_path / "a.wav", sine(440, 16_000), 16_000)
    before = (tmp_path / "a.wav").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full)
    with pytest.raises(UserError, match="No space left"):
        io.write_audio(tmp_path / "a.wav", sine(880, 16_000), 16_000)
    assert (tmp_path / "a.wav").read_bytes() == before and len(os.listdir(tmp_path)) == 1


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([8000, 16_000, 22_050, 44_100, 48_000]), st.integers(200, 20_000))
def test_resampling_keeps_the_length_in_seconds(rate, samples):
    wave = np.random.default_rng(samples).uniform(-1, 1, samples).astype(np.float32)
    out = io.resample(wave, rate, 16_000)
    assert out.dtype == np.float32
    assert abs(len(out) - samples * 16_000 / rate) <= 1


def test_to_int16_clips():
    assert io.to_int16(np.array([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [
        -32767, -32767, 0, 32767, 32767,
    ]  # fmt: skip


def test_reading_does_not_need_heavy_imports():
    code = "import sys, llasa_jax.audio.io; print({'jax', 'librosa', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_bytes_are_read_as_files_are(tmp_path):
    soundfile.write(tmp_path / "a.mp3", sine(440, 24_000), 24_000, format="MP3")
    from_file = io.read_audio(tmp_path / "a.mp3", 16_000)
    wave, rate = io.decode_audio((tmp_path / "a.mp3").read_bytes(), "a.mp3", 16_000)
    assert rate == from_file[1] == 16_000
    np.testing.assert_array_equal(wave, from_file[0])
    for data in (b"", b"RIFF nonsense", (tmp_path / "a.mp3").read_bytes()[:2]):
        with pytest.raises(UserError, match="shard 7: a"):
            io.decode_audio(data, "shard 7: a.mp3")
