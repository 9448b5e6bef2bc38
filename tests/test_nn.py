import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llasa_jax import nn


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def filled(build):
    """A module of random parameters: its jitted call, and the parameters."""
    graphdef, template = nn.abstract(build)
    params = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=leaf.size), template)
    call = jax.jit(lambda params, *inputs: nn.merge(graphdef, params)(*inputs))
    return lambda *inputs: call(params, *inputs), params


class Layer(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nn.Linear(4, 4, ("embed", "mlp"), rngs=rngs)

    def __call__(self, x, gain, item=None):
        y = x + gain * jnp.tanh(self.linear(x))
        return y if item is None else (y + item, y.sum())


class Model(nnx.Module):
    def __init__(self, scan=True, remat=None, *, rngs):
        self.stack = nn.Stack(Layer, 3, scan=scan, remat=remat, rngs=rngs)
        self.head = nn.Linear(4, 2, ("embed", None), bias=False, rngs=rngs)

    def __call__(self, x, each=None):
        x, out = self.stack(x, 0.5, each=each)
        return self.head(x), out


@pytest.fixture(scope="module")
def made():
    return nn.split(Model(rngs=nnx.Rngs(0)))


def test_a_scanned_stack_gives_the_values_and_gradients_of_the_unrolled_one(made):
    x, each = normal(5, 4), normal(3, 5, 4)
    variants = [
        nn.abstract(lambda rngs, scan=scan, remat=remat: Model(scan, remat, rngs=rngs))[0]
        for scan in (True, False)
        for remat in (None, jax.checkpoint_policies.nothing_saveable)
    ]

    def loss(params, graphdef):
        model = nn.merge(graphdef, params)
        (y, nothing), (z, out) = model(x), model(x, each)
        assert nothing is None
        return jnp.sum(y**2) + jnp.sum(z**2) + jnp.sum(out**2), (y, z, out)

    @jax.jit
    def run(params):
        return [jax.grad(loss, has_aux=True)(params, variant) for variant in variants]

    first, *others = run(made[1])
    assert first[1][2].shape == (3,)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)  # noqa: E731
    for other in others:
        jax.tree.map(near, first, other)


def test_a_stack_is_its_layers_one_after_the_other(made):
    graphdef, params = made
    x = y = normal(5, 4)
    layers = jax.device_get(params["stack"]["layers"]["linear"])
    assert not np.allclose(layers["kernel"][0], layers["kernel"][1])
    for kernel, bias in zip(layers["kernel"], layers["bias"], strict=True):
        y = y + 0.5 * np.tanh(y @ kernel + bias)
    found, _ = nn.merge(graphdef, params)(x)
    np.testing.assert_allclose(found, y @ np.asarray(params["head"]["kernel"]), rtol=1e-5)


def test_logical_axes_of_a_stack_begin_with_layers(made):
    assert nn.logical_axes(*made) == {
        "stack": {
            "layers": {"linear": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}}
        },
        "head": {"kernel": ("embed", None)},
    }


def test_abstract_parameters_are_those_of_the_model(made):
    graphdef, params = made
    definition, template = nn.abstract(lambda rngs: Model(rngs=rngs))
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)  # noqa: E731
    assert template == jax.tree.map(shape, params)
    assert nn.logical_axes(definition, template) == nn.logical_axes(graphdef, params)
    assert nn.parameter_count(template) == nn.parameter_count(params) == 3 * (16 + 4) + 8


def test_a_parameter_needs_a_name_for_every_axis():
    with pytest.raises(ValueError, match="differ in length"):
        nn.param(nnx.Rngs(0), (2, 3), ("embed",), nn.zeros)


def test_lecun_has_variance_one_over_fan_in():
    kernel = nn.lecun(400)(jax.random.key(0), (400, 300), jnp.float32)
    np.testing.assert_allclose(np.std(kernel), 1 / 20, rtol=0.02)


def convolved(x, kernel, bias, stride, dilation, groups, padding):
    """The definition, one output after the other, in float64."""
    x = np.pad(np.float64(x), ((0, 0), padding, (0, 0)))
    width, _, size_out = kernel.shape
    reach = dilation * (width - 1)
    starts = range(0, x.shape[1] - reach, stride)
    out = np.zeros((x.shape[0], len(starts), size_out))
    for i, start in enumerate(starts):
        taps = x[:, start : start + reach + 1 : dilation]
        for group, some in enumerate(np.split(np.arange(size_out), groups)):
            share = np.split(taps, groups, axis=2)[group]
            out[:, i, some] = np.einsum("bki,kio->bo", share, kernel[:, :, some])
    return out + bias


