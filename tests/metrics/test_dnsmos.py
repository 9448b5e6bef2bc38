import sys
from types import SimpleNamespace

import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.metrics.dnsmos import dnsmos


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(UserError, match=r"pip install 'llasa-jax\[eval\]'"):
        dnsmos(np.ones(9, np.float32), 16_000)


def test_the_model_gets_16_kilohertz_in_range(monkeypatch):
    def run(wave, rate):
        assert rate == 16_000 and len(wave) == 16_000 and np.abs(wave).max() == 1
        return {"ovrl_mos": 3.25, "p808_mos": 4.0}

    package = SimpleNamespace(dnsmos=SimpleNamespace(run=run))
    monkeypatch.setitem(sys.modules, "speechmos", package)
    assert dnsmos(1.5 * np.ones(8000), 8000) == 3.25
    assert dnsmos(np.zeros(0), 8000) is None


def test_noise_is_worse_than_less_noise():
    pytest.importorskip("speechmos")
    rng = np.random.default_rng(0)
    time = np.arange(9 * 16_000) / 16_000
    voiced = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20))
    wave = 0.1 * voiced * (1 + np.sin(2 * np.pi * 3 * time))
    scores = [dnsmos(wave + level * rng.normal(size=len(wave)), 16_000) for level in (0.0, 0.1)]
    assert 5 > scores[0] > scores[1] > 0.9
