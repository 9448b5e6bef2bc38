"""The layers every model here is made of, in Flax NNX.

One description of a parameter, the call of `param`, gives its shape, dtype, initializer and logical
axes; initial values, sharding and checkpoint templates are all derived from it and cannot disagree.
Models are split once into a static definition and a plain tree of arrays (`split`); steps are pure
functions over that tree and rebuild the module inside jit (`nnx.merge`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]

zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones


def normal(stddev: float) -> Initializer:
    return jax.nn.initializers.normal(stddev)


def lecun(fan_in: int) -> Initializer:
    """Truncated normal of variance 1 / fan_in, whatever the order of the axes."""
    return jax.nn.initializers.truncated_normal(fan_in**-0.5 / 0.87962566)


def param(
    rngs: nnx.Rngs,
    shape: Sequence[int],
    axes: Sequence[str | None],
    init: Initializer,
    dtype: Any = jnp.float32,
) -> nnx.Param:
    """One parameter: shape, dtype, initializer and logical axes (names of `parallel.mesh.Rules`).

    Args:
        shape: sizes, one per axis.
        axes: logical names, one per axis; None for an axis that is never sharded.

    Raises:
        ValueError: if shape and axes have different lengths.
    """
    if len(shape) != len(axes):
        raise ValueError(f"shape {tuple(shape)} and axes {tuple(axes)} differ in length")
    return nnx.Param(init(rngs.params(), tuple(shape), dtype), logical=tuple(axes))


def split(model: nnx.Module) -> tuple[nnx.GraphDef, dict]:
    """Static definition and parameters as a plain nested dict of arrays."""
    graphdef, state = nnx.split(model, nnx.Param)
    return graphdef, nnx.to_pure_dict(state)


def merge(graphdef: nnx.GraphDef, params: dict) -> nnx.Module:
    """The module with these parameters (a plain nested dict of arrays), usable inside jit."""
    return nnx.merge(graphdef, nnx.State(params))


def abstract(build: Callable[[nnx.Rngs], nnx.Module]) -> tuple[nnx.GraphDef, dict]:
    """Definition and `jax.ShapeDtypeStruct`s of what `build(rngs)` makes; computes nothing."""
    return split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))


def logical_axes(graphdef: nnx.GraphDef, params: dict) -> dict:
    """Tree like `params` whose leaves are the parameters' tuples of logical axis names."""
    variables = nnx.state(nnx.merge(graphdef, nnx.State(params)), nnx.Param)
    is_variable = lambda node: isinstance(node, nnx.Variable)  # noqa: E731
    axes = jax.tree.map(lambda v: v.get_metadata()["logical"], variables, is_leaf=is_variable)
    return nnx.to_pure_dict(axes)


def for_inference(
    graphdef: nnx.GraphDef, params: dict, where: jax.sharding.Sharding | None = None
) -> tuple[nnx.GraphDef, dict]:
    """The same model, made ready for many calls: weight norms multiplied out, layers apart.

    The stacked parameters of a `Stack` that is not scanned become tuples, an array for each layer:
    a program reads these where they lie, but first copies each layer out of a stacked array. All
    parameters are put `where` it says; by default on the first device.
    """
    model = merge(graphdef, params)
    for _, module in list(nnx.iter_graph(model)):
        if isinstance(module, Conv1d) and module.gain is not None:
            module.kernel.set_value(module.weights())
            module.gain = None
        elif isinstance(module, Stack) and not module.scan:
            for _, variable in nnx.iter_graph(module.layers):
                if isinstance(variable, nnx.Param):
                    variable.set_value(tuple(variable.get_value()))
    graphdef, params = split(model)
    return graphdef, jax.device_put(params, where)