@pytest.mark.parametrize(
    ("width", "stride", "dilation", "groups", "padding", "widths"),
    [
        (7, 1, 3, 1, "same", (9, 9)),
        (4, 1, 1, 1, "same", (1, 2)),
        (3, 1, 2, 1, "causal", (4, 0)),
        (4, 2, 1, 1, (1, 1), (1, 1)),
        (5, 3, 1, 2, "same", (2, 2)),
        (3, 1, 1, 6, "same", (1, 1)),
    ],
)
def test_convolution_is_the_definition(width, stride, dilation, groups, padding, widths):
    shape = dict(stride=stride, dilation=dilation, groups=groups, padding=padding)
    axes = ("embed", "mlp")
    layer, params = filled(lambda rngs: nn.Conv1d(6, 6, width, axes, **shape, rngs=rngs))
    x = normal(2, 23, 6)
    kernel, bias = params["kernel"], params["bias"]
    assert kernel.shape == (width, 6 // groups, 6)
    expected = convolved(x, kernel, bias, stride, dilation, groups, widths)
    np.testing.assert_allclose(layer(x), expected, atol=1e-4)
    if isinstance(padding, str):
        assert expected.shape[1] == -(-23 // stride)


def test_weight_norm_scales_each_output_to_its_gain():
    build = lambda rngs: nn.Conv1d(4, 6, 3, ("embed", "mlp"), weight_norm=True, rngs=rngs)  # noqa: E731
    layer, params = filled(build)
    x, kernel = normal(2, 9, 4), params["kernel"]
    weight = kernel / np.sqrt((kernel**2).sum((0, 1))) * params["gain"]
    expected = convolved(x, weight, params["bias"], 1, 1, 1, (1, 1))
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
    _, start = nn.split(build(rngs=nnx.Rngs(0)))
    np.testing.assert_allclose(start["gain"], np.full(6, 3**-0.5), rtol=1e-6)


def test_norms_are_their_formulas():
    x = 3 * normal(2, 5, 6) + 1
    rms, params = filled(lambda rngs: nn.RMSNorm(6, eps=1e-2, rngs=rngs))
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-2) * params["scale"]
    np.testing.assert_allclose(rms(x), expected, rtol=1e-5)
    layer, params = filled(lambda rngs: nn.LayerNorm(6, eps=1e-2, rngs=rngs))
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-2)
    np.testing.assert_allclose(layer(x), expected * params["scale"] + params["bias"], atol=1e-5)
    group, params = filled(lambda rngs: nn.GroupNorm(6, 3, eps=1e-2, rngs=rngs))
    pairs = x.reshape(2, 5, 3, 2)
    centred = pairs - pairs.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-2)
    expected = expected.reshape(2, 5, 6) * params["scale"] + params["bias"]
    np.testing.assert_allclose(group(x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.RMSNorm, nn.LayerNorm])
def test_norms_keep_bfloat16_and_compute_in_float32(kind):
    x = jnp.asarray(300 + normal(2, 5, 6), jnp.bfloat16)
    layer, _ = filled(lambda rngs: kind(6, eps=1e-6, rngs=rngs))
    found = layer(x)
    assert found.dtype == jnp.bfloat16
    exact = layer(np.asarray(x, np.float32))
    np.testing.assert_allclose(np.asarray(found, np.float32), exact, rtol=2e-2, atol=2e-2)


def test_group_norm_with_a_mask_is_that_of_the_item_alone():
    layer, _ = filled(lambda rngs: nn.GroupNorm(6, 3, eps=1e-6, rngs=rngs))
    x = normal(2, 9, 6)
    mask = np.float32(np.arange(9) < [[9], [4]])
    found = layer(x, mask)
    np.testing.assert_allclose(found[0], layer(x[:1])[0], atol=1e-6)
    np.testing.assert_allclose(found[1, :4], layer(x[1:, :4])[0], atol=1e-6)
    assert np.isfinite(layer(x, mask * 0)).all()


def test_group_norm_of_each_frame_is_that_of_the_frame_alone():
    build = lambda **kind: nn.GroupNorm(6, 3, eps=1e-2, rngs=nnx.Rngs(0), **kind)  # noqa: E731
    x, mask = normal(2, 9, 6), np.float32(np.arange(9) < [[9], [4]])
    alone = build()(x.reshape(18, 1, 6)).reshape(2, 9, 6)
    np.testing.assert_allclose(build(each_frame=True)(x, mask), alone, atol=1e-6)
    assert np.abs(build()(x, mask) - alone).max() > 0.1


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="do not divide"):
        nn.GroupNorm(6, 4, eps=1e-6, rngs=nnx.Rngs(0))


def test_a_model_made_ready_for_inference_gives_the_same_and_leaves_the_given_parameters():
    class Both(nnx.Module):
        def __init__(self, *, rngs):
            self.conv = nn.Conv1d(4, 4, 3, ("embed", "mlp"), weight_norm=True, rngs=rngs)
            self.unrolled, self.scanned = Model(False, rngs=rngs), Model(True, rngs=rngs)

        def __call__(self, x, each):
            return self.unrolled(self.conv(x), each), self.scanned(x)

    graphdef, template = nn.abstract(lambda rngs: Both(rngs=rngs))
    params = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=leaf.size), template)
    ready, values = nn.for_inference(graphdef, params)
    run = jax.jit(lambda g, p, *x: nn.merge(g, p)(*x), static_argnums=0)
    inputs = normal(2, 5, 4), normal(3, 2, 5, 4)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)  # noqa: E731
    jax.tree.map(near, run(ready, values, *inputs), run(graphdef, params, *inputs))
    assert "gain" in params["conv"] and "gain" not in values["conv"]
    kernels = [
        values[name]["stack"]["layers"]["linear"]["kernel"] for name in ("unrolled", "scanned")
    ]
    assert [type(kernel) is tuple for kernel in kernels] == [True, False]
    assert isinstance(params["unrolled"]["stack"]["layers"]["linear"]["kernel"], np.ndarray)
