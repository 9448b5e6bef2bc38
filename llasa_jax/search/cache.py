"""The state of sampling: rows that hold prompts, slots that hold candidates, and what changes it
between two calls of the loop (`search.decoding`).

G rows of C slots: a row holds a prompt's cache, which its slots share. A slot draws one candidate
and has a cache of its own for what that says. New keys and values first go into `recent`, where all
slots write at the same place; every `CHUNK` steps they move to each slot's own place in `blocks`.
So slots begin at multiples of `CHUNK` steps, and may otherwise be as far as they are.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from llasa_jax.config import DecoderConfig, SamplerConfig
from llasa_jax.parallel.mesh import Rules, constrain, sharding
from llasa_jax.search.take import LONGEST_CYCLE

CHUNK = 16  # steps between two moves from `recent` to `blocks`
PART = 128  # keys of the first part of the prompts' caches; each further one doubles the whole
RUNNING, ENDED, CUT, LOOPED, SILENT, EMPTY = range(6)  # `Slots.ending`

Cache = list[list[tuple[jax.Array, jax.Array]]]  # of each layer the parts: keys and values


class Prompts(NamedTuple):
    """Prompts, F of them just computed or those of the G rows.

    Attributes:
        caches: parts of p keys [K, G, H, p] and values [K, G, p, H] each.
        seen: which of the keys candidates attend to [G, P].
        lengths: [G].
        hidden: state from which the first code is drawn [G, D].
        said: codes that stand in the prompt [G, V]; V is 0 where no penalty asks for them.
    """

    caches: Cache
    seen: jax.Array
    lengths: jax.Array
    hidden: jax.Array
    said: jax.Array


class Slots(NamedTuple):
    """What the loop carries for G rows of C slots = S; T codes fit in.

    Attributes:
        filled: steps that `recent` holds, the same for all.
        recent: of each layer, keys [K, S, H, CHUNK] and values [K, S, CHUNK, H].
        blocks: older ones, parts of t [K, S, H, t], [K, S, t, H].
        keys: a random key each [G, C].
        hidden: states from which the next ids are drawn [G, C, D].
        codes: [G, C, T], of which `lengths` [G, C] count.
        min_codes, max_codes, log_probability, ending: [G, C].
        history: the last codes, the newest last [G, C, W]; -1 before the first.
        runs: how long the codes have repeated with each period up to LONGEST_CYCLE [G, C, 8].
        quiet: how many of the last codes were silent in a row [G, C].
        said: codes said so far, those of the prompt among them [G, C, V or 0].
    """

    filled: jax.Array
    recent: list[tuple[jax.Array, jax.Array]]
    blocks: Cache
    keys: jax.Array
    hidden: jax.Array
    codes: jax.Array
    lengths: jax.Array
    min_codes: jax.Array
    max_codes: jax.Array
    log_probability: jax.Array
    ending: jax.Array
    history: jax.Array
    runs: jax.Array
    quiet: jax.Array
    said: jax.Array


def part_sizes(length: int, first: int = PART) -> list[int]:
    """Sizes of the parts that hold `length` keys: the first, then each as large as all before."""
    sizes = [first]
    while sum(sizes) < length:
        sizes.append(sum(sizes))
    return sizes


@functools.cache
def empty(
    mesh: Mesh | None,
    lm: DecoderConfig,
    config: SamplerConfig,
    shape: tuple[int, int],
    length: int,
    room: int,
) -> Callable[[], tuple[Prompts, Slots]]:
    """What makes rows and slots [G, C] with nothing in them, for prompts of `length` and `room`
    codes: compiled once."""
    make = functools.partial(_empty, lm, config, shape, length, room)
    if mesh is None:
        return jax.jit(make)
    return jax.jit(make, out_shardings=places(jax.eval_shape(make), mesh))


def _empty(
    lm: DecoderConfig, config: SamplerConfig, shape: tuple[int, int], length: int, room: int
) -> tuple[Prompts, Slots]:
    (rows, _), slots = shape, shape[0] * shape[1]
    dtype, heads, size = jnp.dtype(lm.compute_dtype), lm.kv_heads, lm.head_dim

    def pair(count: int, length: int) -> tuple[jax.Array, jax.Array]:
        shapes = (heads, count, size, length), (heads, count, length, size)
        return tuple(jnp.zeros(shape, dtype) for shape in shapes)

    layers, sizes = range(lm.layers), part_sizes(length)
    flags = 0 if config.repetition_penalty == 1 else lm.codes
    integers = lambda *rest: jnp.zeros((*shape, *rest), jnp.int32)  # noqa: E731
    prompts = Prompts(
        caches=[[pair(rows, part) for part in sizes] for _ in layers],
        seen=jnp.zeros((rows, sum(sizes)), bool),
        lengths=jnp.zeros(rows, jnp.int32),
        hidden=jnp.zeros((rows, lm.dim), dtype),
        said=jnp.zeros((rows, flags), bool),
    )
    return prompts, Slots(
        filled=jnp.zeros((), jnp.int32),
        recent=[pair(slots, CHUNK) for _ in layers],
        blocks=[[pair(slots, room)] for _ in layers],
        keys=jax.random.split(jax.random.key(0), shape),
        hidden=jnp.zeros((*shape, lm.dim), dtype),
        codes=integers(room),
        lengths=integers(),
        min_codes=integers(),
        max_codes=integers(),
        log_probability=jnp.zeros(shape),
        ending=integers() + EMPTY,
        history=integers(max(LONGEST_CYCLE, config.ras_window)) - 1,
        runs=integers(LONGEST_CYCLE),
        quiet=integers(),
        said=jnp.zeros((*shape, flags), bool),
    )


def places(state: tuple[Prompts, Slots], mesh: Mesh) -> tuple[Prompts, Slots]:
    """Where rows and slots lie: caches by heads and rows, all else by rows.

    Raises:
        UserError: if the mesh does not divide them.
    """

    def one(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        rank = len(leaf.shape)
        axes = ("batch",) + (None,) * (rank - 1) if rank else ()
        axes = ("kv_heads", "batch", None, None) if rank == 4 else axes  # none but caches
        return sharding(mesh, Rules(), axes, leaf.shape, "slots")

    return jax.tree.map(one, state)


@functools.partial(jax.jit, donate_argnames="rows")
def install(rows: Prompts, prompts: Prompts, source: jax.Array) -> Prompts:
    """The rows, with prompt `source` [G] of the new ones in those where it is not negative."""
    chosen, place = source >= 0, jnp.maximum(source, 0)

    def put(old: jax.Array, new: jax.Array, axis: int = 0) -> jax.Array:
        mask = jnp.expand_dims(chosen, [i for i in range(old.ndim) if i != axis])
        return jnp.where(mask, jnp.take(new, place, axis=axis), old)

    caches = []
    for old, new in zip(rows.caches, prompts.caches, strict=True):
        pairs = [
            (put(k, new_k, 1), put(v, new_v, 1))
            for (k, v), (new_k, new_v) in zip(old, new, strict=False)
        ]
        caches.append(pairs + old[len(pairs) :])  # a short prompt does not see the last parts
    more = rows.seen.shape[1] - prompts.seen.shape[1]
    seen = put(rows.seen, jnp.pad(prompts.seen, ((0, 0), (0, more))))
    others = (put(old, new) for old, new in zip(rows[2:], prompts[2:], strict=True))
    return Prompts(caches, seen, *others)


@functools.partial(jax.jit, donate_argnames="slots")
def begin(
    slots: Slots,
    rows: Prompts,
    chosen: jax.Array,
    keys: jax.Array,
    bounds: tuple[jax.Array, jax.Array],
) -> Slots:
    """The `chosen` slots [G, C] at the beginning of another candidate of their row's prompt.

    Args:
        keys: random keys [G, C]; of the chosen ones.
        bounds: least and greatest number of codes, two [G, C]; of the chosen ones.
    """
    new = {
        "keys": keys,
        "hidden": rows.hidden[:, None],
        "lengths": 0,
        "min_codes": bounds[0],
        "max_codes": bounds[1],
        "log_probability": 0.0,
        "ending": jnp.where(bounds[1] > 0, RUNNING, CUT),
        "history": -1,
        "runs": 0,
        "quiet": 0,
        "said": rows.said[:, None],
    }

    def put(old: jax.Array, value: jax.Array) -> jax.Array:
        mask = jnp.expand_dims(chosen, range(2, old.ndim))
        return jnp.where(mask, value, old)

    changed = {name: put(getattr(slots, name), value) for name, value in new.items()}
    busy = (slots.ending == RUNNING).any()
    return slots._replace(filled=jnp.where(busy, slots.filled, 0), **changed)


@functools.partial(jax.jit, donate_argnames="slots")
def fork(slots: Slots, parents: jax.Array, keys: jax.Array, kept: jax.Array) -> Slots:
    """Each slot goes on from where slot `parents` [G, C] of its row is, with keys [G, C].

    Those that are not `kept` [G, C] stay empty.
    """

    def pick(x: jax.Array) -> jax.Array:  # [G, C, ...]
        places = jnp.expand_dims(parents, range(2, x.ndim))
        return jnp.take_along_axis(x, places, axis=1)

    def pick_cache(x: jax.Array) -> jax.Array:  # [K, S, ...]
        apart = x.reshape(x.shape[0], *parents.shape, *x.shape[2:])
        places = parents[None, :, :, None, None]
        return jnp.take_along_axis(apart, places, axis=2).reshape(x.shape)

    caches = jax.tree.map(pick_cache, (slots.recent, slots.blocks))
    apart = {name: pick(getattr(slots, name)) for name in slots._fields[4:]}
    apart["ending"] = jnp.where(kept, apart["ending"], EMPTY)
    fresh = {"filled": slots.filled, "recent": caches[0], "blocks": caches[1], "keys": keys}
    return Slots(**fresh, **apart)


def _doubled(cache: Cache, size: int) -> Cache:
    """A cache of `size` keys with a part for as many more."""

    def more(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        k, v = pair
        shapes = (*k.shape[:3], size), (*v.shape[:2], size, v.shape[3])
        return tuple(
            constrain(jnp.zeros(shape, k.dtype), "kv_heads", "batch", None, None)
            for shape in shapes
        )

    return [[*parts, more(parts[0])] for parts in cache]


@jax.jit
def grow(slots: Slots) -> Slots:
    """The same candidates with room for twice as many codes."""
    room = slots.codes.shape[2]
    codes = jnp.pad(slots.codes, ((0, 0), (0, 0), (0, room)))
    return slots._replace(blocks=_doubled(slots.blocks, room), codes=codes)


@jax.jit
def widen(rows: Prompts) -> Prompts:
    """The same prompts with room for ones twice as long."""
    size = rows.seen.shape[1]
    seen = jnp.pad(rows.seen, ((0, 0), (0, size)))
    return rows._replace(caches=_doubled(rows.caches, size), seen=seen)


def trim_slots(slots: Slots, length: int, room: int) -> Slots:
    """The slots without the parts that only takes of over `length` codes need; `room` is that of
    the first part."""
    sizes = part_sizes(length, room)
    if sum(sizes) >= slots.codes.shape[2]:
        return slots
    blocks = [parts[: len(sizes)] for parts in slots.blocks]
    return slots._replace(blocks=blocks, codes=slots.codes[..., : sum(sizes)])


def trim_prompts(rows: Prompts, length: int) -> Prompts:
    """The rows without the parts that only prompts of over `length` tokens need."""
    sizes = part_sizes(length)
    if sum(sizes) >= rows.seen.shape[1]:
        return rows
    caches = [parts[: len(sizes)] for parts in rows.caches]
    return rows._replace(caches=caches, seen=rows.seen[:, : sum(sizes)])
