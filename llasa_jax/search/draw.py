"""One code for each candidate: what is cut, what is weighed down, and the draw itself."""

import functools

import jax
import jax.numpy as jnp

from llasa_jax.config import SamplerConfig
from llasa_jax.lm.model import MASKED


@jax.jit
def candidate_keys(seeds: jax.Array, prompts: jax.Array, numbers: jax.Array) -> jax.Array:
    """Random keys [N] of (seeds [N], keys of prompts [N], candidates' numbers [N])."""

    def key(seed: jax.Array, prompt: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), prompt), number)

    return jax.vmap(key)(seeds, prompts, numbers)


def folded(keys: jax.Array, data: jax.Array | int) -> jax.Array:
    """Each key [G, C] with its own number [G, C], or all with one, folded in."""
    numbers = jnp.broadcast_to(data, keys.shape)
    return jax.vmap(jax.vmap(jax.random.fold_in))(keys, numbers)


def uniform(keys: jax.Array) -> jax.Array:
    """A number in [0, 1) for each key [G, C], independent of what `draw` makes of the key."""
    return jax.vmap(jax.vmap(jax.random.uniform))(folded(keys, 1))


def penalised(logits: jax.Array, said: jax.Array, config: SamplerConfig) -> jax.Array:
    """Logits [G, C, V] with those of codes that were `said` [G, C, V] weighed down.

    Positive ones are divided by the penalty, negative ones multiplied (Keskar et al. 2019, CTRL,
    section 4.1, as transformers applies it).
    """
    weighed = jnp.where(
        logits > 0, logits / config.repetition_penalty, logits * config.repetition_penalty
    )
    return jnp.where(said, weighed, logits)


def draw(logits: jax.Array, keys: jax.Array, config: SamplerConfig) -> jax.Array:
    """One index for each row of logits [G, C, V] with its key [G, C]: int32 [G, C].

    Temperature, then the `top_k` most probable, then of those the fewest that hold `top_p` of the
    probability, then those with at least `min_p` of the most probable one's, as transformers
    orders them; the draw is by the Gumbel-max rule.
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
    if config.min_p:
        least = values.max(-1, keepdims=True) + jnp.log(config.min_p)
        values = jnp.where(values >= least, values, MASKED)
    place = jnp.argmax(values + gumbel(keys, values), axis=-1)
    if indices is None:
        return place.astype(jnp.int32)
    return jnp.take_along_axis(indices, place[..., None], axis=-1)[..., 0]


def gumbel(keys: jax.Array, values: jax.Array) -> jax.Array:
    """Gumbel noise for values [G, C, V], each row from its key [G, C]."""
    one = functools.partial(jax.random.gumbel, shape=values.shape[-1:], dtype=values.dtype)
    return jax.vmap(jax.vmap(one))(keys)


def draw_aware(
    logits: jax.Array, keys: jax.Array, history: jax.Array, config: SamplerConfig
) -> jax.Array:
    """As `draw`, and again from all codes where the drawn one repeats too often.

    Repetition-aware sampling (Chen et al. 2024, VALL-E 2, section 3.3): where the code drawn makes
    up more than `ras_threshold` of the last `ras_window` codes, it is replaced by a draw from the
    distribution before anything is cut, at the sampler's temperature.

    Args:
        history: the last codes of each candidate [G, C, W], the newest last; -1 before the first.
    """
    code = draw(logits, keys, config)
    if not config.ras_window:
        return code
    recent = history[..., history.shape[-1] - config.ras_window :]
    share = (recent == code[..., None]).mean(-1)
    noise = gumbel(folded(keys, 2), logits)
    again = jnp.argmax(logits / config.temperature + noise, axis=-1).astype(jnp.int32)
    return jnp.where(share > config.ras_threshold, again, code)
