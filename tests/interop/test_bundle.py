import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import save_file

from llasa_jax import nn
from llasa_jax.config import CodecConfig, TransformerConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten, load_part, part_hash, save_part, unflatten

CONFIG = TransformerConfig(dim=4, ffn=6, layers=2, heads=2)


class Model(nnx.Module):
    """Parameters by name, in a list, and stacked."""

    def __init__(self, config, *, rngs):
        sizes = (config.dim, config.ffn, config.dim)
        pairs = zip(sizes, sizes[1:], strict=False)
        self.parts = nnx.List([nn.Linear(a, b, ("embed", "mlp"), rngs=rngs) for a, b in pairs])
        norm = lambda rngs: nn.RMSNorm(config.dim, eps=1e-6, rngs=rngs)  # noqa: E731
        self.stack = nn.Stack(norm, config.layers, rngs=rngs)


def build(config, rngs):
    return Model(config, rngs=rngs)


def random_params(config=CONFIG):
    rng = np.random.default_rng(0)
    _, template = nn.abstract(lambda rngs: build(config, rngs))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), template)


@pytest.fixture
def folder(tmp_path):
    save_part(tmp_path / "model", "toy", CONFIG, random_params(), {"voices": ["a"]})
    return tmp_path / "model"


def load(folder, kind=TransformerConfig):
    return load_part(folder, "toy", kind, build)


def refused(folder, message, **settings):
    with pytest.raises(UserError, match=message) as caught:
        load(folder, **settings)
    assert "\n" not in str(caught.value)
    assert str(folder / "toy.safetensors") in str(caught.value)


def rewrite(folder, change):
    """The file again, its tensors and metadata changed."""
    path = folder / "toy.safetensors"
    with safe_open(path, "np") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        part = json.loads(file.metadata()["part"])
    change(tensors, part)
    save_file(tensors, path, {"part": json.dumps(part)})


def test_what_is_saved_is_loaded_bit_for_bit(folder):
    params = random_params()
    config, found, about = load(folder)
    assert (config, about) == (CONFIG, {"voices": ["a"]})
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, params))
    assert set(flatten(found)) == {
        *(f"parts.{i}.{name}" for i in (0, 1) for name in ("kernel", "bias")),
        "stack.layers.scale",
    }
    graphdef, _ = nn.abstract(lambda rngs: build(config, rngs))
    np.testing.assert_array_equal(
        nn.merge(graphdef, found).parts[1].kernel[...], params["parts"][1]["kernel"]
    )
    assert [path.name for path in folder.iterdir()] == ["toy.safetensors"]  # nothing temporary


def test_arrays_of_a_device_and_of_any_order_are_saved_as_they_are(folder):
    params = random_params()
    kernel = params["parts"][0]["kernel"]
    params["parts"][0]["kernel"] = np.asfortranarray(kernel)
    params["stack"] = jax.tree.map(jax.numpy.asarray, params["stack"])
    save_part(folder, "toy", CONFIG, params)
    _, found, about = load(folder)
    assert about == {}
    assert jax.tree.all(jax.tree.map(np.array_equal, found, params))


def test_the_hash_changes_with_weights_and_configuration_only(folder):
    params = random_params()
    first = part_hash(folder, "toy")
    content = (folder / "toy.safetensors").read_bytes()
    assert len(first) == 16
    for _ in range(5):  # safetensors would write several entries of metadata in any order
        assert first == save_part(folder, "toy", CONFIG, params, {"voices": ["a"]})
        assert content == (folder / "toy.safetensors").read_bytes()
    params["parts"][0]["bias"][0] += 1e-3
    second = save_part(folder, "toy", CONFIG, params, {"voices": ["a"]})
    third = save_part(folder, "toy", replace(CONFIG, heads=1), params, {"voices": ["a"]})
    assert len({first, second, third}) == 3


def test_flatten_and_unflatten_are_each_others_inverse():
    tree = {"a": {0: {"b": 1}, 1: {"b": 2}}, "c": 3}
    assert flatten(tree) == {"a.0.b": 1, "a.1.b": 2, "c": 3}
    assert unflatten(tree, flatten(tree)) == tree


def test_a_part_that_is_not_there(folder):
    (folder / "toy.safetensors").unlink()
    refused(folder, "no model part")


def test_a_part_of_another_kind(folder):
    refused(folder, "holds a TransformerConfig, expected a CodecConfig", kind=CodecConfig)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("parts.1.bias"), r"parts.1.bias is missing, .* says float32 \(4,\)"),
        (lambda t, m: t.update(extra=np.zeros(3)), r"tensor extra is float64 \(3,\), .* says none"),
        (
            lambda t, m: t.update({"parts.0.bias": np.zeros((2, 3), np.float32)}),
            r"parts.0.bias is float32 \(2, 3\), its configuration says float32 \(6,\)",
        ),
        (lambda t, m: t["parts.0.bias"].__setitem__(2, np.nan), "parts.0.bias holds NaN"),
        (lambda t, m: t["parts.0.bias"].__setitem__(2, np.inf), "parts.0.bias holds NaN or inf"),
        (lambda t, m: t.update({"parts.0.bias": np.zeros(6, np.int8)}), "parts.0.bias is int8"),
        (
            lambda t, m: t.update({"parts.0.bias": np.zeros(6, jax.numpy.bfloat16)}),
            "parts.0.bias is bfloat16",
        ),
        (lambda t, m: m.update(kind="Other"), "holds a Other, expected a TransformerConfig"),
        (lambda t, m: m.pop("config"), "no whole model part"),
        (lambda t, m: m.update(config={"dims": 4}), "dims: unknown setting"),
        (lambda t, m: m.update(config={"dim": 5}), "dim 5 over 4 heads"),
        (lambda t, m: m.update(config=[]), "expected settings"),
        (lambda t, m: m.clear(), "no whole model part"),
    ],
)
def test_what_does_not_fit_is_named(folder, change, message):
    rewrite(folder, change)
    refused(folder, message)


@pytest.mark.parametrize("metadata", [None, {"other": "1"}, {"part": "{"}, {"part": "[1]"}])
def test_tensors_without_their_configuration(folder, metadata):
    save_file({"a": np.zeros(3)}, folder / "toy.safetensors", metadata)
    refused(folder, "no whole model part")


@pytest.mark.parametrize(
    "content",
    [b"", b"weights\n" * 99, b"\x80\x04pickle", b"\xff" * 8 + b"{}"],
    ids=["empty", "text", "pickle", "huge header"],
)
def test_another_file_by_that_name(folder, content):
    (folder / "toy.safetensors").write_bytes(content)
    refused(folder, "no whole model part")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_cut_file(folder, share):
    content = (folder / "toy.safetensors").read_bytes()
    (folder / "toy.safetensors").write_bytes(content[: int(share * len(content))])
    refused(folder, "no whole model part")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot write .*toy.safetensors") as caught:
        save_part(tmp_path / "file", "toy", CONFIG, random_params())
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "kept"


def test_the_configuration_can_be_read_without_this_package(folder):
    with safe_open(folder / "toy.safetensors", "np") as file:
        part = json.loads(file.metadata()["part"])
    config = {"dim": 4, "ffn": 6, "layers": 2, "heads": 2}
    assert part == {"kind": "TransformerConfig", "config": config, "about": {"voices": ["a"]}}
