import importlib.util

import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.verifiers import external


def test_samples_are_clipped_not_wrapped():
    pcm = np.frombuffer(external.to_pcm(np.array([0.0, 1.5, -1.5, 0.5], np.float32)), "<i2")
    assert pcm.tolist() == [0, 32767, -32767, 16384]


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install pocketsphinx"):
        external.Pocketsphinx()


def test_pocketsphinx_hears_the_same_in_any_order():
    pytest.importorskip("pocketsphinx")
    rng = np.random.default_rng(0)
    waves = [rng.normal(0, 0.05, n).astype(np.float32) for n in (8000, 12000, 0, 9600)]
    judge = external.Pocketsphinx()
    done = []
    texts = judge.transcribe(waves, lambda: done.append(1))
    assert len(texts) == len(done) == 4 and texts[2] == ""
    assert judge.transcribe(waves[::-1])[::-1] == texts
