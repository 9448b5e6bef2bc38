"""A run that is stopped, taken back, or refused by its disk ends as the undisturbed one."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.config import OptimizerConfig, TrainConfig
from llasa_jax.data.batches import by_step
from llasa_jax.errors import Saved, UserError
from llasa_jax.training import loop
from llasa_jax.training.loop import fit, kept_along
from llasa_jax.training.meter import TIMED
from llasa_jax.training.record import read_curve
from llasa_jax.training.step import Objective
from llasa_jax.training.stopping import KILLED, Watchdog

CONFIG = TrainConfig(
    steps=24,
    batch=4,
    optimizer=OptimizerConfig(peak=0.05, warmup=0.1),
    log_every=3,
    valid_every=10,
    save_every=5,
    bad_steps=3,
)
TARGET = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


pytestmark = pytest.mark.usefixtures("compiled_once")

# What a read that fails leaves behind in Orbax.
UNRAISABLE = "ignore::pytest.PytestUnraisableExceptionWarning"


class Interrupted(Exception):
    pass


def init(key):
    return {"kernel": jax.random.normal(key, (3, 2)), "bias": jnp.zeros(2)}


def loss(params, batch, key):
    error = batch["x"] @ params["kernel"] + params["bias"] - batch["y"]
    return batch["gain"] * jnp.mean(error**2), {"error": jnp.mean(jnp.abs(error))}


TOY = Objective("toy", init, loss)


def batches(bad=(), stop=None):
    """Batch i, a function of i alone; NaN at those of `bad`, an error at that of `stop`."""

    def build(step):
        if step == stop:
            raise Interrupted
        x = np.random.default_rng(step).normal(size=(4, 3)).astype(np.float32)
        return {"x": x, "y": x @ TARGET, "gain": np.float32(np.nan if step in bad else 1)}

    return by_step(build)


def run(folder, data=None, config=CONFIG, then=None):
    """A run; `then` are called by the steps after which they are to be, while it goes on."""

    def validate(params, step):
        if then and step in then:
            then[step]()
        return {"distance": jnp.linalg.norm(params["kernel"] - TARGET)}

    return fit(TOY, data or batches(), config, folder, seed=0, validate=validate)


def at_batch(monkeypatch, number, act):
    """Calls `act` while the batch of that number, from 1, is laid on the devices."""
    place, placed = loop.place_batch, []

    def acting(*given):
        placed.append(given)
        if len(placed) == number:
            act()
        return place(*given)

    monkeypatch.setattr(loop, "place_batch", acting)


def assert_same(fitted, expected):
    jax.tree.map(np.testing.assert_array_equal, fitted.params, expected.params)
    assert untimed(fitted.curve) == untimed(expected.curve)


def untimed(curve):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in curve]


def events(folder):
    path = folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed"))


def test_asked_to_stop_it_saves_at_once_and_goes_on_to_the_same_end(
    undisturbed, tmp_path, monkeypatch
):
    handler = signal.getsignal(signal.SIGTERM)
    at_batch(monkeypatch, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Saved, match=r"stopped as asked after step \d+, saved"):
        run(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is handler
    stopped = steps(tmp_path)[-1]
    assert stopped % 5 and stopped < 24
    resumed = run(tmp_path)
    assert_same(resumed, undisturbed)
    assert read_curve(tmp_path / "curve.csv") == resumed.curve
    assert steps(tmp_path) == [20, 24]  # the one between was for a time


def test_asked_during_the_last_step_it_is_finished_first(undisturbed, tmp_path):
    def ask():
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Saved):
        run(tmp_path, then={24: ask})
    assert steps(tmp_path) == [20, 24]
    assert_same(run(tmp_path, batches(stop=0)), undisturbed)


def test_saves_by_time_keep_the_row_that_is_under_way(undisturbed, tmp_path):
    """Saved after every step, interrupted anywhere: rows and parameters are the same."""
    config = replace(CONFIG, save_minutes=1e-9)
    for stop in (8, 19):
        with pytest.raises(Interrupted):
            run(tmp_path, batches(stop=stop), config)
        found = steps(tmp_path)
        assert found[-1] in (stop - 1, stop) and set(found[:-1]) <= {0, 5, 10, 15}
    assert_same(run(tmp_path, config=config), undisturbed)
    assert steps(tmp_path) == [20, 24]


def test_after_bad_steps_it_goes_back_and_on_with_other_data(undisturbed, tmp_path):
    bad = range(6, 9)
    whole = run(tmp_path / "whole", batches(bad))
    (event,) = events(tmp_path / "whole")
    assert event["what"] == (
        "all steps were skipped since step 7 (now 9): back to step 5, on with batch 10"
    )
    assert (event["step"], event["back_to"], event["moved"]) == (9, 5, 5)
    assert [row["step"] for row in whole.curve] == [row["step"] for row in undisturbed.curve]
    assert not any(row["skipped"] for row in whole.curve)
    assert not np.array_equal(whole.params["kernel"], undisturbed.params["kernel"])
    # Interrupted after that, it does not meet the bad data again.
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", batches(bad, stop=18))
    resumed = run(tmp_path / "parts", batches(bad))
    assert_same(resumed, whole)
    assert len(events(tmp_path / "parts")) == 1


def test_what_stays_bad_ends_the_run_and_a_mended_one_goes_on(tmp_path):
    message = r"training toy: the loss is not finite, or spikes, since step 6 .* back to step 5"
    with pytest.raises(UserError, match=message):
        run(tmp_path, batches(range(6, 99)))
    assert len(events(tmp_path)) == 2 and steps(tmp_path) == [5]
    assert run(tmp_path).steps == 24


def test_bad_from_the_first_step_it_begins_again_with_other_data(tmp_path):
    fitted = run(tmp_path, batches(range(0, 3)))
    assert events(tmp_path)[0]["back_to"] == 0
    assert np.isfinite(fitted.curve[-1]["loss"])


def flip(path):
    """Changes a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.filterwarnings(UNRAISABLE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(undisturbed, tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, batches(stop=13))
    assert steps(tmp_path) == [5, 10]
    for path in (tmp_path / "checkpoints/10").rglob("d/*"):
        flip(path)
    assert_same(run(tmp_path), undisturbed)
    (event,) = events(tmp_path)
    assert "checkpoints/10: cannot be restored (" in event["what"]
    assert event["what"].endswith("set aside, going on from 5")
    assert (tmp_path / "aside/10").is_dir() and steps(tmp_path) == [20, 24]


@pytest.mark.filterwarnings(UNRAISABLE)
def test_without_a_whole_checkpoint_nothing_is_touched(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, batches(stop=13))
    for path in (tmp_path / "checkpoints").rglob("manifest.ocdbt"):
        path.unlink()
    with pytest.raises(UserError, match="checkpoints/10: cannot be restored"):
        run(tmp_path)
    assert steps(tmp_path) == [5, 10] and not (tmp_path / "aside").exists()


def test_a_folder_of_checkpoints_deleted_under_way_is_made_again(undisturbed, tmp_path):
    folder = tmp_path / "checkpoints"
    fitted = run(tmp_path, then={20: lambda: shutil.rmtree(folder, ignore_errors=True)})
    assert_same(fitted, undisturbed)
    assert steps(tmp_path)[-1] == 24
    assert_same(run(tmp_path, batches(stop=0)), undisturbed)


def test_a_full_disk_is_told_of_and_the_last_whole_checkpoint_stays(
    undisturbed, tmp_path, monkeypatch
):
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*given, **named):
        raise full

    def fill():
        monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", refuse)
        monkeypatch.setattr("llasa_jax.training.record.replace_file", refuse)

    with pytest.raises(
        UserError, match="checkpoint of step 24: could not be saved, .* step 5; mak"
    ):
        run(tmp_path, then={10: fill})
    told = [event["what"] for event in events(tmp_path)]
    assert len(told) == 4 and all("No space left" in line for line in told)  # 10, 15, 20, 24
    assert "checkpoints/10: could not be saved" in told[0] and told[0].endswith("the last is 5")
    assert steps(tmp_path) == [5]
    monkeypatch.undo()
    assert_same(run(tmp_path), undisturbed)


