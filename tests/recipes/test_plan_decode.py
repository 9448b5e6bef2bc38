"""`llasa plan --program search` on the host's CPU in the place of a TPU."""

import jax
import pytest

from llasa_jax.cli import main
from llasa_jax.config import BeamConfig
from llasa_jax.parallel.aot import Topology
from llasa_jax.parallel.chips import CHIPS
from llasa_jax.recipes import plan_decode
from llasa_jax.recipes.plan import plan, table

LM = """
from llasa_jax.config import DecoderConfig, DecoderRun
def get_config():
    lm = DecoderConfig(
        dim=16, ffn=16, layers=2, heads=2, kv_heads=1, head_dim=8, text_vocab=20, codes=30
    )
    return DecoderRun(lm=lm)
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    here = lambda name, slices: Topology(name, slices, CHIPS["v5e"], jax.devices("cpu")[:1])  # noqa: E731
    monkeypatch.setattr("llasa_jax.recipes.plan.topology", here)
    monkeypatch.setattr("llasa_jax.recipes.plan.toolchain", lambda: {"jax": jax.__version__})
    monkeypatch.setattr(plan_decode, "BeamConfig", lambda: BeamConfig(2, 3, 8))
    path = tmp_path / "small_lm.py"
    path.write_text(LM)
    return str(path)


def test_the_loop_of_a_pod(config, capsys):
    found = plan(config, "search", "v5e:1x1")
    assert found["work"].startswith("1 x 2 beams x 3 samples of 10 s") and found["fits"]
    least, most = found["estimated"]["step_s"]
    assert 0 < least <= most < 1e-2
    assert found["utterance_s"][0] > 500 * least
    # Two layers, six slots: projections, scores and values over 512 + 16 + 512 keys, the head.
    keys = 512 + 16 + 512
    layer = 2 * 16 * 8 * (2 * 2 + 2 * 1) + 4 * keys * 2 * 8 + 6 * 16 * 16
    assert found["model_flops"] == 6 * (2 * layer + 2 * 16 * 31)
    text = table(found)
    assert "of decoding and forks" in text and "ms, estimated" in text


def test_the_command_takes_a_language_model(config, capsys):
    words = ["plan", "quickstart_codec", "--program", "search", "--topology", "v5e:1x1"]
    assert main(words) == 2
    assert "takes DecoderRun" in capsys.readouterr().err
