"""`llasa sweep` through the command line: listed, trained, killed, resumed, and never run twice."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from llasa_jax import cli
from llasa_jax.config import SweepPlan, load_config
from llasa_jax.data.shards import write_shards
from llasa_jax.interop.bundle import part_hash
from llasa_jax.lm.vocabulary import nano_vocabulary
from llasa_jax.recipes.stages import load_language
from llasa_jax.scaling.ladder import ladder
from llasa_jax.scaling.table import read_rows

PLAN = """
from llasa_jax.config import *

def get_config():
    lm = DecoderConfig(dim=16, ffn=32, layers=2, heads=4, kv_heads=2, head_dim=8,
                       text_vocab=267, codes=60, vocab_multiple=4)
    train = TrainConfig(steps=4, batch=4, log_every=1, save_every=2, save_minutes=0,
                        optimizer=OptimizerConfig(peak=0.01))
    sources = (SourceConfig("generation", 0.7), SourceConfig("understanding", 0.3))
    run = DecoderRun(lm=lm, train=train, row=320, loss_chunk=64, sources=sources,
                     guide=GuideConfig(until=0.5))
    rungs = (RungConfig(6e8, (8, 16)), RungConfig(6e8, (8,), data=(0.2,)),
             RungConfig(6e9, (16,), held_out=True))
    return SweepPlan(run=run, rungs=rungs, used=0.84, length=52, valid_rows=4)
"""


TIMED = ("tokens_s", "flops_s", "seconds", "code")  # what a second run need not share


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_model):
    """A folder with a plan, a codec, and token rows of both kinds and splits."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "plan.py").write_text(PLAN)
    make_model(folder / "model")
    vocabulary = nano_vocabulary(60)
    vocabulary.save(folder / "model")
    made = {"codec": part_hash(folder / "model", "codec"), "vocabulary": vocabulary.hash}
    rng = np.random.default_rng(0)
    for kind in ("generation", "understanding"):
        for split, count in (("train", 24), ("valid", 9)):
            some = [
                vocabulary.example("ab", rng.integers(0, 60, 8 + i), kind) for i in range(count)
            ]
            write_shards(folder / "tokens" / kind / split, some, row=320, about={}, **made)
    return folder


def command(place, out, *more):
    where = ["--tokens", str(place / "tokens"), "--model", str(place / "model")]
    return ["sweep", str(place / "plan.py"), *where, "--out", str(out), *more]


@pytest.fixture(scope="module")
def swept(place):
    """The ladder, run to its end."""
    assert cli.main(command(place, place / "out")) == 0
    return place / "out"


def planned(capsys, place, out, *more):
    capsys.readouterr()
    assert cli.main(command(place, out, "--dry-run", "--json", *more)) == 0
    return json.loads(capsys.readouterr().out)["runs"]


def test_a_dry_run_lists_everything_and_starts_nothing(capsys, place, tmp_path):
    runs = planned(capsys, place, tmp_path / "none", "--set", "price=2", "--set", "flops_s=1e9")
    assert [run["held_out"] for run in runs] == [False, False, False, True]
    assert not any(run["finished"] for run in runs)
    for run in runs:
        assert run["chip_hours"] == pytest.approx(run["flops"] / 1e9 / 3600)
        assert run["cost"] == 2 * run["chip_hours"]
    assert not (tmp_path / "none").exists()
    assert cli.main(command(place, tmp_path / "none", "--dry-run")) == 0
    assert "3 to run" in capsys.readouterr().out


def test_every_run_leaves_a_row_and_a_model(capsys, place, swept):
    rows = read_rows(swept / "runs.csv")
    runs = planned(capsys, place, swept)
    assert [row["name"] for row in rows] == [run["name"] for run in runs if not run["held_out"]]
    for row, run in zip(rows, runs, strict=False):
        assert run["finished"] and run["rate_of"] == "finished runs of this width"
        assert row["flops"] == pytest.approx(
            run["flops"], rel=0.3
        )  # by `used` and `length`, of few rows
        assert row["d"] == row["d_text"] + row["d_speech"] > row["n"] - row["n_inner"] > 0
        assert 0 < row["unique"] <= row["d"]
        nats = sorted((row["speech_nats"], row["text_nats"]))
        assert nats[0] < row["loss"] < nats[1] < 7
        assert row["tokens_s"] > 0 and row["seconds"] > 0 and "mfu" not in row
        config, _, _, about = load_language(swept / row["name"] / "model")
        assert (config.dim, about["steps"]) == (row["width"], row["steps"])
        assert (swept / row["name"] / "model" / "codec.safetensors").is_file()
        assert not (swept / row["name"] / "checkpoints").exists()
    assert rows[2]["unique"] < rows[0]["unique"]


