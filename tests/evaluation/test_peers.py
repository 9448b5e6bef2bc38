import stat
from types import SimpleNamespace

import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.evaluation import peers
from llasa_jax.evaluation.peers import CODEC2_FRAMES, RATE, Codec2, Codec2Programs, Opus, Ours
from llasa_jax.metrics.waves import delay, stoi


def voice(seconds=3.0, pitch=110.0):
    """Harmonics under moving formants, in syllables."""
    time = np.arange(int(seconds * RATE)) / RATE
    formants = (500 + 200 * np.sin(7 * time), 1500 + 400 * np.cos(5 * time))
    wave = 0
    for k in range(1, 30):
        gain = sum(np.exp(-(((k * pitch - f) / 200) ** 2)) for f in formants)
        wave = wave + gain * np.sin(2 * np.pi * k * pitch * time)
    wave = wave * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * time))
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.mark.parametrize(("constant", "low", "high"), [(False, 5000, 8000), (True, 5950, 6250)])
def test_opus_runs_at_six_kilobits_and_takes_its_own_delay_off(constant, low, high):
    waves, opus = [voice(), voice(2.01, 180.0)], Opus(constant)
    seconds = sum(map(len, waves)) / RATE
    payloads = opus.encode(waves)
    rebuilt = opus.decode(payloads)
    rate = opus.bits_per_second(payloads, seconds)
    assert low < rate < high
    assert rate == 8 * sum(len(b"".join(each.packets)) for each in payloads) / seconds
    sizes = {len(packet) for each in payloads for packet in each.packets}
    assert (len(sizes) == 1) == constant
    for wave, out in zip(waves, rebuilt, strict=True):
        assert out.dtype == np.float32 and 0 <= len(out) - len(wave) < 0.1 * RATE
        assert stoi(wave, out, RATE) > 0.6
    if not constant:  # close enough to the original to tell
        assert abs(delay(waves, rebuilt, RATE)) < 16


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_codec2_works_at_8_kilohertz_in_whole_frames(tmp_path):
    log = tmp_path / "log"
    encoder = program(tmp_path / "enc", f'echo "$1 $2 $3" >> {log}; cat')
    decoder = program(tmp_path / "dec", f'echo "$1 $2 $3" >> {log}; head -c 80 /dev/zero; cat')
    programs = Codec2Programs(encoder, decoder, {"PATH": "/usr/bin:/bin"}, "1")
    wave = voice(0.99)
    for bits, frame in CODEC2_FRAMES.items():
        codec = Codec2(bits, programs)
        (payload,) = codec.encode([wave])
        assert len(payload) % (2 * frame) == 0
        assert 2 * frame <= len(payload) // 2 - len(wave) // 2 < 3 * frame
        (out,) = codec.decode([payload])
        assert delay([wave], [out], RATE) == pytest.approx(80, abs=2)  # 40 samples at 8 kHz
        assert codec.bits_per_second([payload], 1.0) == bits
    modes = [line.split() for line in log.read_text().splitlines()]
    assert [mode for mode, *_ in modes[::2]] == ["700C", "1200", "1600", "3200"]
    assert all(rest == ["-", "-"] for _, *rest in modes)


def test_codec2_that_fails_is_one_line(tmp_path):
    bad = program(tmp_path / "bad", "echo broken >&2; exit 3")
    silent = program(tmp_path / "silent", "cat > /dev/null")
    for name, reason in ((bad, "broken"), (silent, "no output"), (str(tmp_path / "no"), "run")):
        with pytest.raises(UserError, match=reason):
            Codec2(1600, Codec2Programs(name, name, {}, "1")).encode([voice(0.1)])


def test_the_programs_are_the_systems_own_else_the_packages(tmp_path, monkeypatch):
    own = tmp_path / "bin"
    own.mkdir()
    program(own / "c2enc", "")
    program(own / "c2dec", "")
    monkeypatch.setenv("PATH", str(own))
    monkeypatch.setattr(peers, "fetch_packages", lambda *_, **__: pytest.fail("fetched"))
    assert Codec2Programs.find(tmp_path).encoder == str(own / "c2enc")
    monkeypatch.setenv("PATH", "")
    changes = tmp_path / "codec2/usr/share/doc/codec2/changelog.Debian.gz"
    changes.parent.mkdir(parents=True)
    with peers.gzip.open(changes, "wt") as file:
        file.write("codec2 (1.2-3) unstable; urgency=low\n")
    monkeypatch.setattr(peers, "fetch_packages", lambda *_, **__: [tmp_path / "codec2"])
    found = Codec2Programs.find(tmp_path)
    assert found.version == "1.2-3"
    assert found.decoder == str(tmp_path / "codec2/usr/bin/c2dec")


def test_ours_is_resampled_to_and_from_its_rates():
    config = SimpleNamespace(
        sample_rate=8000, output_rate=24_000, codebook_size=4096, frame_rate=40.0
    )

    class Codec:
        def __init__(self):
            self.config = config

        def encode(self, waves):
            return [np.zeros(len(wave) // 200, np.int32) for wave in waves]

        def decode(self, codes):
            return [np.zeros(len(each) * 600, np.float32) for each in codes]

    ours = Ours(Codec())
    codes = ours.encode([np.zeros(RATE, np.float32)])
    assert len(codes[0]) == 40 and len(ours.decode(codes)[0]) == RATE
    assert ours.bits_per_second(codes, 1.0) == 480


@pytest.mark.network
def test_the_real_codec2(tmp_path):
    programs, wave = Codec2Programs.find(tmp_path), voice()
    for bits in CODEC2_FRAMES:
        codec = Codec2(bits, programs)
        payloads = codec.encode([wave])
        (out,) = codec.decode(payloads)
        written = 8 * len(payloads[0]) / (len(wave) / RATE)
        assert bits <= written < 1.25 * bits + 200  # 700C's 28 bits a frame stand in 4 bytes
        assert len(out) >= len(wave)
        assert 0 <= delay([wave], [out], RATE) < 0.06 * RATE
