"""The README's commands: every one is understood, and the stages one by one are run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llasa_jax.cli import make_parser

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if "llasa " in line]
SMALL = {
    "codec train": ["--set", "train.steps=20", "--set", "train.batch=2"],
    "train": ["--set", "train.steps=20", "--set", "train.batch=2"],
}


def words(line: str) -> list[str]:
    """Arguments after `llasa`, without a usage line's brackets and alternatives."""
    found = shlex.split(line.split("llasa ", 1)[1].split("#")[0])
    values = {"M": "1", "N": "4", "S": "1"}
    return [values.get(w.strip("[]").split("|")[0], w.strip("[]").split("|")[0]) for w in found]


def test_there_are_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line):
    make_parser().parse_args(words(line))


def test_launch_scripts_of_the_readme_exist():
    for script in re.findall(r"bash (launch/\S+\.sh)", README):
        assert (Path(__file__).parents[1] / script).is_file()


@pytest.mark.timeout(900)
def test_the_stages_one_by_one(speech_corpus, tmp_path):
    block = next(block for block in BLOCKS if "llasa data prepare" in block)
    (tmp_path / "recordings").symlink_to(speech_corpus / "low")
    for line in block.splitlines():
        arguments = words(line)
        if arguments[:2] == ["data", "prepare"] and "--model" not in arguments:
            arguments[2:4] = [str(speech_corpus)]
        for name, small in SMALL.items():
            if " ".join(arguments).startswith(name):
                arguments += small
        done = subprocess.run(
            [sys.executable, "-m", "llasa_jax", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=400,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
    assert len(list((tmp_path / "waves").glob("*.wav"))) == 20
