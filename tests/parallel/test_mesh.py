import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import PartitionSpec

from llasa_jax import nn
from llasa_jax.config import DecoderConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.model import Decoder
from llasa_jax.parallel.mesh import Rules, make_mesh, sharding, shardings


def abstract_mesh(**sizes):
    """A mesh of any size without its devices: enough for shardings."""
    names = ("data", "fsdp", "tensor", "sequence")
    return jax.sharding.AbstractMesh(tuple(sizes.get(name, 1) for name in names), names)


@pytest.fixture(scope="module")
def eight():
    script = Path(__file__).with_name("eight_devices.py")
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["fsdp", "mixed"])
def test_training_is_the_same_on_one_and_eight_devices(eight, name):
    assert eight[name]["devices"] == 8 and eight["one"]["devices"] == 1
    assert eight[name]["losses"] == pytest.approx(eight["one"]["losses"], rel=1e-5)
    assert eight[name]["norm"] == pytest.approx(eight["one"]["norm"], rel=1e-6)
    assert eight["one"]["losses"][0] > eight["one"]["losses"][2]


def test_parameters_are_split_as_the_rules_say(eight):
    shards = {name: eight[name]["shard"] for name in eight}  # of [L, D, F] = [2, 32, 64]
    assert shards["one"] == [2, 32, 64]
    assert shards["fsdp"] == [2, 8, 64]
    assert shards["mixed"] == [2, 16, 32]


def test_spec():
    rules = Rules()
    assert rules.spec(("layers", "embed", "mlp")) == PartitionSpec(None, "fsdp", "tensor")
    assert rules.spec(("batch", None)) == PartitionSpec(("data", "fsdp"), None)
    assert Rules(mlp=None).spec(("mlp",)) == PartitionSpec(None)


def test_rules_that_cannot_be():
    with pytest.raises(UserError, match="no mesh axis 'fdsp'"):
        Rules(embed="fdsp")
    with pytest.raises(UserError, match="no logical axis 'width'"):
        Rules().spec(("width",))
    with pytest.raises(UserError, match="both lie on mesh axis 'fsdp'"):
        Rules().spec(("embed", "embed"))
    with pytest.raises(UserError, match="both lie on mesh axis 'fsdp'"):
        Rules().spec(("batch", "embed"))


def test_every_decoder_parameter_has_a_place():
    config = DecoderConfig(text_vocab=300, codes=1000, tied_embeddings=False)
    graphdef, shapes = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
    axes = nn.logical_axes(graphdef, shapes)
    placed = shardings(abstract_mesh(data=2, fsdp=4, tensor=2), Rules(), axes, shapes)
    assert jax.tree.structure(placed) == jax.tree.structure(shapes)
    assert placed["head"].spec == PartitionSpec("tensor", "fsdp")
    split = sum(
        x.size
        for x, s in zip(*map(jax.tree.leaves, (shapes, placed)), strict=True)
        if not s.is_fully_replicated
    )
    assert split > 0.98 * nn.parameter_count(shapes)


def test_sizes_that_do_not_divide():
    config = DecoderConfig(text_vocab=300, codes=1000)
    graphdef, shapes = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
    axes = nn.logical_axes(graphdef, shapes)
    with pytest.raises(UserError, match=r"layers.*attention\.k.*kv_heads 2 .* tensor = 4"):
        shardings(abstract_mesh(tensor=4), Rules(), axes, shapes)
    with pytest.raises(UserError, match="batch 6 does not divide by data x fsdp = 4"):
        sharding(abstract_mesh(data=2, fsdp=2), Rules(), ("batch",), (6,))


def test_make_mesh():
    device = jax.devices()[:1]
    mesh = make_mesh(devices=device)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
    with pytest.raises(UserError, match="does not fit 1 devices"):
        make_mesh(tensor=3, devices=device)
    with pytest.raises(UserError, match="does not fit 8 devices"):
        make_mesh(data=2, fsdp=2, devices=device * 8)
    with pytest.raises(UserError, match="does not fit 8 devices"):
        make_mesh(tensor=3, devices=device * 8)
    for sizes in ({"data": -1}, {"tensor": 0}, {"fsdp": -2}):
        with pytest.raises(UserError, match="at most one"):
            make_mesh(**sizes, devices=device)
