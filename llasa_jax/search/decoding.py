"""The compiled side of sampling: prompts computed once, and one loop over the slots.

A slot's numbers hang on nothing but its own prompt, keys and codes: parts of caches that only
others use add exact zeros to its softmax and its sums.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import SamplerConfig
from llasa_jax.lm.model import MASKED, Decoder, Layer, head_logits
from llasa_jax.parallel.mesh import constrain
from llasa_jax.search.cache import (
    CHUNK,
    CUT,
    ENDED,
    LOOPED,
    RUNNING,
    SILENT,
    Prompts,
    Slots,
    part_sizes,
)
from llasa_jax.search.draw import draw_aware, folded, penalised, uniform
from llasa_jax.search.take import LONGEST_CYCLE

IGNORE, ANY, WHOLE = range(3)  # `Limits.wanted`


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
        own_end, norm = end_logit, jnp.logaddexp(end_logit, jax.nn.logsumexp(own, axis=-1))
        # With guidance a row and its twin draw the same: it is drawn once, for both.
        copies = 1 if config.guidance == 1 else 2
        first = lambda x: x[::copies]  # noqa: E731
        if config.guidance != 1:
            end_logit, logits = (guided(x, config.guidance) for x in (end_logit, logits))
        if config.repetition_penalty != 1:
            logits = penalised(logits, first(slots.said), config)
        keys = folded(first(slots.keys), first(slots.lengths))
        # END has its probability at the sampler's temperature, before anything is cut. Were it
        # among what is cut at `top_k`, a model that spreads over a thousand codes (a small one
        # does) would stop early: the kept codes share what the others had, and END gains with them.
        others = jax.nn.logsumexp(logits / config.temperature, axis=-1)
        ended = uniform(keys) < jax.nn.sigmoid(end_logit / config.temperature - others)
        code = draw_aware(logits, keys, first(slots.history), config)
        ended, code = (jnp.repeat(x, copies, axis=0) for x in (ended, code))
        ended &= slots.lengths >= slots.min_codes
        chosen = jnp.take_along_axis(own, code[..., None], axis=-1)[..., 0]
        nats = jnp.where(ended, own_end, chosen) - norm

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


def guided(logits: jax.Array, scale: float) -> jax.Array:
    """Classifier-free guidance: what the text changes, `scale` times.

    The rows are pairs, a prompt and after it the same with its text blank; of each pair are left
    the logits u + scale (c - u), by which both go on (Ho & Salimans 2022, equation 6):
    [G, C, ...] -> [G / 2, C, ...].
    """
    with_text, without = logits[::2], logits[1::2]
    return without + scale * (with_text - without)


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
