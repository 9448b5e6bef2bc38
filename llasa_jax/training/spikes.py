"""Steps whose loss or gradient leaps out of what the last ones had: found, so that none is taken.

After Levanter's rule (a rolling window of 128 steps, 6 standard deviations, on loss and gradient
norm). What differs: a spike enters the window as large as the limit, not as large as it is. So one
spike does not hide the next, and a lasting change is taken for the new normal after some steps.
"""

import jax
import jax.numpy as jnp

LEAST = 1e-3  # of the mean: what a deviation is taken for at least


def empty_window(size: int) -> dict:
    """Nothing seen: {"values": [2, size] (losses, gradient norms), "count": of steps seen}."""
    return {"values": jnp.zeros((2, size)), "count": jnp.zeros((), jnp.int32)}


def judge(window: dict, loss: jax.Array, norm: jax.Array, sigmas: float) -> tuple[jax.Array, dict]:
    """Whether the step is a spike, and the window with it.

    It is one if its loss or gradient norm is over mean + `sigmas` standard deviations of the
    window; before the window is full, no step is. A step that is not finite is none, and leaves
    the window as it was.
    """
    seen, count = window["values"], window["count"]
    values = jnp.stack([loss, norm]).astype(jnp.float32)
    mean, size = seen.mean(1), seen.shape[1]
    limit = mean + sigmas * jnp.maximum(seen.std(1), LEAST * jnp.abs(mean))
    limit = jnp.where(count >= size, limit, jnp.inf)
    finite = jnp.all(jnp.isfinite(values))
    entered = seen.at[:, count % size].set(jnp.minimum(values, limit))
    new = {"values": jnp.where(finite, entered, seen), "count": count + finite}
    return finite & jnp.any(values > limit), new
