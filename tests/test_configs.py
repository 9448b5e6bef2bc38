"""The named runs: every resolved value is a reviewed text, every command in a docstring a real one.

After a wanted change, `LLASA_GOLDEN=write pytest tests/test_configs.py` writes the texts anew.
"""

import ast
import os
import re
import shlex
from pathlib import Path

import pytest

from llasa_jax.cli import make_parser
from llasa_jax.config import config_folder, load_config, to_dict
from llasa_jax.interop.bundle import flatten

GOLDEN = Path(__file__).parent / "golden" / "configs"
NAMES = sorted(path.stem for path in config_folder().glob("*.py"))


def described(name):
    """A line for the run's kind, then one for each setting."""
    run = load_config(name, object)
    lines = [f"{path} = {value!r}" for path, value in flatten(to_dict(run)).items()]
    return "\n".join([type(run).__name__, *lines]) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_a_reviewed_one(name):
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("LLASA_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(described(name))
    assert path.is_file(), f"no {path}: write it as the head of this file says, and read it"
    assert described(name).splitlines() == path.read_text().splitlines()


def test_every_reviewed_text_has_its_run():
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_docstring_has_commands_that_exist(name):
    text = ast.get_docstring(ast.parse((config_folder() / f"{name}.py").read_text()))
    lines = text.replace("\\\n", " ").splitlines()
    commands = [line.strip() for line in lines if re.match(r" *llasa ", line)]
    assert commands
    for line in commands:
        make_parser().parse_args(shlex.split(line)[1:])
    assert any(name in line for line in commands) or "quickstart" in name