def parameter_count(params: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class Linear(nnx.Module):
    """y = x W (+ b), x [..., in], W [in, out]; computes in the dtype of x."""

    def __init__(
        self,
        size_in: int,
        size_out: int,
        axes: tuple[str | None, str | None],
        *,
        bias: bool = True,
        init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        self.kernel = param(rngs, (size_in, size_out), axes, init or lecun(size_in))
        self.bias = param(rngs, (size_out,), axes[1:], zeros) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        # One row axis: the kernel's gradient then contracts one axis, twice as fast on CPUs.
        y = x.reshape(-1, x.shape[-1]) @ self.kernel[...].astype(x.dtype)
        y = y.reshape(*x.shape[:-1], y.shape[-1])
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Conv1d(nnx.Module):
    """Convolution over time, channels last: x [B, T, in] -> [B, T', out], kernel [K, in, out].

    `padding` is "same" (symmetric, as torch's padding = dilation * (K - 1) / 2), "causal", or a
    pair of widths. With `groups` = in = out it is depthwise. With `weight_norm` an output's weights
    are kernel * gain / |kernel| (Salimans & Kingma 2016); its norm starts at PyTorch's default.
    """

    def __init__(
        self,
        size_in: int,
        size_out: int,
        width: int,
        axes: tuple[str | None, str | None],
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: str | tuple[int, int] = "same",
        bias: bool = True,
        weight_norm: bool = False,
        rngs: nnx.Rngs,
    ):
        fan_in = width * size_in // groups
        shape = (width, size_in // groups, size_out)
        self.kernel = param(rngs, shape, (None, *axes), lecun(fan_in))
        start = jax.nn.initializers.constant(3**-0.5)
        self.gain = param(rngs, (size_out,), axes[1:], start) if weight_norm else None
        self.bias = param(rngs, (size_out,), axes[1:], zeros) if bias else None
        reach = dilation * (width - 1)
        named = {"same": (reach // 2, reach - reach // 2), "causal": (reach, 0)}
        self.padding = named[padding] if isinstance(padding, str) else padding
        self.stride, self.dilation, self.groups = stride, dilation, groups

    def weights(self) -> jax.Array:
        """The kernel [K, in / groups, out] that is applied, weight norm multiplied out."""
        kernel = self.kernel[...]
        if self.gain is None:
            return kernel
        return kernel * (self.gain[...] * jax.lax.rsqrt(jnp.sum(jnp.square(kernel), (0, 1))))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x,
            self.weights().astype(x.dtype),
            (self.stride,),
            [self.padding],
            rhs_dilation=(self.dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.groups,
        )
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, statistics in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, *, eps: float, rngs: nnx.Rngs):
        self.scale = param(rngs, (size,), (None,), ones)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        rms = jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + self.eps)
        return (x32 * rms).astype(x.dtype) * self.scale[...].astype(x.dtype)


class LayerNorm(nnx.Module):
    """Normalises the last axis to mean 0, variance 1, then scale and bias; float32 statistics."""

    def __init__(self, size: int, *, eps: float, rngs: nnx.Rngs):
        self.scale = param(rngs, (size,), (None,), ones)
        self.bias = param(rngs, (size,), (None,), zeros)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        mean = jnp.mean(x32, -1, keepdims=True)
        variance = jnp.mean(jnp.square(x32 - mean), -1, keepdims=True)
        y = (x32 - mean) * jax.lax.rsqrt(variance + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class Span(NamedTuple):
    """What is where in a window of a stream: `left` frames that were new in earlier windows,
    `chunk` new ones, and others that are still to become new.

    Layers that look at all of time remember the new frames, and count the left ones by memory.
    """

    left: int
    chunk: int


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of groups of channels, float32 [B, 1, G, 1]."""

    count: jax.Array
    mean: jax.Array
    square: jax.Array

    @classmethod
    def of(cls, x: jax.Array, weight: jax.Array) -> "Moments":
        """Of x [B, T, G, C / G] where `weight` [B, T] is 1."""
        weight = weight[:, :, None, None]
        total = partial(jnp.sum, axis=(1, 3), keepdims=True)
        count = total(weight) * x.shape[3]
        mean = total(x * weight) / jnp.maximum(count, 1.0)
        return cls(count, mean, total(jnp.square(x - mean) * weight))

    def merge(self, new: "Moments") -> "Moments":
        """Of both (Chan et al. 1979)."""
        count = self.count + new.count
        share, apart = new.count / jnp.maximum(count, 1.0), new.mean - self.mean
        square = self.square + new.square + jnp.square(apart) * self.count * share
        return Moments(count, self.mean + apart * share, square)


class GroupNorm(nnx.Module):
    """Normalises each group of channels over (time, channels of the group): x [B, T, C].

    `mask` [B, T] (1 = valid) keeps padding out of the statistics, so that a padded batch gives
    the same values as each item alone. With `each_frame` the statistics are of one frame only.
    """

    def __init__(
        self, size: int, groups: int, *, eps: float, each_frame: bool = False, rngs: nnx.Rngs
    ):
        if size % groups:
            raise ValueError(f"GroupNorm: {size} channels do not divide into {groups} groups")
        self.scale = param(rngs, (size,), (None,), ones)
        self.bias = param(rngs, (size,), (None,), zeros)
        self.groups, self.eps, self.each_frame = groups, eps, each_frame

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        if self.each_frame and x.shape[1] != 1:
            return self(x.reshape(-1, 1, x.shape[2])).reshape(x.shape)
        weight = jnp.ones(x.shape[:2]) if mask is None else mask.astype(jnp.float32)
        return self._normalise(x, Moments.of(self._grouped(x), weight))

    def stream(
        self, x: jax.Array, mask: jax.Array, span: Span | None, past: Moments | None
    ) -> tuple[jax.Array, Moments | None]:
        """The same of a window, with the statistics of all that was new in earlier ones."""
        if past is None or self.each_frame:
            return self(x, mask), past
        x32, weight, end = self._grouped(x), mask.astype(jnp.float32), span.left + span.chunk
        past = past.merge(Moments.of(x32[:, span.left : end], weight[:, span.left : end]))
        return self._normalise(x, past.merge(Moments.of(x32[:, end:], weight[:, end:]))), past

    def _grouped(self, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32).reshape(*x.shape[:2], self.groups, -1)

    def _normalise(self, x: jax.Array, seen: Moments) -> jax.Array:
        variance = seen.square / jnp.maximum(seen.count, 1.0)
        y = (self._grouped(x) - seen.mean) * jax.lax.rsqrt(variance + self.eps)
        return (y.reshape(x.shape) * self.scale[...] + self.bias[...]).astype(x.dtype)


class Stack(nnx.Module):
    """`count` equal layers with stacked parameters, applied by one scan: compiled once, any depth.

    `build(rngs)` makes one layer. `remat` is None (save everything) or a jax.checkpoint policy.
    With `scan=False` the layers are unrolled: slower to compile, easier to debug, equal results.
    """

    def __init__(
        self,
        build: Callable[..., nnx.Module],
        count: int,
        *,
        scan: bool = True,
        remat: Callable | None = None,
        rngs: nnx.Rngs,
    ):
        stacked = nnx.vmap(lambda keys: build(rngs=keys), in_axes=0, out_axes=0)
        self.layers = nnx.split_rngs(splits=count)(stacked)(rngs)
        for _, variable in nnx.iter_graph(self.layers):
            if isinstance(variable, nnx.Param):
                variable.set_metadata(logical=("layers", *variable.get_metadata()["logical"]))
        self.count, self.scan, self.remat = count, scan, remat

    def __call__(self, x: Any, *shared: Any, each: Any = None) -> tuple[Any, Any]:
        """Carries x through the layers: layer(x, *shared) -> x, or (x, out_i) with `each`.

        Args:
            each: optional tree whose leaves have a leading axis of `count`, one slice a layer.

        Returns:
            x after the last layer, and the layers' stacked outputs (None without `each`).
        """
        graphdef, state = nnx.split(self.layers)

        def body(carry: Any, inputs: tuple) -> tuple[Any, Any]:
            layer_state, item = inputs
            layer = nnx.merge(graphdef, layer_state)
            return (layer(carry, *shared), None) if item is None else layer(carry, *shared, item)

        if self.remat is not None:
            body = jax.checkpoint(body, policy=self.remat, prevent_cse=not self.scan)
        if self.scan:
            return jax.lax.scan(body, x, (state, each))
        leaves, structure = jax.tree.flatten(state, is_leaf=lambda leaf: type(leaf) is tuple)
        layers = zip(*(_apart(leaf) for leaf in leaves), strict=True)
        outputs = []
        for i, layer in enumerate(layers):
            item = jax.tree.map(lambda leaf, i=i: leaf[i], each)
            x, out = body(x, (structure.unflatten(layer), item))
            outputs.append(out)
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def _apart(leaf: jax.Array | tuple) -> Sequence[jax.Array]:
    """A stacked parameter's layers, or those that `for_inference` has parted."""
    if type(leaf) is tuple:
        return leaf
    # Not slices: the gradient of these is a concatenation, of slices a sum of padded arrays.
    return [layer[0] for layer in jax.lax.split(leaf, (1,) * len(leaf))]
