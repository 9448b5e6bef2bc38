"""The table of recipes is that of the reviewed plans; `compile.sh` says whether a run fits.

`LLASA_GOLDEN=write pytest tests/launch/test_recipes.py` writes the table anew.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from llasa_jax.config import load_config

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs/launch.md"
ROW, CLIP = 2048, 300  # tokens of a row, codes of a codec's clip
HEAD = """\
| run | chips | GB a device, compiled | s a step, estimated | s a step, measured |
|---|---|---|---|---|"""


def recipes():
    """A row for each plan of results/plan/released.jsonl that fits, then for the codec's."""
    rows = []
    for line in (ROOT / "results/plan/released.jsonl").read_text().splitlines():
        plan = json.loads(line)
        words = shlex.split(plan["command"])
        config, given = words[2], dict(zip(words[3::2], words[4::2], strict=True))
        topology, slices = given.pop("--topology"), given.pop("--slices", "1")
        tokens = int(given.pop("--batch-tokens", 0))
        assert plan["fits"] and given == {"--program": "train"}
        size = {name: count / 1e9 for name, count in plan["bytes"].items()}
        memory = f"{size['arguments']:.2f} + {size['temporaries']:.2f} of {size['hbm']:.1f}"
        least, most = plan["estimated"]["step_s"]
        run = f"{config} --topology {topology}" + (f" --slices {slices}" if slices != "1" else "")
        run += f" --set train.batch={tokens // ROW}" if tokens else ""
        rows.append((config, plan["chips"], run, memory, f"{least:.2f} to {most:.2f}"))
    for path in sorted((ROOT / "results/plan").glob("xcodec2-*.txt")):
        said = dict(re.split(r"\s{2,}", one, maxsplit=1) for one in path.read_text().splitlines())
        words = shlex.split(said["command"])
        chips, tokens = int(said["chips"]), int(words[words.index("--batch-tokens") + 1])
        topology = words[words.index("--topology") + 1]
        sizes = [said[name].split()[0] for name in ("arguments", "temporaries")]
        of = re.search(r"of ([\d.]+) GB", said["fits"])[1]
        run = f"xcodec2 --topology {topology} --set train.batch={tokens // CLIP}"
        memory = f"{' + '.join(sizes)} of {float(of):.1f}, at O1"
        least, most = re.match(r"([\d.]+) to ([\d.]+)", said["time"]).groups()
        rows.append(("xcodec2", chips, run, memory, f"{float(least):.2f} to {float(most):.2f}"))
    rows = sorted(rows, key=lambda row: row[:3])
    shown = [f"| `{run}` | {n} | {gb} | {s} | unmeasured |" for _, n, run, gb, s in rows]
    return "\n".join([HEAD, *shown])


def test_the_recipes_are_what_was_compiled():
    text = DOC.read_text()
    table = re.search(r"^(RECIPES|\| run \| chips.*?)(?=\n\n)", text, re.M | re.S)
    if os.environ.get("LLASA_GOLDEN") == "write":
        DOC.write_text(text.replace(table[0], recipes()))
        return
    assert table[0].splitlines() == recipes().splitlines()


def test_a_recipes_batch_is_the_one_that_was_compiled():
    assert 50 * load_config("xcodec2", object).crop_seconds == CLIP
    assert load_config("llasa_1b", object).row == ROW


@pytest.fixture
def compiles(tmp_path):
    """`launch/compile.sh` with a stand-in for llasa that answers and notes its flags."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "launch", root / "launch")
    for path in [ROOT / "pyproject.toml", *ROOT.glob("requirements*.txt")]:
        shutil.copy(path, root)
    (root / ".venv/bin").mkdir(parents=True)

    def run(answer, *words):
        llasa = f'echo "llasa $*"; echo "flags $LIBTPU_INIT_ARGS"; echo "fits      {answer}"'
        for name, text in {"python": "exit 0", "llasa": llasa}.items():
            (root / ".venv/bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (root / ".venv/bin" / name).chmod(0o755)
        command = ["bash", str(root / "launch/compile.sh"), *words]
        path = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        return subprocess.run(command, env=path, capture_output=True, text=True)

    return run


def test_a_run_that_does_not_fit_fails(compiles):
    line = "llasa_8b --topology v6e:4x4 --slices 2".split()
    fits = compiles("yes: 4.43 of 16.91 GB a device", *line)
    assert fits.returncode == 0, fits.stderr
    assert fits.stdout.splitlines()[:2] == ["llasa plan " + " ".join(line), "flags "]
    too_large = compiles("no: 24.43 of 16.91 GB a device", *line)
    assert too_large.returncode == 1 and "fits      no" in too_large.stdout


def test_flags_are_those_of_the_chip(compiles):
    done = compiles("yes: 1", "llasa_1b", "--flags", "--topology", "v6e:4x4")
    words, flags = done.stdout.splitlines()[:2]
    assert words == "llasa plan llasa_1b --topology v6e:4x4"
    assert flags.startswith("flags --xla_tpu_scoped_vmem_limit_kib=98304 --xla_tpu_enable_sparse")
    assert "#" not in flags
    unknown = compiles("yes: 1", "llasa_1b", "--flags", "--topology", "v9:4x4")
    assert unknown.returncode == 2 and unknown.stderr.startswith("llasa: error: --flags: of which")
