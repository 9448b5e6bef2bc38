"""The compiled side of sampling: prompts computed once, and one loop over a fixed number of slots.

G rows of C slots: a row holds a prompt's cache, which its slots share. A slot draws one candidate
and has a cache of its own for what that says. New keys and values first go into `recent`, where all
slots write at the same place; every `CHUNK` steps they move to each slot's own place in `blocks`.
So slots begin at multiples of `CHUNK` steps, and may otherwise be as far as they are.

A slot's numbers hang on nothing but its own prompt, keys and codes: parts of caches that only
others use add exact zeros to its softmax and its sums.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, SamplerConfig
from llasa_jax.lm.model import MASKED, Decoder, Layer, head_logits
from llasa_jax.parallel.mesh import Rules, constrain, sharding
from llasa_jax.search.draw import draw_aware, folded, penalised, uniform
from llasa_jax.search.take import LONGEST_CYCLE

CHUNK = 16  # steps between two moves from `recent` to `blocks`
PART = 128  # keys of the first part of the prompts' caches; each further one doubles the whole
RUNNING, ENDED, CUT, LOOPED, SILENT, EMPTY = range(6)  # `Slots.ending`
IGNORE, ANY, WHOLE = range(3)  # `Limits.wanted`

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


class Limits(NamedTuple):
    """What ends the loop, and what ends a take inside it.

    Attributes:
        wanted: of each row [G], whose free slots count: none (IGNORE), any (ANY), all of a row that
            has no other left (WHOLE).
        wait: the loop ends when so many count.
        steps: it ends after so many.
        loop_codes, silent_codes: as in `GuardConfig`; 0: off.
        silent: which codes are silent [V].
    """

    wanted: jax.Array
    wait: jax.Array
    steps: jax.Array
    loop_codes: jax.Array
    silent_codes: jax.Array
    silent: jax.Array


def part_sizes(length: int, first: int = PART) -> list[int]:
    """Sizes of the parts that hold `length` keys: the first, then each as large as all before."""
    sizes = [first]
    while sum(sizes) < length:
        sizes.append(sum(sizes))
    return sizes


@functools.partial(jax.jit, static_argnames=("graphdef", "config", "first_code"))
def prefill(
    params: dict,
    tokens: jax.Array,
    lengths: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    config: SamplerConfig,
    first_code: int,
) -> Prompts:
    """Computes prompts [F, P], padded on the right, of these lengths [F]."""
    model: Decoder = nn.merge(graphdef, params)
    lm = model.config
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    within = places < lengths[:, None]
    hidden, (k, v) = model.prefill(tokens, places, within.astype(jnp.int32))
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
    sizes = part_sizes(tokens.shape[1])
    more = sum(sizes) - tokens.shape[1]
    k = jnp.pad(rearrange(k, "L G K P H -> L K G H P"), [(0, 0)] * 4 + [(0, more)])
    v = jnp.pad(rearrange(v, "L G K P H -> L K G P H"), [(0, 0)] * 3 + [(0, more), (0, 0)])
    edges = [sum(sizes[:i]) for i in range(1, len(sizes))]
    parts = [
        list(zip(jnp.split(one_k, edges, -1), jnp.split(one_v, edges, -2), strict=True))
        for one_k, one_v in zip(k, v, strict=True)
    ]
    seen = within if lm.unseen is None else within & (tokens != lm.unseen)
    if config.repetition_penalty == 1:
        said = jnp.zeros((len(tokens), 0), bool)
    else:
        codes = jnp.where(within & (tokens >= first_code), tokens - first_code, lm.codes)
        rows = jnp.arange(len(tokens))[:, None]
        said = jnp.zeros((len(tokens), lm.codes), bool).at[rows, codes].set(True, mode="drop")
    return Prompts(parts, jnp.pad(seen, ((0, 0), (0, more))), lengths, last, said)


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


@functools.partial(
    jax.jit, static_argnames=("graphdef", "config", "first_code", "end"), donate_argnames="slots"
)
def decode(
    params: dict,
    rows: Prompts,
    slots: Slots,
    limits: Limits,
    *,
    graphdef: nnx.GraphDef,
    config: SamplerConfig,
    first_code: int,
    end: int,
) -> tuple[Slots, jax.Array]:
    """Draws codes until a limit is met, no slot runs, or the blocks are full (`grow`).

    Returns:
        The slots, and the number of steps.
    """
    model: Decoder = nn.merge(graphdef, params)
    layers, count = model.unstacked(), model.config.codes
    table = model.head_table().astype(slots.hidden.dtype)
    end_row = table[end : end + 1]  # cut out once, not each step
    code_rows = constrain(table[first_code : first_code + count], "vocab", None)
    room = slots.codes.shape[2]

    def step(carry: tuple) -> tuple:
        slots, steps = carry
        end_logit = head_logits(slots.hidden, end_row, 1)[..., 0]
        logits = head_logits(slots.hidden, code_rows, count)
        own = logits
        norm = jnp.logaddexp(end_logit, jax.nn.logsumexp(own, axis=-1))
        if config.repetition_penalty != 1:
            logits = penalised(logits, slots.said, config)
        keys = folded(slots.keys, slots.lengths)
        # END has its probability at the sampler's temperature, before anything is cut. Were it
        # among what is cut at `top_k`, a model that spreads over a thousand codes (a small one
        # does) would stop early: the kept codes share what the others had, and END gains with them.
        others = jax.nn.logsumexp(logits / config.temperature, axis=-1)
        ended = uniform(keys) < jax.nn.sigmoid(end_logit / config.temperature - others)
        ended &= slots.lengths >= slots.min_codes
        code = draw_aware(logits, keys, slots.history, config)
        chosen = jnp.take_along_axis(own, code[..., None], axis=-1)[..., 0]
        nats = jnp.where(ended, end_logit, chosen) - norm

        running = slots.ending == RUNNING
        ends = running & ended
        speaks = running & ~ended & (slots.lengths < slots.max_codes)
        heard = listen(slots, code, speaks, limits)
        ending = jnp.where(running & ~speaks, jnp.where(ended, ENDED, CUT), heard.pop("ending"))
        tokens = jnp.where(ended, end, first_code + code)
        hidden, recent = advance(model, layers, rows, slots, tokens)
        here = (jnp.arange(room) == slots.lengths[..., None]) & speaks[..., None]
        slots = slots._replace(
            filled=slots.filled + 1,
            recent=recent,
            hidden=hidden,
            codes=jnp.where(here, code[..., None], slots.codes),
            lengths=slots.lengths + speaks,
            log_probability=slots.log_probability + jnp.where(ends | speaks, nats, 0.0),
            ending=ending,
            **heard,
        )
        return slots, steps + 1

    def unfinished(carry: tuple) -> jax.Array:
        slots, steps = carry
        return (steps < limits.steps) & (slots.ending == RUNNING).any()

    def chunk(carry: tuple) -> tuple:
        within = lambda carry: unfinished(carry) & (carry[0].filled < CHUNK)  # noqa: E731
        slots, steps = jax.lax.while_loop(within, step, carry)
        return move(slots), steps

    def wanted(carry: tuple) -> jax.Array:
        slots, _ = carry
        running = slots.ending == RUNNING
        free, idle = (~running).sum(1), ~running.any(1) * running.shape[1]
        counted = jnp.where(limits.wanted == ANY, free, (limits.wanted == WHOLE) * idle).sum()
        longest = jnp.where(running, slots.lengths, 0).max() - slots.filled
        return unfinished(carry) & (counted < limits.wait) & (longest + CHUNK <= room)

    return jax.lax.while_loop(wanted, chunk, (slots, jnp.zeros((), jnp.int32)))


def listen(slots: Slots, code: jax.Array, speaks: jax.Array, limits: Limits) -> dict:
    """What changes in `history`, `runs`, `quiet`, `said` and `ending` where a slot `speaks`."""
    same = jnp.flip(slots.history[..., -LONGEST_CYCLE:], -1) == code[..., None]
    runs = jnp.where(same, slots.runs + 1, 0)
    length = jnp.where(runs > 0, runs + 1 + jnp.arange(LONGEST_CYCLE), 0).max(-1)
    quiet = jnp.where(limits.silent[code], slots.quiet + 1, 0)
    looped = speaks & (limits.loop_codes > 0) & (length >= limits.loop_codes)
    silent = speaks & (limits.silent_codes > 0) & (quiet >= limits.silent_codes)
    ending = jnp.where(looped, LOOPED, jnp.where(silent, SILENT, slots.ending))
    history = jnp.concatenate([slots.history[..., 1:], code[..., None]], -1)
    said = slots.said
    if said.shape[-1]:
        said |= (jnp.arange(said.shape[-1]) == code[..., None]) & speaks[..., None]
    return {"history": history, "runs": runs, "quiet": quiet, "said": said, "ending": ending}


def move(slots: Slots) -> Slots:
    """Moves a full `recent` to each slot's own place in `blocks`."""
    full = slots.filled == CHUNK
    first = (slots.lengths - CHUNK).reshape(-1)  # of slots that run; others' caches are of no use
    blocks = []
    for (new_k, new_v), parts in zip(slots.recent, slots.blocks, strict=True):
        start, moved = 0, []
        for k, v in parts:
            size = v.shape[2]
            here = full & (start + CHUNK * jnp.arange(size // CHUNK) == first[:, None])
            apart = rearrange(k, "K S H (n c) -> K S H n c", c=CHUNK)
            k = jnp.where(here[None, :, None, :, None], new_k[:, :, :, None], apart)
            apart = rearrange(v, "K S (n c) H -> K S n c H", c=CHUNK)
            v = jnp.where(here[None, :, :, None, None], new_v[:, :, None], apart)
            moved.append((k.reshape(*k.shape[:3], -1), v.reshape(*v.shape[:2], -1, v.shape[4])))
            start += size
        blocks.append(moved)
    return slots._replace(filled=jnp.where(full, 0, slots.filled), blocks=blocks)


def advance(
    model: Decoder, layers: list[Layer], rows: Prompts, slots: Slots, tokens: jax.Array
) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
    """Feeds one id to each slot: tokens [G, C] -> hidden [G, C, D], `recent`."""
    groups, candidates = tokens.shape
    positions = rows.lengths[:, None] + slots.lengths
    x, angles = model.embed(tokens.reshape(-1, 1), positions.reshape(-1, 1))
    in_prompt, in_recent = rows.seen[:, None], jnp.arange(CHUNK) <= slots.filled
    older = (slots.lengths - slots.filled).reshape(-1, 1, 1)  # codes in the blocks

    def attend(q, k, v, prompt, recent, blocks):  # noqa: ANN001
        """One softmax over all parts: the prompt's, the recent ones, the older ones; Q = N / K."""
        kv_heads, size = k.shape[2:]
        q = rearrange(q * size**-0.5, "S 1 (K Q) H -> K S Q H", K=kv_heads)
        k, v = rearrange(k, "S 1 K H -> K S H 1"), rearrange(v, "S 1 K H -> K S 1 H")
        recent_k = jax.lax.dynamic_update_slice_in_dim(recent[0], k, slots.filled, axis=3)
        recent_v = jax.lax.dynamic_update_slice_in_dim(recent[1], v, slots.filled, axis=2)

        dot = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
        shared = (kv_heads, groups, -1)
        scores, values, start = [], [], 0
        for part_k, part_v in prompt:
            mask = in_prompt[:, :, start : start + part_v.shape[2]]
            mine = jnp.where(mask, dot(q.reshape(*shared, size), part_k), MASKED)
            scores.append(mine.reshape(*q.shape[:3], -1))
            values.append((part_v, True))
            start += part_v.shape[2]
        scores.append(jnp.where(in_recent, dot(q, recent_k), MASKED))
        values.append((recent_v, False))
        start = 0
        for part_k, part_v in blocks:
            mask = start + jnp.arange(part_v.shape[2]) < older
            scores.append(jnp.where(mask, dot(q, part_k), MASKED))
            values.append((part_v, False))
            start += part_v.shape[2]

        top = functools.reduce(jnp.maximum, [part.max(-1, keepdims=True) for part in scores])
        total, y = 0.0, 0.0
        for part, (part_v, is_shared) in zip(scores, values, strict=True):
            weights = jnp.exp(part - top)
            total = total + weights.sum(-1, keepdims=True)
            weights = weights.astype(part_v.dtype)
            if is_shared:
                weights = weights.reshape(*shared, weights.shape[-1])
            y = y + dot(weights, part_v).reshape(q.shape)
        y = (y / total).astype(k.dtype)
        return rearrange(y, "K S Q H -> S 1 (K Q) H"), (recent_k, recent_v)

    updated = []
    for layer, *cache in zip(layers, rows.caches, slots.recent, slots.blocks, strict=True):
        x, recent = layer(x, angles, attend, tuple(cache))
        updated.append(recent)
    return model.norm(x).reshape(groups, candidates, -1), updated
