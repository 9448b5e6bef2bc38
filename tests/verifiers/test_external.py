import importlib.util
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.verifiers import external


def test_samples_are_clipped_not_wrapped():
    pcm = np.frombuffer(external.to_pcm(np.array([0.0, 1.5, -1.5, 0.5], np.float32)), "<i2")
    assert pcm.tolist() == [0, 32767, -32767, 16384]


@pytest.mark.parametrize(
    "judge, command",
    [
        (external.Pocketsphinx, "pip install pocketsphinx"),
        (external.Paraformer, "pip install funasr"),
        (external.Dnsmos, r"pip install 'llasa-jax\[eval\]'"),
        (external.Utmos, "pip install torch"),
    ],
)
def test_a_missing_package_says_how_to_install_it(monkeypatch, judge, command):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=command):
        judge()


def test_utmos_hears_each_wave_through_torch_hub(monkeypatch):
    """With a stand-in for torch and its hub: the model gives a wave's mean."""

    class Model:
        def eval(self):
            return self

        def __call__(self, sound, rate):
            assert sound.shape[0] == 1 and sound.dtype == np.float32 and rate == 16000
            return [sound.mean()]

    def load(repository, name, trust_repo):
        if not trust_repo or not online:
            raise OSError("no network\nat all")
        assert (repository, name) == ("tarepan/SpeechMOS:v1.2.0", "utmos22_strong")
        return Model()

    fake = SimpleNamespace(
        hub=SimpleNamespace(load=load), inference_mode=nullcontext, from_numpy=lambda x: x
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch", fake)
    online = True
    waves = [np.full(10, 2.0), np.zeros(0, np.float32), np.full(5, 4.0, np.float32)]
    np.testing.assert_array_equal(external.Utmos().scores(waves), np.float32([2, np.nan, 4]))
    online = False
    with pytest.raises(UserError, match="OSError: no network") as caught:
        external.Utmos()
    assert "\n" not in str(caught.value)


@pytest.fixture
def paraformer(monkeypatch):
    """A stand-in for FunASR that hears a wave's length in words."""

    class AutoModel:
        def __init__(self, model, **_):
            if model == "broken":
                raise RuntimeError("no such model\nat all")

        def generate(self, input, fs):
            assert fs == 16000
            return [{"key": "wave", "text": " ".join(["ja"] * (len(input) // 1000))}]

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "funasr", SimpleNamespace(AutoModel=AutoModel))
    return external.Paraformer


def test_a_judge_scores_by_its_errors(paraformer):
    waves = [np.zeros(n, np.float32) for n in (0, 1000, 2000, 5000)]
    scorer = external.WordScorer(paraformer())
    assert scorer.name == "paraformer"
    np.testing.assert_allclose(scorer.scores(waves, "Ja, ja!"), [-1, -0.5, 0, -1.5])
    by_letters = external.WordScorer(paraformer(), characters=True)
    np.testing.assert_allclose(by_letters.scores(waves, "ja ja"), [-1, -0.6, 0, -9 / 5])
    with pytest.raises(UserError, match="no word"):
        scorer.scores(waves, "123")


def test_a_model_that_does_not_load_says_so(paraformer):
    with pytest.raises(UserError, match=r"broken cannot be loaded \(RuntimeError: no such model\)"):
        paraformer("broken")


def test_quality_is_scored_wave_by_wave(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    package = SimpleNamespace(run=lambda wave, rate: {"ovrl_mos": 1 + wave.max()})
    monkeypatch.setitem(sys.modules, "speechmos", SimpleNamespace(dnsmos=package))
    scores = external.Dnsmos().scores([np.full(9, x, np.float32) for x in (0.5, 1)] + [np.ones(0)])
    np.testing.assert_allclose(scores, [1.5, 2.0, np.nan])


def test_pocketsphinx_hears_the_same_in_any_order():
    pytest.importorskip("pocketsphinx")
    rng = np.random.default_rng(0)
    waves = [rng.normal(0, 0.05, n).astype(np.float32) for n in (8000, 12000, 0, 9600)]
    judge = external.Pocketsphinx()
    done = []
    texts = judge.transcribe(waves, lambda: done.append(1))
    assert len(texts) == len(done) == 4 and texts[2] == ""
    assert judge.transcribe(waves[::-1])[::-1] == texts
