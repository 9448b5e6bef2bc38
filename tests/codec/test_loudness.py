"""The loudness loss: what it hears, what it does not, and that it ranks as PESQ ranks."""

import jax
import numpy as np
import pytest
from scipy.stats import spearmanr

from llasa_jax.codec.loudness import loudness_loss

RATE = 16_000
loss = jax.jit(lambda wave, target: loudness_loss(wave, target, RATE))


def voice(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Syllables of a gliding voice, [1, samples]: harmonics under a formant-like envelope."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 40 * seed + 20 * np.sin(5 * time)) / RATE
    formant = 500 + 300 * np.sin(7 * time + seed)
    wave = sum(
        np.exp(-(((n * 150 - formant) / 900) ** 2)) * np.sin(n * phase) for n in range(1, 30)
    )
    syllables = np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    wave = wave * syllables + 0.02 * syllables * rng.standard_normal(len(time))
    return (0.1 * wave / wave.std()).astype(np.float32)[None]


def test_equal_waves_and_masked_differences_are_not_heard():
    wave = voice(0)
    assert abs(float(loss(wave, wave))) < 1e-6
    assert float(loss(0.5 * wave, wave)) < 0.02  # the gain is compensated
    noise = 1e-5 * np.random.default_rng(0).standard_normal(wave.shape)
    assert float(loss(wave + noise.astype(np.float32), wave)) < 0.1


def test_more_noise_is_heard_more():
    wave, noise = voice(1), np.random.default_rng(1).standard_normal(voice(1).shape)
    levels = [float(loss(wave + (x * noise).astype(np.float32), wave)) for x in (0.001, 0.01, 0.1)]
    assert 0 < levels[0] < levels[1] < levels[2]


def test_added_sound_counts_more_than_missing_sound():
    wave = voice(2)
    bursts = np.clip(np.sin(2 * np.pi * 5 * np.arange(wave.shape[1]) / RATE), 0, 1)
    extra = 0.01 * bursts * np.sin(2 * np.pi * 4000 * np.arange(wave.shape[1]) / RATE)
    more = wave + extra.astype(np.float32)
    assert float(loss(more, wave)) > 1.3 * float(loss(wave, more))


def test_the_gradient_is_finite_even_for_silence():
    gradient = jax.jit(jax.grad(lambda wave, target: loudness_loss(wave, target, RATE)))
    wave, silence = voice(0, 0.3), np.zeros((1, round(0.3 * RATE)), np.float32)
    for pair in ((wave, silence), (silence, wave), (silence, silence), (wave, wave)):
        assert np.isfinite(gradient(*pair)).all()


def test_it_ranks_as_pesq():
    pesq = pytest.importorskip("pesq")
    ours, theirs = [], []
    for seed in range(3):
        wave = voice(seed)
        noise = np.random.default_rng(seed).standard_normal(wave.shape)
        damaged = [wave + x * noise for x in (0.001, 0.003, 0.01, 0.03)]
        damaged += [wave * (1 + x * noise) for x in (0.03, 0.1, 0.3)]
        damaged += [np.clip(wave, -x, x) for x in (0.1, 0.2)]
        for one in damaged:
            ours.append(float(loss(one.astype(np.float32), wave)))
            theirs.append(pesq.pesq(RATE, wave[0], one[0].astype(np.float32), "wb"))
    assert spearmanr(ours, theirs).statistic < -0.85
