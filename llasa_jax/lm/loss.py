"""Next-token cross-entropy: a plain reference, and one that never holds all logits.

Both return sums and a weight, not a mean, so that microbatches and devices with different numbers
of speech tokens add up to the same loss as one large batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import gcd
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from llasa_jax.lm.model import head_logits
from llasa_jax.parallel.mesh import AXES, Rules, current_mesh


class Loss(NamedTuple):
    """Weighted sums over positions, float32 scalars.

    `total` is to be minimised: -log p(target) in nats, and the z-loss; `weight` sums the weights,
    `nats` is the total without the z-loss, and has no gradient.
    """

    total: jax.Array
    weight: jax.Array
    nats: jax.Array

    @property
    def mean(self) -> jax.Array:
        """The total of a token; 0 for an empty batch."""
        return self.total / jnp.maximum(self.weight, 1.0)


def cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, *, z_loss: float = 0.0
) -> Loss:
    """Sum over positions of weights * (log Z - logits[target] + z_loss * (log Z)^2).

    Z is the sum of the exponentials of the logits; the z-loss, which keeps it near 1, is that of
    Chowdhery et al. 2022 (PaLM, section 5).

    Args:
        logits: [..., V].
        targets: ids [...].
        weights: loss weight of each position [...].
    """
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return _sums(jax.nn.logsumexp(logits, axis=-1), chosen, weights.astype(jnp.float32), z_loss)


def _sums(log_z: jax.Array, chosen: jax.Array, weights: jax.Array, z_loss: float) -> Loss:
    nats = jnp.sum((log_z - chosen) * weights)
    penalty = z_loss * jnp.sum(jnp.square(log_z) * weights)
    return Loss(nats + penalty, jnp.sum(weights), jax.lax.stop_gradient(nats))


@dataclass(frozen=True)
class _How:
    vocab: int
    chunk: int
    z_loss: float
    accumulate: str
    neighbours: int


def chunked_cross_entropy(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    vocab: int,
    chunk: int,
    z_loss: float = 0.0,
    accumulate: str = "float32",
    neighbours: int = 1,
) -> Loss:
    """`cross_entropy` of hidden x table, holding the logits of `chunk` positions a row at a time.

    Its gradient is made with its value, in one pass: softmax minus one-hot stands in the logits'
    place, so that they are neither kept nor computed twice. Each row's positions without weight go
    last, and chunks of them alone are skipped.

    On a mesh (`parallel.mesh.on_mesh`) each device gathers its rows of the table once before the
    loop over chunks and its gradient is reduced once after it: left to the compiler, the reduction
    would stand in the loop. Devices along `tensor` share the vocabulary. So do `neighbours` along
    `fsdp`, which put their tokens together instead: that many times less of the table and of its
    gradient to hold and to send.

    Args:
        hidden: [B, S, D].
        table: head rows [V padded, D].
        targets, weights: [B, S]; there is no gradient for the weights.
        vocab: number of ids; the rows after them are padding.
        chunk: positions a row at once.
        accumulate: dtype in which the table's gradient adds up over the chunks.
        neighbours: as many of them as divide fsdp.
    """
    how = _How(vocab, chunk, z_loss, accumulate, neighbours)
    return Loss(*_chunked(hidden, table, targets, weights.astype(jnp.float32), how))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(hidden, table, targets, weights, how):  # noqa: ANN001, ANN202
    return _everywhere(hidden, table, targets, weights, how, slopes=False)[0]


def _chunked_forward(hidden, table, targets, weights, how):  # noqa: ANN001, ANN202
    return _everywhere(hidden, table, targets, weights, how, slopes=True)


def _chunked_backward(how, gradients, cotangents):  # noqa: ANN001, ANN202
    return *((g * cotangents[0]).astype(g.dtype) for g in gradients), None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _everywhere(hidden, table, targets, weights, how, slopes):  # noqa: ANN001, ANN202
    """The sums, and with `slopes` the gradients of hidden and table, on all devices of the mesh."""
    mesh = current_mesh()
    team = _Team(mesh, how.neighbours, table.shape[0])
    if mesh is None:
        return _on_device(hidden, table, targets, weights, how, slopes, team)
    spec = Rules().spec
    rows, states, head = (
        spec(axes) for axes in (("batch", "length"), ("batch", "length", None), ("vocab", "embed"))
    )
    return jax.shard_map(
        partial(_on_device, how=how, slopes=slopes, team=team),
        mesh=mesh,
        in_specs=(states, head, rows, rows),
        out_specs=(Loss(spec(()), spec(()), spec(())), (states, head) if slopes else None),
        check_vma=False,
    )(hidden, table, targets, weights)


def _on_device(hidden, table, targets, weights, how, slopes, team):  # noqa: ANN001, ANN202
    """`_everywhere` for one device's tokens and its part of the table."""
    length = hidden.shape[1]
    order = jnp.argsort(weights == 0, axis=1, stable=True)
    states = jnp.take_along_axis(hidden, order[..., None], axis=1)
    targets, weights = (jnp.take_along_axis(x, order, axis=1) for x in (targets, weights))
    states, targets, weights = (team.gather_tokens(x) for x in (states, targets, weights))
    rows = team.gather_table(table.astype(hidden.dtype))
    first = team.first_row(rows.shape[0])
    used = jnp.max(-(-jnp.sum(weights != 0, axis=1) // how.chunk))
    used = team.most(used)  # all devices skip alike, for they talk in the loop

    def step(carry: tuple, piece: tuple) -> tuple[tuple, jax.Array | None]:
        sums, gradient = carry
        shape = piece[0].shape
        # One row axis: products that contract two are slow on CPUs.
        states, targets, weights = (x.reshape(-1, *x.shape[2:]) for x in piece)
        logits = head_logits(states, rows, how.vocab - first)
        place = targets[:, None] - first
        chosen = jnp.take_along_axis(logits, jnp.clip(place, 0, len(rows) - 1), axis=-1)
        chosen = jnp.where((place >= 0) & (place < len(rows)), chosen, 0.0)[:, 0]
        log_z, chosen = team.join(jax.nn.logsumexp(logits, axis=-1), chosen)
        sums = Loss(*map(jnp.add, sums, _sums(log_z, chosen, weights, how.z_loss)))
        if not slopes:
            return (sums, None), None
        slope = jnp.exp(logits - log_z[:, None])
        if how.z_loss:
            slope *= 1 + 2 * how.z_loss * log_z[:, None]
        slope = (slope - (jnp.arange(len(rows)) == place)) * weights[:, None]
        slope = slope.astype(hidden.dtype)
        dot = partial(jnp.einsum, preferred_element_type=jnp.float32)
        gradient += dot("nv,nd->vd", slope, states).astype(gradient.dtype)
        back = dot("nv,vd->nd", slope, rows).astype(hidden.dtype)
        return (sums, gradient), back.reshape(shape)

    def skip(carry: tuple, piece: tuple) -> tuple[tuple, jax.Array | None]:
        return carry, jnp.zeros_like(piece[0]) if slopes else None

    def step_or_skip(carry: tuple, numbered: tuple) -> tuple[tuple, jax.Array | None]:
        number, *piece = numbered
        return jax.lax.cond(number < used, step, skip, carry, tuple(piece))

    pieces = [_pieces(x, how.chunk) for x in (states, targets, weights)]
    zero = jnp.zeros(())
    start = Loss(zero, zero, zero), jnp.zeros(rows.shape, how.accumulate) if slopes else None
    numbers = jnp.arange(len(pieces[0]))
    (sums, gradient), back = jax.lax.scan(step_or_skip, start, (numbers, *pieces))
    sums = Loss(*(team.total(x) for x in sums))
    if not slopes:
        return sums, None
    back = jnp.moveaxis(back, 0, 1).reshape(*states.shape[:1], -1, states.shape[2])
    back = team.reduce_tokens(back[:, :length])
    back = jnp.take_along_axis(back, jnp.argsort(order, axis=1)[..., None], axis=1)
    return sums, (back, team.reduce_table(gradient).astype(table.dtype))


def _pieces(x: jax.Array, chunk: int) -> jax.Array:
    """[B, S, ...] -> [S / chunk, B, chunk, ...], padded with zeros."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % chunk)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)


class _Team:
    """Who shares the vocabulary: the devices along `tensor`, and `near` neighbours along `fsdp`.

    Its methods are the loss's collectives, inside `shard_map`; those of a device that is alone are
    none. Along `fsdp` the table is split by its width, and `far` teams gather it together.
    """

    def __init__(self, mesh: AbstractMesh | None, neighbours: int, rows: int):
        self.sizes = dict.fromkeys(AXES, 1) | (dict(mesh.shape) if mesh is not None else {})
        self.tensor, fsdp = self.sizes["tensor"], self.sizes["fsdp"]
        self.near = gcd(neighbours, fsdp, rows // self.tensor)
        self.far = fsdp // self.near
        self.group = [[*range(i, i + self.near)] for i in range(0, fsdp, self.near)]
        self.alike = [[*range(i, fsdp, self.near)] for i in range(self.near)]

    def gather_table(self, table: jax.Array) -> jax.Array:
        """[V / tensor, D / fsdp] -> this device's rows [V / tensor / near, D]."""
        if self.near > 1:
            table = jax.lax.all_to_all(
                table, "fsdp", 0, 1, axis_index_groups=self.group, tiled=True
            )
        if self.far > 1:
            table = jax.lax.all_gather(
                table, "fsdp", axis=1, axis_index_groups=self.alike, tiled=True
            )
        return table

    def reduce_table(self, gradient: jax.Array) -> jax.Array:
        """The way back: [V / tensor / near, D] -> [V / tensor, D / fsdp], of all tokens."""
        if self.far > 1:
            gradient = jax.lax.psum_scatter(
                gradient, "fsdp", scatter_dimension=1, axis_index_groups=self.alike, tiled=True
            )
        if self.near > 1:
            gradient = jax.lax.all_to_all(
                gradient, "fsdp", 1, 0, axis_index_groups=self.group, tiled=True
            )
        return self._over(jax.lax.psum, gradient, "data", "sequence")

    def first_row(self, rows: int) -> int | jax.Array:
        """Number of the device's first row, of `rows`."""
        place: int | jax.Array = 0
        if self.tensor > 1:
            place = jax.lax.axis_index("tensor")
        if self.near > 1:
            place = place * self.near + jax.lax.axis_index("fsdp") % self.near
        return place * rows

    def gather_tokens(self, x: jax.Array) -> jax.Array:
        """[B, ...] -> [near B, ...]."""
        if self.near == 1:
            return x
        return jax.lax.all_gather(x, "fsdp", axis_index_groups=self.group, tiled=True)

    def reduce_tokens(self, gradient: jax.Array) -> jax.Array:
        """[near B, ...] -> [B, ...], of all rows."""
        if self.near > 1:
            gradient = jax.lax.psum_scatter(
                gradient, "fsdp", axis_index_groups=self.group, tiled=True
            )
        return self._over(jax.lax.psum, gradient, "tensor")

    def join(self, log_z: jax.Array, chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
        """log Z and the targets' logits [n] over all rows, of those over the device's."""
        if self.near == self.tensor == 1:
            return log_z, chosen
        parts = jnp.stack([log_z, chosen])[None]
        if self.near > 1:
            parts = jax.lax.all_gather(parts, "fsdp", axis_index_groups=self.group, tiled=True)
        if self.tensor > 1:
            parts = jax.lax.all_gather(parts, "tensor", tiled=True)
        return jax.nn.logsumexp(parts[:, 0], axis=0), jnp.sum(parts[:, 1], axis=0)

    def most(self, count: jax.Array) -> jax.Array:
        """The greatest of all devices' counts."""
        return self._over(jax.lax.pmax, count, *AXES)

    def total(self, x: jax.Array) -> jax.Array:
        """Sum over all tokens of what each team has of its own."""
        return self._over(jax.lax.psum, x, "data", "fsdp", "sequence") / self.near

    def _over(self, collective: Callable, x: jax.Array, *axes: str) -> jax.Array:
        axes = tuple(axis for axis in axes if self.sizes[axis] > 1)
        return collective(x, axes) if axes else x
