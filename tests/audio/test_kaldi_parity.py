"""Kaldi filter banks against transformers' SeamlessM4TFeatureExtractor, in float64 NumPy."""

import jax
import numpy as np
import pytest
import scipy.signal

from llasa_jax.audio.kaldi import fbank, stacked_fbank

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def extractor():
    transformers = pytest.importorskip("transformers")
    return transformers.SeamlessM4TFeatureExtractor(padding_value=1.0)


def speech_like(seconds: float, level: float, seed: int = 0) -> np.ndarray:
    """A buzz of gliding pitch through moving resonances, pauses, and 16-bit steps."""
    rng = np.random.default_rng(seed)
    size = int(seconds * 16000)
    pitch = 120 + 40 * np.sin(np.arange(size) / 5000)
    buzz = np.diff(np.floor(np.cumsum(pitch) / 16000), prepend=0) + 0.003 * rng.normal(size=size)
    out = np.zeros(size)
    for start in range(0, size, 1600):
        part = buzz[start : start + 1600]
        for centre in rng.uniform([250, 900, 2200], [850, 2100, 3500]):
            b, a = scipy.signal.iirpeak(centre, centre / 100, fs=16000)
            out[start : start + 1600] += scipy.signal.lfilter(b, a, part)
    out[size // 2 : size // 2 + 4000] = 0
    return (np.round(out / np.abs(out).max() * level * 32767) / 32768).astype(np.float32)


@pytest.mark.parametrize("level", [0.9, 0.05, 0.001, "low-passed"])
def test_filter_banks_are_those_of_transformers(extractor, level):
    if level == "low-passed":  # as a resampled recording: upper bands 140 dB under the lower ones
        low = scipy.signal.butter(12, 4000, fs=16000, output="sos")
        wave = scipy.signal.sosfilt(low, speech_like(3.0, 0.9)).astype(np.float32)
    else:
        wave = speech_like(3.0, level)
    expected = extractor._extract_fbank_features(wave)
    found = jax.jit(lambda x: fbank(x, rate=16000, bins=80))(wave)
    assert found.shape == expected.shape and expected.std() > 1
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("edge", "hops"), [(160, 100), (160, 1), (160, 2), (0, 100), (0, 3)])
def test_stacked_features_are_those_of_transformers(extractor, edge, hops):
    wave = speech_like(2.0, 0.3)[-hops * 320 :]
    out = extractor(np.pad(wave, edge), sampling_rate=16000, return_tensors="np")
    expected = out["input_features"][0]
    mask = np.ones((1, hops), np.float32)
    run = jax.jit(lambda x: stacked_fbank(x, mask, rate=16000, bins=80, edge=edge))
    found, valid = run(wave[None])
    assert len(expected) == out["attention_mask"].sum() == valid.sum() == hops - (edge == 0)
    np.testing.assert_allclose(found[0, : len(expected)], expected, atol=1e-4)