def test_the_best_by_a_validation_metric_is_kept(tmp_path):
    config = replace(CONFIG, valid_every=5, keep=1, keep_best="-distance")
    fitted = run(tmp_path, config=config)
    rows = {row["step"]: row["valid_distance"] for row in fitted.curve if "valid_distance" in row}
    assert steps(tmp_path) == [max(rows, key=rows.get), 24] == [5, 24]
    assert list(dict(kept_along(TOY, config, tmp_path))) == [5, 24]


def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    script = Path(__file__).with_name("two_stop.py")
    environment = os.environ | {"PYTHONPATH": str(script.parents[2]), "JAX_PLATFORMS": "cpu"}
    found = []
    processes = [
        subprocess.Popen(
            [sys.executable, script, tmp_path, address, str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        out, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
        found.append(json.loads(next(line for line in out.splitlines() if line.startswith("{"))))
    assert found[0] == found[1]
    first, second = found[0]["stopped"]
    assert 4 <= first < second < 24 and found[0]["same"]


def test_a_second_signal_ends_a_process_that_hangs():
    """Its main thread sits in a lock, as it would in a collective that another does not join."""
    code = (
        "import ctypes, os, signal, threading\n"
        "from llasa_jax.training.stopping import Stop\n"
        "with Stop() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    while not stop.asked: pass\n"
        "    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()\n"
        "    while True: ctypes.CDLL(None).sleep(100)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == KILLED


class Ledger:
    doing, mark = "useful", 100.0


def test_the_watchdog_names_what_hangs_once_for_each_doubling():
    ledger = Ledger()
    dog = Watchdog(ledger, lambda doing: 7, 60.0)
    found = [dog.look(now) for now in (159.0, 161.0, 170.0, 219.0, 225.0, 230.0)]
    assert [bool(line) for line in found] == [False, True, False, False, True, False]
    assert found[1].startswith("process 0: step 7 has not ended for 61 s (at test_survival.py:")
    ledger.doing, ledger.mark = "data", 230.0
    assert dog.look(280.0) is None
    assert "the batch of step 7 has not come for 70 s" in dog.look(300.0)


def test_a_stalled_pipeline_is_named_while_it_stalls(tmp_path, capfd):
    config = replace(CONFIG, steps=3, valid_every=1, watch_minutes=0.2 / 60)
    data, begun = batches(), threading.Event()

    def build(step):
        if step == 2:
            begun.wait(60)
            time.sleep(1.5)
        return data[step]

    assert run(tmp_path, by_step(build), config, then={1: begun.set}).steps == 3
    line = "llasa: warning: process 0: the batch of step 3 has not come for"
    assert line in capfd.readouterr().err
