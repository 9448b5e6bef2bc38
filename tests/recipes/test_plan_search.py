"""What is tried, in which order, and what is cut: with a compiler that only adds up."""

from dataclasses import replace

import pytest
from jax.sharding import AbstractMesh, AxisType

from llasa_jax.config import DecoderConfig, DecoderRun, MeshConfig, TrainConfig
from llasa_jax.errors import UserError
from llasa_jax.parallel.aot import Topology
from llasa_jax.parallel.chips import CHIPS
from llasa_jax.parallel.mesh import AXES
from llasa_jax.recipes import plan_search
from llasa_jax.recipes.plan_search import Layout, candidates, changed, remedies, search

LM = DecoderConfig(dim=64, ffn=128, layers=2, heads=4, head_dim=16, text_vocab=40, codes=16)
RUN = DecoderRun(LM, TrainConfig(batch=16, mesh=MeshConfig(fsdp=-1)), row=32)


def least_bytes(run, pod):
    return plan_search.least_bytes(run, Layout.of(run, pod))


def slices(name, slices=1):
    """A pod of stand-ins: a grid of that many devices."""
    kind, _, grid = name.partition(":")
    count = 1
    for size in grid.split("x"):
        count *= int(size)
    return Topology(name, slices, CHIPS[kind], [None] * (count * slices))


@pytest.fixture
def pod(monkeypatch):
    """Four devices, and a compiler whose memory and time follow from the settings."""
    seen = []

    def mesh(config, pod):
        sizes = [config.data if config.data > 1 else pod.slices, config.fsdp, config.tensor, 1]
        if -1 in sizes:
            sizes[1] = len(pod.devices) // (sizes[0] * sizes[2])
        return AbstractMesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 4)

    bounds, least_seconds = {}, plan_search.least_seconds

    def remembered(run, layout, chip):
        return bounds.setdefault(changed(run), least_seconds(run, layout, chip))

    def compile_step(run, where):
        seen.append((changed(run), where.name))
        policy = plan_search.POLICIES.index(run.lm.remat)
        peak = 12e6 * (4 - policy) / run.train.accumulate / (len(where.devices) / 4)
        fits = peak <= plan_search.hbm(where)
        seconds = bounds.get(changed(run), 1.0)
        estimated = {"step_s": [seconds, 1.1 * seconds]} if fits else None
        return {"fits": fits, "bytes": {"peak": peak}, "estimated": estimated}

    monkeypatch.setattr(plan_search, "least_seconds", remembered)
    monkeypatch.setattr(plan_search, "pod_mesh", mesh)
    monkeypatch.setattr(plan_search, "topology", slices)
    monkeypatch.setattr(plan_search, "compile_step", compile_step)
    monkeypatch.setattr(plan_search, "hbm", lambda pod: 4_000_000)
    pod = slices("v5e:2x2")
    return pod, seen


def test_candidates_divide_the_run(pod):
    where, _ = pod
    found = [one for one, _ in candidates(RUN, where)]
    assert len({changed(one) for one in found}) == len(found)
    sizes = {(m.data, m.fsdp, m.tensor) for m in (one.train.mesh for one in found)}
    # Two key-value heads divide by tensor=2; 64 wide and 32 rows by every fsdp.
    assert sizes == {(1, 4, 1), (2, 2, 1), (4, 1, 1), (1, 2, 2), (2, 1, 2)}
    whole = [one.train.accumulate for one in found if one.train.mesh == MeshConfig(1, 4)]
    assert sorted(whole) == [1] * 4 + [2] * 4 + [4] * 4  # 4 rows a device; four policies
    two = candidates(RUN, slices("v5e:1x2", 2))
    assert {one.train.mesh.data for one, _ in two} == {2, 4}


def test_bytes_that_no_step_goes_without(pod):
    where, _ = pod
    parameters = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) + 256 * 64
    norms = (2 * 2 + 1) * 64  # whole on every device
    # Three copies and the gradient; 4 rows of 32 tokens a device, float32.
    state = 16 * (parameters / 4 + norms)
    state += 2 * 4 * RUN.train.spike_window  # the latest losses and norms, on every device
    lean = replace(RUN, lm=replace(LM, remat="full"))
    carried = 4 * 32 * 2 * 64 * 4
    assert least_bytes(lean, where) == pytest.approx(state + carried, abs=64)
    products = 4 * 32 * 2 * (64 + 64 + 64 + 2 * 128) * 4
    assert least_bytes(RUN, where) == pytest.approx(state + carried + products, abs=64)
    halves = replace(lean, train=replace(RUN.train, accumulate=2))
    more = 4 * (parameters / 4 + norms)
    assert least_bytes(halves, where) == pytest.approx(state + more + carried / 2, abs=64)


def test_the_fastest_that_fits(pod):
    where, seen = pod
    found = search(RUN, where)
    tried = found["search"]["compiled"]
    assert len(tried) == len(seen) < found["search"]["candidates"] == 4 * (3 * 3 + 2 * 4)
    fitting = [one for one in tried if one["fits"]]
    best = min(fitting, key=lambda one: one["step_s"][1])
    assert found["fits"] and found["settings"] == best["settings"]
    # Only the leanest policy, in four parts or more, has the memory.
    assert {one["settings"].split("lm.remat=")[1] for one in fitting} <= {
        "full --set train.accumulate=4",
        "full --set train.accumulate=8",
    }


def test_nothing_fits(pod, monkeypatch):
    where, _ = pod
    monkeypatch.setattr(plan_search, "hbm", lambda pod: 1000)
    with pytest.raises(UserError, match=r"none of \d+ candidates fits 1 x v5e:2x2 \(0 compiled"):
        search(RUN, where)


def test_what_would_make_it_fit(pod, monkeypatch):
    where, seen = pod
    found = remedies(RUN, where)
    parts = [f"--set lm.remat=full --set train.accumulate={n}" for n in (2, 4)]
    changes = [f"--set lm.remat={name}" for name in ("dots", "attention", "full")] + parts
    assert [one["change"] for one in found] == changes
    assert [one["fits"] for one in found] == [False, False, False, False, True]
    assert all(one["how"] == "compiled" for one in found) and len(seen) == len(found)


def test_more_chips_when_nothing_else_helps(pod, monkeypatch):
    where, seen = pod
    lean = replace(RUN, lm=replace(LM, remat="full"))
    limit = least_bytes(lean, slices("v5e:2x4"))
    monkeypatch.setattr(plan_search, "hbm", lambda pod: limit if len(pod.devices) < 8 else 1e9)
    found = remedies(lean, where)
    changes = [one["change"] for one in found]
    assert changes[:2] == ["--set train.accumulate=2", "--set train.accumulate=4"]
    assert changes[2:] == ["--topology v5e:2x4 --set train.accumulate=2"]
    assert [one["how"] for one in found] == ["computed", "computed", "compiled"]
    assert found[-1]["fits"] and seen[-1][1] == "v5e:2x4"
