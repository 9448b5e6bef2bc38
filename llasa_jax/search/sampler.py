"""Many prompts x many candidates in one batch: prefill, then one jitted loop over steps.

A prompt is computed once and its cache is shared by its candidates; each candidate has its own
cache for what it says. Only the speech ids and END are ever scored, which is exact, for nothing
else may follow START. A candidate's randomness hangs on (seed, key of its prompt, its number, step)
and on nothing else, so the same candidate comes out whatever else is in the batch, and the first n
of a pool of candidates are the pool of n.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import SamplerConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.model import MASKED, Decoder, Layer, head_logits
from llasa_jax.lm.vocabulary import Vocabulary

PROMPT_MULTIPLE = 32  # prompts are padded to a multiple of this, so that few programs are compiled
REDRAWN = 1 << 20  # added to a candidate's number whenever it is drawn again


@dataclass(frozen=True)
class Take:
    """One candidate.

    Attributes:
        codes: int32 [T].
        stopped: whether it ended by END; if not, it ran into its length bound.
        log_probability: nats, sum over codes and END of the model's own distribution (temperature
            1, nothing cut off, no bounds) over the speech ids and END.
        discarded: codes of the takes that were drawn in its place before, and failed.
    """

    codes: np.ndarray
    stopped: bool
    log_probability: float
    discarded: int = 0


Caches = list[tuple[jax.Array, jax.Array]]  # of each layer: keys [K, B, H, T], values [K, B, T, H]


class Prompts(NamedTuple):
    """G prompts, computed once: caches [K, G, H, P], [K, G, P, H]; lengths and bounds [G].

    `seen` [G, P] marks the keys that candidates attend to.
    """

    caches: Caches
    seen: jax.Array
    lengths: jax.Array
    min_codes: jax.Array
    max_codes: jax.Array


class Candidates(NamedTuple):
    """What the loop carries for G prompts x C candidates = S slots; T steps fit in.

    Attributes:
        step: codes drawn so far, the same for all that are not done.
        keys: a random key each [G, C].
        hidden: states from which the next ids are drawn [G, C, D].
        caches: what each candidate has said [K, S, H, T], [K, S, T, H].
        codes: [G, C, T], of which `lengths` [G, C] count.
        log_probability, stopped, done: [G, C].
    """

    step: jax.Array
    keys: jax.Array
    hidden: jax.Array
    caches: Caches
    codes: jax.Array
    lengths: jax.Array
    log_probability: jax.Array
    stopped: jax.Array
    done: jax.Array


@functools.partial(jax.jit, static_argnames=("graphdef", "room"))
def prefill(
    params: dict,
    tokens: jax.Array,
    lengths: jax.Array,
    bounds: tuple[jax.Array, jax.Array],
    keys: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    room: int,
) -> tuple[Prompts, Candidates]:
    """Computes prompts [G, P] (padded on the right, `lengths` [G]) and makes room for candidates.

    Args:
        bounds: least and greatest number of codes, two [G].
        keys: one random key for each candidate [G, C].
        room: steps that fit into the candidates' caches.
    """
    model: Decoder = nn.merge(graphdef, params)
    config = model.config
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, (k, v) = model.prefill(tokens, places, (places < lengths[:, None]).astype(jnp.int32))
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)
    k, v = rearrange(k, "L G K P H -> L K G H P"), rearrange(v, "L G K P H -> L K G P H")
    shape, size = keys.shape, config.head_dim
    empty_k = jnp.zeros((config.kv_heads, keys.size, size, room), k.dtype)
    empty_v = jnp.zeros((config.kv_heads, keys.size, room, size), v.dtype)
    state = Candidates(
        step=jnp.zeros((), jnp.int32),
        keys=keys,
        hidden=jnp.broadcast_to(last, (*shape, config.dim)),
        caches=[(empty_k, empty_v) for _ in range(config.layers)],
        codes=jnp.zeros((*shape, room), jnp.int32),
        lengths=jnp.zeros(shape, jnp.int32),
        log_probability=jnp.zeros(shape, jnp.float32),
        stopped=jnp.zeros(shape, bool),
        done=jnp.broadcast_to(bounds[1][:, None] <= 0, shape),
    )
    seen = places < lengths[:, None]
    if config.unseen is not None:
        seen &= tokens != config.unseen
    return Prompts(list(zip(k, v, strict=True)), seen, lengths, *bounds), state


@functools.partial(
    jax.jit, static_argnames=("graphdef", "config", "first_code", "end"), donate_argnames="state"
)
def decode(
    params: dict,
    prompts: Prompts,
    state: Candidates,
    *,
    graphdef: nnx.GraphDef,
    config: SamplerConfig,
    first_code: int,
    end: int,
) -> Candidates:
    """Draws codes until every candidate has ended or the caches are full."""
    model: Decoder = nn.merge(graphdef, params)
    layers = model.unstacked()
    room = state.codes.shape[2]
    rows = model.head_table().astype(state.hidden.dtype)
    stop = first_code + model.config.codes
    end_row, code_rows = rows[end : end + 1], rows[first_code:stop]  # cut out once, not each step

    def step(state: Candidates) -> Candidates:
        t = state.step
        end_logit = head_logits(state.hidden, end_row, 1)[..., 0]
        logits = head_logits(state.hidden, code_rows, model.config.codes)
        norm = jnp.logaddexp(end_logit, jax.nn.logsumexp(logits, axis=-1))
        keys = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))(state.keys, t)
        # END has its probability at the sampler's temperature, before anything is cut. Were it
        # among what is cut at `top_k`, a model that spreads over a thousand codes (a small one
        # does) would stop early: the kept codes share what the others had, and END gains with them.
        others = jax.nn.logsumexp(logits / config.temperature, axis=-1)
        ended = uniform(keys) < jax.nn.sigmoid(end_logit / config.temperature - others)
        ended &= (t >= prompts.min_codes)[:, None]
        code = draw(logits, keys, config)
        chosen = jnp.take_along_axis(logits, code[..., None], axis=-1)[..., 0]
        nats = jnp.where(ended, end_logit, chosen) - norm

        ends = ~state.done & ended
        speaks = ~state.done & ~ended & (t < prompts.max_codes[:, None])
        tokens = jnp.where(ended, end, first_code + code)
        hidden, caches = advance(model, layers, prompts, state.caches, tokens, t)
        return Candidates(
            step=t + 1,
            keys=state.keys,
            hidden=hidden,
            caches=caches,
            codes=jax.lax.dynamic_update_slice_in_dim(state.codes, code[..., None], t, axis=2),
            lengths=state.lengths + speaks,
            log_probability=state.log_probability + jnp.where(ends | speaks, nats, 0.0),
            stopped=state.stopped | ends,
            done=~speaks,
        )

    def unfinished(state: Candidates) -> jax.Array:
        return (state.step < room) & ~state.done.all()

    return jax.lax.while_loop(unfinished, step, state)


def advance(
    model: Decoder,
    layers: list[Layer],
    prompts: Prompts,
    caches: Caches,
    tokens: jax.Array,
    t: jax.Array,
) -> tuple[jax.Array, Caches]:
    """Feeds one id to each candidate: tokens [G, C] at step t -> hidden [G, C, D], caches."""
    groups, candidates = tokens.shape
    positions = jnp.broadcast_to((prompts.lengths + t)[:, None], tokens.shape)
    x, angles = model.embed(tokens.reshape(-1, 1), positions.reshape(-1, 1))
    in_prompt = prompts.seen[:, None]
    in_past = jnp.arange(caches[0][1].shape[2]) <= t

    def attend(q, k, v, prompt_k, prompt_v, past_k, past_v):  # noqa: ANN001
        """One softmax over the prompt's keys and the candidate's own; Q = N / K."""
        kv_heads, size = k.shape[2:]
        q = rearrange(q * size**-0.5, "S 1 (K Q) H -> K S Q H", K=kv_heads)
        k, v = rearrange(k, "S 1 K H -> K S H 1"), rearrange(v, "S 1 K H -> K S 1 H")
        past_k = jax.lax.dynamic_update_slice_in_dim(past_k, k, t, axis=3)
        past_v = jax.lax.dynamic_update_slice_in_dim(past_v, v, t, axis=2)

        dot = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
        own = jnp.where(in_past, dot(q, past_k), MASKED)
        shared = (kv_heads, groups, -1)
        before = jnp.where(in_prompt, dot(q.reshape(*shared, size), prompt_k), MASKED)
        scores = jnp.concatenate([before.reshape(*own.shape[:3], -1), own], axis=-1)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        before, own = jnp.split(weights, [before.shape[-1]], axis=-1)
        y = dot(own, past_v)
        y = y + dot(before.reshape(*shared, before.shape[-1]), prompt_v).reshape(y.shape)
        return rearrange(y.astype(k.dtype), "K S Q H -> S 1 (K Q) H"), (past_k, past_v)

    updated = []
    for layer, prompt, past in zip(layers, prompts.caches, caches, strict=True):
        x, past = layer(x, angles, attend, (*prompt, *past))
        updated.append(past)
    return model.norm(x).reshape(groups, candidates, -1), updated


def uniform(keys: jax.Array) -> jax.Array:
    """A number in [0, 1) for each key [G, C], independent of what `draw` makes of the key."""
    one = lambda key: jax.random.uniform(jax.random.fold_in(key, 1))  # noqa: E731
    return jax.vmap(jax.vmap(one))(keys)


def draw(logits: jax.Array, keys: jax.Array, config: SamplerConfig) -> jax.Array:
    """One index for each row of logits [G, C, V] with its key [G, C]: int32 [G, C].

    Temperature, then the `top_k` most probable, then of those the fewest that hold `top_p` of the
    probability, as transformers orders them; the draw is by the Gumbel-max rule.
    """
    if config.top_k or config.top_p < 1:
        width = min(config.top_k or logits.shape[-1], logits.shape[-1])
        values, indices = jax.lax.top_k(logits, width)
    else:
        values, indices = logits, None
    values = values / config.temperature
    if config.top_p < 1:
        shares = jax.nn.softmax(values, axis=-1)
        values = jnp.where(jnp.cumsum(shares, -1) - shares < config.top_p, values, MASKED)
    gumbel = functools.partial(jax.random.gumbel, shape=values.shape[-1:], dtype=values.dtype)
    place = jnp.argmax(values + jax.vmap(jax.vmap(gumbel))(keys), axis=-1)
    if indices is None:
        return place.astype(jnp.int32)
    return jnp.take_along_axis(indices, place[..., None], axis=-1)[..., 0]


@jax.jit
def candidate_keys(seed: jax.Array, prompts: jax.Array, numbers: jax.Array) -> jax.Array:
    """Random keys [G, C] of (seed, keys of prompts [G], candidates' numbers [C])."""

    def key(prompt: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), prompt), number)

    return jax.vmap(jax.vmap(key, (None, 0)), (0, None))(prompts, numbers)


