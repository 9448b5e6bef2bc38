"""The Python API: light to import, and its documentation's examples run."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llasa_jax
from llasa_jax.audio.io import read_audio
from llasa_jax.errors import UserError

DOCS = Path(__file__).parents[1] / "docs/api.md"


def test_importing_the_package_loads_nothing_of_weight():
    code = "import sys, llasa_jax; print({m.split('.')[0] for m in sys.modules} & {'jax', 'numpy'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llasa_jax.nothing


def test_the_examples_of_its_documentation_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL):
        exec(compile(block, str(DOCS), "exec"), space)  # noqa: S102
    sound, takes, voice = space["sound"], space["takes"], space["voice"]
    assert "three dollars and fifty cents" in capsys.readouterr().out
    saved, rate = read_audio("bird.flac")
    assert rate == sound.rate and len(saved) == len(sound.wave)
    np.testing.assert_allclose(saved, sound.wave, atol=1e-4)
    assert len(takes) == 4 and all(t.scores["content"] < 0 for t in takes)
    assert "slt" in voice.voices and space["codes"].ndim == 1
    assert abs(len(space["wave"]) - len(sound.wave)) < sound.rate / 10
    np.testing.assert_allclose(
        space["marked"].wave,
        0.999 * voice.say("a small bird").wave,
        rtol=1e-6,
    )
    for bad, message in (
        ({"voice": "nobody"}, "unknown, there are"),
        ({"normalise": "klingon"}, "one of english, none"),
        ({"watermark": lambda wave, rate: wave[1:]}, "watermark: gave a wave of shape"),
    ):
        with pytest.raises(UserError, match=message):
            voice.say("a small bird", **bad)
    with pytest.raises(UserError, match="no letter"):
        voice.say("...")
