"""`llasa plan --program encode` on the host's CPU in the place of a TPU."""

import jax
import pytest

from llasa_jax.cli import main
from llasa_jax.errors import UserError
from llasa_jax.parallel.aot import Topology
from llasa_jax.parallel.chips import CHIPS
from llasa_jax.recipes.plan import plan, table

CODEC = """
from llasa_jax.config import CodecConfig, CodecRun, SpectralConfig, TransformerConfig
def get_config():
    small = TransformerConfig(dim=8, ffn=8, layers=1, heads=2)
    codec = CodecConfig(
        levels=(4, 4), spectral=SpectralConfig(8, small), decoder=small, norm_groups=4
    )
    return CodecRun(codec=codec)
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    here = lambda name, slices: Topology(name, slices, CHIPS["v5e"], jax.devices("cpu")[:1])  # noqa: E731
    monkeypatch.setattr("llasa_jax.recipes.plan.topology", here)
    monkeypatch.setattr("llasa_jax.recipes.plan.toolchain", lambda: {"jax": jax.__version__})
    path = tmp_path / "small_codec.py"
    path.write_text(CODEC)
    return str(path)


def test_the_encoder_of_a_pod(config):
    found = plan(config, "encode", "v5e:1x1")
    assert found["work"] == "8 waves of 10 s to codes, float32" and found["fits"]
    (least, most), rate = (found["estimated"][n] for n in ("step_s", "audio_hours_an_hour"))
    assert 0 < least <= most and found["model_flops"] > 0
    assert rate == pytest.approx([80 / most, 80 / least])
    text = table(found)
    assert "hours of audio an hour, estimated" in text and "100,000 hours" in text
    half = plan(config, "encode", "v5e:1x1", batch_tokens=2000)
    assert half["work"].startswith("4 waves")
    assert half["model_flops"] == found["model_flops"] / 2
    with pytest.raises(UserError, match="at least 500"):
        plan(config, "encode", "v5e:1x1", batch_tokens=499)


def test_the_command(config, capsys):
    assert main(["plan", config, "--program", "encode", "--topology", "v5e:1x1"]) == 0
    assert "8 waves" in capsys.readouterr().out
    assert main(["plan", "quickstart_lm", "--program", "encode", "--topology", "v5e:1x1"]) == 2
    assert "takes CodecRun" in capsys.readouterr().err
