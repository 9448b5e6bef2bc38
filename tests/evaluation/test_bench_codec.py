import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.cli import main
from llasa_jax.codec.model import Codec
from llasa_jax.errors import UserError
from llasa_jax.evaluation import bench_codec

NANO = bench_codec.CODECS["nano"]
FRAMES = 50


def products(jaxpr):
    """FLOPs of the matrix products and convolutions of a program, from its text."""
    total = 0
    for equation in jaxpr.eqns:
        name, values = equation.primitive.name, equation.params
        size = 2 * math.prod(equation.outvars[0].aval.shape)
        if name == "dot_general":
            (contracted, _), _ = values["dimension_numbers"]
            total += size * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        elif name == "conv_general_dilated":
            total += size * math.prod(equation.invars[1].aval.shape[:2])  # width and inputs
        for inner in jax.tree.leaves(values, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            total += products(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize("name", ["encode", "decode"])
def test_flops_are_those_of_the_program(name, monkeypatch):
    # A TPU's spectra are products too: here, as on a CPU, they are not.
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, default, **_: default(*x))
    graphdef, params = nn.abstract(lambda rngs: Codec(NANO, rngs=rngs))
    shape = (1, FRAMES * NANO.hop) if name == "encode" else (1, FRAMES)
    given = jax.ShapeDtypeStruct(shape, jnp.float32 if name == "encode" else jnp.int32)
    run = lambda p, x: getattr(nn.merge(graphdef, p), name)(x, jnp.ones((1, FRAMES)))  # noqa: E731
    found = products(jax.make_jaxpr(run)(params, given).jaxpr)
    formula = getattr(bench_codec, f"{name}_flops")(NANO, FRAMES)
    # Filter banks and the ends of alias-free filters are products too, not counted by hand.
    assert 0.97 * found < formula < 1.01 * found


@pytest.mark.parametrize("change", [{"seconds": 0}, {"seconds": 1e9}, {"batch": 0}, {"runs": 0}])
def test_senseless_work_is_refused(change):
    given = {"size": "nano", "seconds": 1.0, "batch": 1, "runs": 1, "seed": 0} | change
    with pytest.raises(UserError, match="bench codec"):
        bench_codec.bench_codec(**given)


def test_without_torch_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["bench", "codec", "--model-size", "nano"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "llasa-jax[parity]" in err and err.count("\n") == 1


@pytest.mark.parity
def test_both_sides_do_the_same_work(capsys):
    pytest.importorskip("torch")
    given = ["--model-size", "nano", "--seconds", "0.5", "--batch", "2", "--runs", "1", "--json"]
    assert main(["bench", "codec", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["agree"]["codes"] > 0.99 and found["agree"]["wave"] < 1e-4
    assert found["peer"]["version"] and found["peer"]["torch"]
    for name in ("encode", "decode"):
        part = found[name]
        np.testing.assert_allclose(part["ratio"], part["peer_s"] / part["ours_s"])
        rate = part["flops"] / part["ours_s"]
        np.testing.assert_allclose(part["peak_share"], rate / found["peak"])
        assert part["bytes"] > 0 and 0 < part["peak_share"] < 1.2
