import json
import sys
from dataclasses import replace

import pytest

from llasa_jax.cli import main
from llasa_jax.errors import UserError
from llasa_jax.evaluation import bench_search
from llasa_jax.lm.released import LLASA_1B


def test_shapes_are_those_of_the_target():
    nano, large = bench_search.shapes_of("nano"), bench_search.shapes_of("1b")
    assert nano.lm.dim == 256 and nano.length == 128
    same = ("text_vocab", "attention", "remat")
    assert replace(large.lm, **{name: getattr(LLASA_1B, name) for name in same}) == LLASA_1B
    assert len(bench_search.TEXT) == 64  # lengths divide by it exactly


def test_no_run_is_refused():
    with pytest.raises(UserError, match="at least one run"):
        bench_search.bench_search("nano", 0, 0)


def test_without_torch_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["bench", "search"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "llasa-jax[parity]" in err and err.count("\n") == 1


@pytest.mark.parity
@pytest.mark.slow
def test_both_sides_draw_as_much(monkeypatch, capsys):
    pytest.importorskip("torch")
    nano = bench_search.shapes_of("nano")
    small = replace(nano, lm=replace(nano.lm, layers=1, dim=32, ffn=32), length=64)
    monkeypatch.setattr(bench_search, "shapes_of", lambda size: small)
    drawn = []
    call = bench_search.Peer.__call__
    monkeypatch.setattr(
        bench_search.Peer, "__call__", lambda self: drawn.append(call(self)) or drawn[-1]
    )
    assert main(["bench", "search", "--runs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    prompt = found["settings"]["prompt"]
    assert {tuple(x.shape) for x in drawn} == {(16, prompt + 64)}
    assert found["cost_16_over_1"] == found["seconds_16"] / found["seconds_1"]
    assert found["ratio_to_peer"] == found["peer_seconds_16"] / found["seconds_16"]
    assert found["search_over_sampling"] > 1 and found["roofline_share"] is None
    assert found["peer"]["version"] and found["peer"]["cache"] in ("growing", "static")
