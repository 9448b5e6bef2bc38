"""The device mesh and the rules that lay logical axes on it.

Models name the axes of their parameters logically ("embed", "mlp", ...; `nn.param`). `Rules` says
in one place which mesh axis each name lies on; changing the parallelism changes no model.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from llasa_jax.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")

Physical = str | tuple[str, ...] | None  # mesh axes that an array axis is split over


@dataclass(frozen=True)
class Rules:
    """The mesh axes of each logical axis.

    The default splits parameters over `fsdp` along the model's width (gathered where they are
    used, as ZeRO-3 does) and over `tensor` along heads, feed-forward and vocabulary.
    """

    batch: Physical = ("data", "fsdp")
    length: Physical = "sequence"
    embed: Physical = "fsdp"
    mlp: Physical = "tensor"
    heads: Physical = "tensor"
    kv_heads: Physical = "tensor"
    head_dim: Physical = None
    vocab: Physical = "tensor"
    layers: Physical = None

    def __post_init__(self):
        for field in fields(self):
            for axis in _names(getattr(self, field.name)):
                if axis not in AXES:
                    known = ", ".join(AXES)
                    raise UserError(f"rules.{field.name}: no mesh axis {axis!r}, known: {known}")

    def spec(self, axes: Sequence[str | None]) -> PartitionSpec:
        """The partition of an array whose axes have these logical names (None: not split).

        Raises:
            UserError: if a name has no rule, or two axes of the array claim one mesh axis.
        """
        physical = [None if name is None else self._rule(name) for name in axes]
        used = [axis for entry in physical for axis in _names(entry)]
        for axis in used:
            if used.count(axis) > 1:
                raise UserError(f"rules: two axes of {tuple(axes)} both lie on mesh axis {axis!r}")
        return PartitionSpec(*physical)

    def _rule(self, name: str) -> Physical:
        known = [field.name for field in fields(self)]
        if name not in known:
            raise UserError(f"rules: no logical axis {name!r}, known: {', '.join(known)}")
        return getattr(self, name)


def _names(entry: Physical) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry or ()


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    sequence: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh of these sizes over all devices; one size may be -1: whatever is left.

    Several slices of a pod lie along `data`: only gradients then cross the network between them.

    Raises:
        UserError: if the sizes do not multiply to the number of devices, or `data` does not divide
            by the number of slices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = [data, fsdp, tensor, sequence]
    free = sizes.count(-1)
    given = math.prod(size for size in sizes if size != -1)
    shown = ", ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    if free > 1 or given < 1 or min(sizes) < -1:
        raise UserError(f"mesh {shown}: sizes must be positive, at most one of them -1")
    if count % given or (not free and given != count):
        raise UserError(f"mesh {shown}: does not fit {count} devices")
    sizes = [count // given if size == -1 else size for size in sizes]
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes[0] % slices:
        raise UserError(f"mesh {shown}: {slices} slices lie along data, which they do not divide")
    if slices == 1:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        inner = [sizes[0] // slices, *sizes[1:]]
        grid = mesh_utils.create_hybrid_device_mesh(
            inner, [slices, 1, 1, 1], devices, allow_split_physical_axes=True
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def on_mesh(mesh: Mesh) -> AbstractContextManager:
    """Within it, what is traced knows the mesh it will run on: `current_mesh`, `constrain`."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def current_mesh() -> AbstractMesh | None:
    """The mesh of `on_mesh`; None outside, and for a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """x, laid on the current mesh by its axes' logical names; left to the compiler without one.

    Activations need it: by the parameters alone the compiler may split them by width.

    Raises:
        UserError: as `sharding`.
    """
    mesh = current_mesh()
    if mesh is None:
        return x
    where = sharding(mesh, Rules(), axes, x.shape, "activations")
    return jax.lax.with_sharding_constraint(x, where)


def by_rows(f: Callable, *arrays: jax.Array) -> Any:
    """f(*arrays) of which each device computes its own rows, on the current mesh if there is one.

    For what the compiler does not split by itself: before an FFT it gathers the whole batch, and
    every device transforms all of it.

    Args:
        f: treats the rows (first axis) of its arrays apart; so are the rows of all it returns.
    """
    mesh = current_mesh()
    if mesh is None:
        return f(*arrays)
    rows = Rules().spec(("batch",))
    return jax.shard_map(f, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)(*arrays)


def sharding(
    mesh: Mesh | AbstractMesh,
    rules: Rules,
    axes: Sequence[str | None],
    shape: Sequence[int],
    what: str = "array",
) -> NamedSharding:
    """Where an array of this shape and these logical axes lies.

    Args:
        what: its name, for the error.

    Raises:
        UserError: if a size does not divide by the devices that its axis is split over.
    """
    spec = rules.spec(axes)
    for size, name, entry in zip(shape, axes, spec, strict=True):
        parts = math.prod(mesh.shape[axis] for axis in _names(entry))
        if size % parts:
            over = " x ".join(_names(entry))
            raise UserError(f"mesh: {what}: {name} {size} does not divide by {over} = {parts}")
    return NamedSharding(mesh, spec)


def shardings(mesh: Mesh, rules: Rules, axes: Any, shapes: Any) -> Any:
    """The sharding of every parameter: a tree like `shapes`.

    Args:
        axes: tree of tuples of logical names (`nn.logical_axes`).
        shapes: the same tree of arrays or `jax.ShapeDtypeStruct`s.

    Raises:
        UserError: as `Rules.spec` and `sharding`, with the parameter's path.
    """

    def one(path: tuple, names: tuple[str | None, ...], leaf: Any) -> NamedSharding:
        return sharding(
            mesh, rules, names, leaf.shape, jax.tree_util.keystr(path, simple=True, separator=".")
        )

    is_axes = lambda node: isinstance(node, tuple)  # noqa: E731
    return jax.tree_util.tree_map_with_path(one, axes, shapes, is_leaf=is_axes)
