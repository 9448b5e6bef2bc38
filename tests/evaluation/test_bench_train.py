import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from llasa_jax.cli import main
from llasa_jax.errors import UserError
from llasa_jax.evaluation import bench_train
from llasa_jax.lm.released import LLASA_1B


def test_shapes_are_those_of_the_target():
    nano, large = bench_train.SHAPES["nano"], bench_train.SHAPES["1b"]
    assert (nano.lm.layers, nano.lm.dim, nano.lm.vocab) == (6, 256, 4096)
    assert (nano.rows, nano.length, large.length) == (8, 512, 2048)
    assert replace(large.lm, attention=LLASA_1B.attention, remat=LLASA_1B.remat) == LLASA_1B
    for shapes in (nano, large):
        assert np.prod(shapes.levels) == shapes.lm.codes


def test_no_run_is_refused():
    with pytest.raises(UserError, match="at least one run"):
        bench_train.bench_train("nano", 0, 0)


def test_without_torch_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["bench", "train"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "llasa-jax[parity]" in err and err.count("\n") == 1


@pytest.mark.parity
def test_both_sides_take_the_same_steps(monkeypatch, capsys):
    pytest.importorskip("torch")
    nano = bench_train.SHAPES["nano"]
    small = replace(nano, lm=replace(nano.lm, layers=2, dim=64, ffn=96), rows=2, length=32)
    monkeypatch.setitem(bench_train.SHAPES, "nano", small)
    monkeypatch.setattr(bench_train.Peer, "hasten", lambda self: None)  # minutes of g++
    assert main(["bench", "train", "--runs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["agree"] < 1e-4 and found["mfu"] is None
    ratio = found["ours_tokens_s"] / found["peer_tokens_s"]
    np.testing.assert_allclose(found["ratio"], ratio)
    assert found["peer"]["version"] and found["peer"]["torch"]