def test_finished_runs_are_not_run_again(capsys, place, swept):
    files = sorted(swept.glob("*/*"))
    before = [path.stat().st_mtime_ns for path in files]
    (swept / "runs.csv").write_text("lost")
    assert cli.main(command(place, swept, "--json")) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 3
    assert [path.stat().st_mtime_ns for path in files] == before


def test_one_run_alone_gives_the_same_numbers(capsys, place, swept, tmp_path):
    name = planned(capsys, place, swept)[1]["name"]
    assert cli.main(command(place, tmp_path, "--only", name)) == 0
    (row,) = csv.DictReader((tmp_path / "runs.csv").open())
    known = list(csv.DictReader((swept / "runs.csv").open()))[1]
    assert {k: v for k, v in row.items() if k not in TIMED} == {
        k: v for k, v in known.items() if k not in TIMED
    }


@pytest.mark.slow
def test_a_killed_ladder_goes_on_and_ends_with_the_same_numbers(place, tmp_path):
    """SIGTERM while the second run trains: exit 75, a checkpoint, and later the same losses."""
    rungs = '[{"flops": 6e8, "widths": [8]}, {"flops": 1.2e10, "widths": [16]}]'
    more = ("--set", f"rungs={rungs}", "--set", "run.train.save_every=100")
    given = command(place, tmp_path / "killed", *more)
    process = subprocess.Popen([sys.executable, "-m", "llasa_jax", *given], env=os.environ)
    while not list(tmp_path.glob("killed/1.2e10-*/curve.csv")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    (row,) = csv.DictReader((tmp_path / "killed" / "runs.csv").open())
    assert row["name"].startswith("6e8-w8-")
    assert cli.main(given) == 0
    assert cli.main(command(place, tmp_path / "whole", *more)) == 0
    killed, whole = (
        list(csv.DictReader((tmp_path / name / "runs.csv").open())) for name in ("killed", "whole")
    )
    assert len(whole) == 2
    for one, other in zip(killed, whole, strict=True):
        assert {k: v for k, v in one.items() if k not in TIMED} == {
            k: v for k, v in other.items() if k not in TIMED
        }


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--only", "nothing"), "not in the plan"),
        (("--set", "rungs=[]"), "name at least one"),
        (("--set", "run.row=256"), "other settings"),
        (("--set", "run.train.optimizer.peak=1.0"), "other settings"),
    ],
)
def test_what_does_not_fit_is_refused(capsys, place, swept, more, words):
    assert cli.main(command(place, swept, *more)) == 2
    assert words in capsys.readouterr().err


def test_a_damaged_row_is_named(capsys, place, swept, tmp_path):
    name = planned(capsys, place, swept)[0]["name"]
    (tmp_path / name).mkdir()
    (tmp_path / name / "row.json").write_text("{")
    assert cli.main(command(place, tmp_path)) == 2
    assert "row.json: is damaged" in capsys.readouterr().err


def test_a_plan_needs_tokens_to_train(capsys, place, tmp_path):
    assert cli.main(["sweep", str(place / "plan.py"), "--out", str(tmp_path)]) == 2
    assert "--tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("way", "topology"), [("slurm", "gpu:1x1"), ("gke", "v6e:1x1"), ("skypilot", "v6e:1x1")]
)
def test_each_run_is_a_job_of_an_existing_scheduler(way, topology, tmp_path):
    names = [trial.name for trial in ladder(load_config("voice_ladder", SweepPlan))][:2]
    only = [word for name in names for word in ("--only", name)]
    given = ["sweep", "voice_ladder", "--way", way, "--topology", topology, "--dry-run", *only]
    words = ("PROJECT", "ZONE", "CLUSTER", "BUCKET", "IMAGE", "WORK")
    env = os.environ | dict.fromkeys(words, "mine")
    command = [sys.executable, "-m", "llasa_jax", *given, "--out", str(tmp_path / "out")]
    found = subprocess.run(command, env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "2 to run" in found.stdout
    for name in names:
        job = re.compile(rf"sweep\W+voice_ladder\W+--only\W+{re.escape(name)}\b")
        assert job.search(found.stdout), found.stdout
    assert "runs/voice_ladder" in found.stdout and not (tmp_path / "out").exists()


def test_a_job_needs_its_chips(capsys):
    assert cli.main(["sweep", "voice_ladder", "--way", "slurm"]) == 2
    assert "--topology" in capsys.readouterr().err