@jax.jit
def grow(state: Candidates) -> Candidates:
    """The same candidates with room for twice as many steps."""

    def double(x: jax.Array, axis: int) -> jax.Array:
        widths = [(0, x.shape[i] if i == axis else 0) for i in range(x.ndim)]
        return jnp.pad(x, widths)

    caches = [(double(k, 3), double(v, 2)) for k, v in state.caches]
    return state._replace(caches=caches, codes=double(state.codes, 2))


class Sampler:
    """Draws takes from a decoder.

    Args:
        graphdef, params: the decoder, as `nn.split` gives it.
        vocabulary: must have the decoder's number of text ids and codes.
        slots: candidates that are drawn at once; more go through in turns.
        room: steps that fit into the first caches; they double whenever they are full.

    Raises:
        UserError: if vocabulary and decoder differ.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: dict,
        vocabulary: Vocabulary,
        config: SamplerConfig = SamplerConfig(),  # noqa: B008 (frozen)
        *,
        slots: int = 64,
        room: int = 256,
    ):
        lm = nnx.merge(graphdef, nnx.State(params)).config
        if (lm.text_vocab, lm.codes) != (vocabulary.text_vocab, vocabulary.code_count):
            raise UserError(
                f"sampler: the model has {lm.text_vocab} text ids and {lm.codes} codes, its "
                f"tokenizer {vocabulary.text_vocab} and {vocabulary.code_count}"
            )
        self.params, self.slots = params, slots
        self._prefill = functools.partial(prefill, graphdef=graphdef, room=room)
        self._decode = functools.partial(
            decode,
            graphdef=graphdef,
            config=config,
            first_code=vocabulary.first_code,
            end=vocabulary.speech_end,
        )

    def __call__(
        self,
        prompts: Sequence[np.ndarray],
        *,
        candidates: int,
        min_codes: Sequence[int],
        max_codes: Sequence[int],
        seed: int,
        keys: Sequence[int] | None = None,
        retries: int = 0,
        failed: Callable[[Take], bool] = lambda take: not take.stopped,
    ) -> list[list[Take]]:
        """`candidates` takes of each prompt, in order.

        Args:
            prompts: ids up to START and the prompt's codes, as `Vocabulary.prompt` gives them.
            min_codes, max_codes: bounds for each prompt; END is not drawn before `min_codes` (at
                least 1), and a take that does not end within `max_codes` is cut there.
            keys: a number for each prompt, on which its randomness hangs; default: its place.
            retries: how often a take that `failed` is drawn again.
        """
        keys = range(len(prompts)) if keys is None else keys
        turns = -(-candidates // self.slots)
        columns = -(-candidates // turns)
        rows = min(max(1, self.slots // columns), len(prompts))
        longest = max(map(len, prompts), default=0)
        width = -(-longest // PROMPT_MULTIPLE) * PROMPT_MULTIPLE

        def pools(chosen: Sequence[int], first_number: int) -> dict[int, list[Take]]:
            """Takes of some prompts, drawn by the one program of this call."""
            found: dict[int, list[Take]] = {i: [] for i in chosen}
            order = sorted(chosen, key=lambda i: -max_codes[i])  # alike go together
            for start in range(0, len(order), max(rows, 1)):
                places = order[start : start + rows]
                tokens = np.zeros((rows, width), np.int32)
                # Rows without a prompt have room for no code and end before the first step.
                lengths, least, greatest, numbers = np.zeros((4, rows), np.int32)
                lengths += 1
                for row, i in enumerate(places):
                    tokens[row, : len(prompts[i])] = prompts[i]
                    lengths[row], numbers[row] = len(prompts[i]), keys[i]
                    least[row], greatest[row] = max(1, min_codes[i]), max_codes[i]
                for first in range(0, candidates, columns):
                    column = first_number + np.arange(first, first + columns, dtype=np.int32)
                    random = candidate_keys(seed, numbers, column)
                    drawn = self._draw(tokens, lengths, (least, greatest), random)
                    for row, i in enumerate(places):
                        found[i] += drawn[row][: candidates - first]
            return found

        takes = pools(range(len(prompts)), 0)
        for retry in range(1, retries + 1):
            again = [i for i, pool in takes.items() if any(map(failed, pool))]
            for i, pool in pools(again, retry * REDRAWN).items():
                takes[i] = [
                    replace(new, discarded=old.discarded + len(old.codes)) if failed(old) else old
                    for old, new in zip(takes[i], pool, strict=True)
                ]
        return [takes[i] for i in range(len(prompts))]

    def _draw(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        bounds: tuple[np.ndarray, np.ndarray],
        keys: jax.Array,
    ) -> list[list[Take]]:
        """One turn: takes [G][C] of prompts [G, P] with random keys [G, C]."""
        prompts, state = self._prefill(self.params, tokens, lengths, bounds, keys)
        state = self._decode(self.params, prompts, state)
        while not state.done.all():
            state = self._decode(self.params, prompts, grow(state))
        results = (state.codes, state.lengths, state.stopped, state.log_probability)
        codes, lengths, stopped, nats = jax.device_get(results)
        return [
            [
                Take(codes[g, c, : lengths[g, c]], bool(stopped[g, c]), float(nats[g, c]))
                for c in range(keys.shape[1])
            ]
            for g in range(keys.shape[0])
        ]
