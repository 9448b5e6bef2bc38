import jax
import numpy as np
import pytest

from llasa_jax.config import RecogniserConfig
from llasa_jax.errors import UserError
from llasa_jax.evaluation import scorers
from llasa_jax.evaluation.scorers import KINDS, Listeners, parse_scorers
from llasa_jax.interop.bundle import save_part
from llasa_jax.recipes.stages import load_recogniser
from llasa_jax.verifiers.recogniser import BatchRecogniser, init_recogniser


def test_every_name_has_a_kind_and_those_of_elsewhere_need_a_path():
    assert parse_scorers(["ge2e", "whisper=some/folder", "paraformer=x=y"]) == {
        "ge2e": "",
        "whisper": "some/folder",
        "paraformer": "x=y",
    }
    for name in scorers.IMPORTED:
        with pytest.raises(UserError, match=f"{name}=PATH"):
            parse_scorers([name])
    assert set(scorers.PACKAGES) | set(scorers.IMPORTED) | set(scorers.OF_THE_MODEL) == set(KINDS)


def test_a_source_names_what_is_in_the_files(tmp_path):
    folder = tmp_path / "whisper"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("not weights")

    def source():
        return Listeners({"whisper": str(folder)}, None, "en").source("whisper")

    first = source()
    assert len(first) == 16
    (folder / "README.md").write_text("else")
    assert source() == first
    (folder / "config.json").write_text("{}")
    assert source() != first
    with pytest.raises(UserError, match="no weights there"):
        Listeners({"whisper": str(tmp_path / "none")}, None, "en").source("whisper")
    with pytest.raises(UserError, match="has no recogniser"):
        Listeners({}, tmp_path, "en").source("content")
    with pytest.raises(UserError, match="unknown"):
        Listeners({}, tmp_path, "en").source("ear")


def test_what_was_read_serves_every_model(tmp_path, monkeypatch):
    made = []

    class Encoder:
        def __init__(self, weights):
            made.append(weights)

        def embed(self, waves):
            return np.ones((len(waves), 2))

    monkeypatch.setattr(scorers, "Ge2eEncoder", Encoder)
    monkeypatch.setattr(scorers, "load_ge2e", dict)
    monkeypatch.setitem(scorers.PACKAGES, "ge2e", "numpy")
    shared = Listeners({"ge2e": ""}, None, "en")
    judges = [shared.of(tmp_path / name).scorer("ge2e") for name in "ab"]
    assert judges[0] is judges[1] and len(made) == 1
    assert judges[0].source == f"numpy {np.__version__}" and judges[0].kind == "voice"


def test_a_recogniser_of_another_run_judges(tmp_path):
    config = RecogniserConfig(mel_bins=8, dim=8, layers=1, width=3)
    save_part(tmp_path, "recogniser", config, init_recogniser(config, jax.random.key(3)))
    judge = Listeners({"recogniser": str(tmp_path)}, None, "en").scorer("recogniser")
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype("f4")
    own = BatchRecogniser(*load_recogniser(tmp_path, "recogniser")).transcribe([wave])
    assert judge.kind == "words" and len(judge.source) == 16
    assert judge.judge([wave]) == own and own[0]


def test_what_paraformer_hears_is_simplified(monkeypatch):
    class Judge:
        def __init__(self, model):
            assert model == "paraformer-zh"

        def transcribe(self, waves):
            return ["\u6f22\u5b57"] * len(waves)

    monkeypatch.setattr(scorers, "Paraformer", Judge)
    monkeypatch.setattr(
        scorers.seed_tts, "simplified", lambda text: text.replace("\u6f22", "\u6c49")
    )
    monkeypatch.setitem(scorers.PACKAGES, "paraformer", "numpy")
    judge = Listeners({"paraformer": ""}, None, "zh").scorer("paraformer").judge
    assert judge([np.zeros(1)]) == ["\u6c49\u5b57"]
