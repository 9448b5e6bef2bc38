import json

import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.parallel import flops
from llasa_jax.training import meter
from llasa_jax.training.meter import Ledger, Meter, Work


class Clock:
    """Seconds that pass only when a test says so."""

    now = 0.0

    def monotonic(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


class Device:
    device_kind = "TPU v5p"


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(meter, "time", clock)
    return clock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.json"


def seconds(ledger):
    return {name: value for name, value in ledger.seconds.items() if value}


def test_every_second_went_into_something(clock, path):
    ledger = Ledger(path, 0)
    with ledger.spent("compile"):
        clock.passes(4)
    clock.passes(10)
    with pytest.raises(ValueError), ledger.spent("validation"):
        clock.passes(2)
        raise ValueError
    clock.passes(1)
    assert ledger.stepping() == 11
    assert seconds(ledger) == {"compile": 4, "useful": 11, "validation": 2}
    assert ledger.goodput == pytest.approx(11 / 17)


def test_an_interruption_takes_back_what_no_checkpoint_holds(clock, path):
    ledger = Ledger(path, 0)
    clock.passes(10)
    ledger.saving(5)
    clock.passes(3)
    ledger.stepping()
    ledger.write()
    clock.passes(100)  # no process runs
    ledger = Ledger(path, 5)
    assert seconds(ledger) == {"useful": 10, "lost": 3}
    clock.passes(7)
    ledger.saving(9)
    ledger.saving(12)
    assert Ledger(path, 9).seconds["useful"] == 17
    assert seconds(Ledger(path, 0)) == {"lost": 20}  # no checkpoint is left: all is done again


@pytest.mark.parametrize("text", ["", "[]", '{"seconds": {}}', '{"seconds": {"useful": "x"}}'])
def test_a_broken_ledger_is_begun_anew(path, text):
    path.write_text(text)
    assert not seconds(Ledger(path, 3))


def make(ledger, count=2):
    return Meter(ledger, [Device()] * count, 0)


def metrics(loss, skipped=0.0, spiked=0.0):
    return {"loss": jnp.float32(loss), "skipped": jnp.float32(skipped), "spiked": spiked}


def test_metrics_are_read_when_the_next_step_is_under_way(clock, path, monkeypatch):
    read = []
    get = meter.jax.device_get
    monkeypatch.setattr(meter.jax, "device_get", lambda tree: read.append(tree) or get(tree))
    found, first, second = make(Ledger(path, 0)), metrics(1), metrics(2)
    found.push(first, None)
    assert (found.step, found.empty, read) == (0, True, []) and found.newest is first
    found.push(second, None)
    assert (found.step, read) == (1, [first]) and found.newest is second
    found.read()
    found.read()
    assert (found.step, read) == (2, [first, second]) and found.newest is None
    assert found.row()["loss"] == 1.5 and found.empty


def test_a_row_has_the_rates_by_hand(clock, path):
    """10 s for 4 steps, 2 of them waiting; 2 chips of 459 TFLOP/s do 2e15 and 1e15 a step."""
    ledger = Ledger(path, 0)
    found = make(ledger)
    for loss in (1.0, 2.0, 6.0):
        clock.passes(2)
        found.push(metrics(loss), Work(1000.0, 2e15, 1e15))
    with ledger.spent("data"):
        clock.passes(2)
    with ledger.spent("compile"):
        clock.passes(30)
    clock.passes(2)
    found.push(metrics(np.nan, skipped=1), Work(1000.0, 2e15, 1e15))
    found.read()
    peak = 2 * flops.PEAK["TPU v5p"]
    row = found.row()
    expected = {"step": 4, "loss": 3.0, "skipped": 1.0, "spiked": 0.0, "tokens_s_chip": 200.0}
    expected |= {"mfu": 8e15 / 10 / peak, "mfu_without_head": 4e15 / 10 / peak, "data_wait": 0.2}
    # A fourth of the 8 s that were no waiting went into the step that was skipped.
    assert row == pytest.approx(expected | {"goodput": 6 / 40})
    assert json.loads(path.read_text())["seconds"]["skipped"] == 2


def test_devices_without_a_known_peak_have_no_mfu(clock, path, monkeypatch):
    monkeypatch.setattr(Device, "device_kind", "cpu")
    found = make(Ledger(path, 0), 1)
    clock.passes(2)
    found.push(metrics(1), Work(1000.0, 2e15, 1e15))
    found.read()
    row = found.row()
    assert row["tokens_s_chip"] == 500 and not {"mfu", "mfu_without_head"} & set(row)


def test_two_devices_of_a_tpu7x_are_a_chip(monkeypatch):
    assert flops.chip_count([Device()] * 4) == 4
    monkeypatch.setattr(Device, "device_kind", "TPU7x")
    assert flops.chip_count([Device()] * 4) == 2


def test_rows_of_spikes_alone_have_means_and_rows_of_nothing_finite_have_none(clock, path):
    found = make(Ledger(path, 0))
    found.push(metrics(7, skipped=1, spiked=1), None)
    found.push(metrics(np.nan, skipped=1), None)
    found.read()
    row = found.row()
    assert (row["loss"], row["skipped"], row["spiked"], found.bad) == (7, 2, 1, 2)
    found.push(metrics(np.nan, skipped=1), None)
    found.read()
    row = found.row()
    assert (row["step"], row["skipped"], found.bad) == (3, 1, 3) and "loss" not in row
    found.push(metrics(1), None)
    found.read()
    assert found.bad == 0


def test_a_row_begun_before_a_restart_ends_as_if_there_were_none(clock, path):
    losses = np.float32([0.1, np.nan, 1 / 3, 7e9, 0.7])
    whole, first = make(Ledger(path, 0)), make(Ledger(path, 0))
    for loss in losses:
        whole.push(metrics(loss), None)
    for loss in losses[:3]:
        first.push(metrics(loss), None)
    first.read()
    pending = json.loads(json.dumps(first.pending()))
    rest = Meter(Ledger(path, 0), [Device()], 3, pending)
    for loss in losses[3:]:
        rest.push(metrics(loss), None)
    for one in (whole, rest):
        one.read()
    names = ("step", "loss", "skipped")
    np.testing.assert_equal(*([row[n] for n in names] for row in (whole.row(), rest.row())))


def test_a_run_taken_back_loses_the_seconds_since(clock, path):
    ledger = Ledger(path, 0)
    clock.passes(10)
    ledger.saving(5)
    clock.passes(4)
    ledger.back(5)
    assert seconds(ledger) == {"useful": 10, "lost": 4}
