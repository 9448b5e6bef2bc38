import sys

import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.metrics import waves

RATE = 16_000


def speechlike(seconds=2.0, seed=0):
    """Noise with a spectral tilt and syllable-like level changes."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * RATE)
    noise = np.cumsum(rng.normal(size=samples)) * 0.98 ** np.arange(samples).clip(max=1)
    noise = np.diff(noise, prepend=0) + 0.5 * rng.normal(size=samples)
    swell = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(samples) / RATE)
    return (0.1 * swell * noise).astype(np.float32)


def noisy(wave, snr_db, seed=1):
    noise = np.random.default_rng(seed).normal(size=len(wave))
    noise *= np.linalg.norm(wave) / np.linalg.norm(noise) * 10 ** (-snr_db / 20)
    return (wave + noise).astype(np.float32)


def test_stoi():
    wave = speechlike()
    assert waves.stoi(wave, wave, RATE) == pytest.approx(1)
    scores = [waves.stoi(wave, noisy(wave, snr), RATE) for snr in (20, 5, -10)]
    assert 1 > scores[0] > scores[1] > scores[2]
    assert waves.stoi(wave, np.pad(wave, (0, 99)), RATE) == pytest.approx(1)


def test_stoi_is_none_where_it_is_not_defined():
    wave = speechlike(0.2)
    assert waves.stoi(wave, wave, RATE) is None
    assert waves.stoi(wave[:10], wave[:10], RATE) is None
    assert waves.stoi(np.zeros(RATE), np.ones(RATE), RATE) is None
    assert waves.stoi(wave[:0], wave, RATE) is None


def test_pesq_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(UserError, match="pip install"):
        waves.pesq(speechlike(), speechlike(), RATE)


def test_pesq():
    pytest.importorskip("pesq")
    wave = speechlike()
    assert waves.pesq(wave, wave, RATE) > 4.5
    assert waves.pesq(wave, noisy(wave, 0), RATE) < 3
    assert waves.pesq(np.zeros(RATE), np.zeros(RATE), RATE) is None
    assert waves.pesq(wave[:100], wave[:100], RATE) is None


def test_mel_distance():
    wave = speechlike()
    assert waves.mel_distance(wave, wave, RATE) == 0
    assert waves.mel_distance(wave, 0.1 * wave, RATE) == pytest.approx(1, abs=0.01)  # log10
    assert waves.mel_distance(wave, noisy(wave, 20), RATE) < waves.mel_distance(
        wave, noisy(wave, 0), RATE
    )


def test_si_sdr():
    wave = speechlike()
    assert waves.si_sdr(wave, noisy(wave, 10)) == pytest.approx(10, abs=0.3)
    assert waves.si_sdr(wave, 3 * noisy(wave, 10) + 0.5) == pytest.approx(10, abs=0.3)
    assert waves.si_sdr(wave, wave) > 80
    assert np.isfinite(waves.si_sdr(np.zeros(100), wave[:100]))


def test_levels():
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert waves.level_db(tone) == pytest.approx(-3.01, abs=0.01)
    assert waves.level_db(0.1 * tone) == pytest.approx(-23.01, abs=0.01)
    assert waves.level_db(np.zeros(10)) == waves.level_db(np.zeros(0)) == waves.FLOOR_DB
    assert waves.frame_levels_db(tone, RATE).shape == (50,)


def test_silence():
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    quiet = np.zeros(RATE // 2)
    wave = np.concatenate([quiet[: RATE // 4], tone, quiet, tone])
    assert waves.longest_silence(wave, RATE) == pytest.approx(0.5, abs=0.021)
    assert waves.silent_share(wave, RATE) == pytest.approx(0.75 / 2.75, abs=0.02)
    assert waves.longest_silence(tone, RATE) == 0 == waves.silent_share(tone, RATE)
    assert waves.longest_silence(quiet, RATE) == 0.5
    assert waves.silent_share(quiet[:0], RATE) == 1 and waves.longest_silence(quiet[:0], RATE) == 0


def late(wave, delay):
    return np.concatenate([np.zeros(delay, wave.dtype), wave])


@pytest.mark.parametrize("true", [0, 7, 333, 1500])
def test_delay_is_what_came_later_whatever_happened_to_the_phases(true):
    references = [speechlike(1, seed) for seed in range(4)]
    other = [np.random.default_rng(9 + i).normal(size=len(r)) for i, r in enumerate(references)]
    swell = [np.convolve(np.abs(r), np.ones(80) / 80, "same") for r in references]
    for rebuilt in (references, [s * o for s, o in zip(swell, other, strict=True)]):
        waves_out = [late(x, true) for x in rebuilt]
        assert waves.delay(references, waves_out, RATE) == pytest.approx(true, abs=40)
    assert waves.delay(references, [late(x, true) for x in references], RATE) == true
    early = [x[100:] for x in references]
    assert waves.delay(references, early, RATE) == -100


def test_delay_is_bounded():
    wave = speechlike(1)
    assert abs(waves.delay([wave], [late(wave, 4000)], RATE)) <= 1600
    assert abs(waves.delay([wave[:50]], [wave[:60]], RATE)) <= 1600
    assert abs(waves.delay([np.zeros(RATE)], [np.zeros(RATE)], RATE)) <= 1600


def test_shifted():
    wave = np.arange(1, 6, dtype=np.float32)
    assert waves.shifted(wave, 2, 4).tolist() == [3, 4, 5, 0]
    assert waves.shifted(wave, -2, 4).tolist() == [0, 0, 1, 2]
    assert waves.shifted(wave, 0, 3).tolist() == [1, 2, 3]
    assert waves.shifted(wave, 9, 2).tolist() == [0, 0] == waves.shifted(wave, -9, 2).tolist()
