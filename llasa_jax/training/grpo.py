"""GRPO: a language model of speech learns from what verifiers think of its own takes.

Group-relative policy optimization (Shao et al. 2024, DeepSeekMath, section 4.1): of each prompt a
group of takes is drawn, a take's advantage is its reward beside those of its group, and the
clipped objective of PPO (Schulman et al. 2017, equation 7) raises the probability of the better
ones. There is no critic. Terms are averaged over all tokens of a batch, not first over each take,
so that a long take counts by its length (Yu et al. 2025, DAPO, equation 12).

The policy is the sampler's: over codes and END alone, at its temperature, with nothing cut off. Who
draws and scores is injected: `training.loop.fit` calls it for every batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import GrpoRun, to_dict
from llasa_jax.lm.model import Decoder, head_logits
from llasa_jax.training.language import working_parameters
from llasa_jax.training.step import Objective

FLAT = 1e-6  # deviation of rewards below which a group teaches nothing


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Rewards [P, G] of P groups less the group's mean, over its deviation; 0 if all are alike."""
    centred = rewards - rewards.mean(1, keepdims=True)
    deviation = rewards.std(1, keepdims=True)
    return np.where(deviation > FLAT, centred / np.maximum(deviation, FLAT), 0.0)


def policy_batch(
    prompts: Sequence[np.ndarray],
    codes: Sequence[np.ndarray],
    ended: Sequence[bool],
    *,
    first_code: int,
    end: int,
    row: int,
    most: int,
) -> dict[str, np.ndarray]:
    """Takes after their prompts, a row each.

    Args:
        prompts: ids up to where each take begins, [B] of int [n < `row`].
        codes: what was drawn, [B] of int [T]; of a long take the beginning is learned.
        ended: whether END was drawn after them.
        end: place of END among the policy's choices, whose others are the codes.
        row, most: S ids a row, and at most so many choices of it.

    Returns:
        tokens, segments int32 [B, S] (segment 0 is padding); of the choices `places` int32 [B, T],
        the positions that predict them, `choices` int32 and `mask` float32 [B, T].
    """
    shape = len(prompts), row
    tokens, segments = np.zeros((2, *shape), np.int32)
    places, choices = np.zeros((2, len(prompts), most), np.int32)
    mask = np.zeros((len(prompts), most), np.float32)
    for b, (prompt, own, stopped) in enumerate(zip(prompts, codes, ended, strict=True)):
        chosen = [*own, end] if stopped else own
        count = min(len(chosen), most, row - len(prompt) + 1)
        ids = np.concatenate([prompt, np.asarray(own[: count - 1], np.int32) + first_code])
        tokens[b, : len(ids)] = ids
        segments[b, : len(ids)] = 1
        places[b, :count] = len(prompt) - 1 + np.arange(count)
        choices[b, :count] = chosen[:count]
        mask[b, :count] = 1
    return {
        "tokens": tokens,
        "segments": segments,
        "places": places,
        "choices": choices,
        "mask": mask,
    }


def log_probabilities(model: Decoder, batch: dict, run: GrpoRun, rows: jax.Array) -> jax.Array:
    """Of each choice of a `policy_batch`, the log-probability that the policy gave it [B, T].

    The logits of `loss_chunk` choices a row are held at once, and computed again for the gradient.

    Args:
        rows: ids of the policy's choices in their order [V].
    """
    tokens = batch["tokens"]
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = model.hidden(tokens, positions, batch["segments"])
    states = jnp.take_along_axis(hidden, batch["places"][..., None], axis=1)
    table = model.head_table()[rows]

    @jax.checkpoint
    def piece(states: jax.Array, choices: jax.Array) -> jax.Array:
        logits = head_logits(states, table, len(rows)) / run.temperature
        chosen = jnp.take_along_axis(logits, choices[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    chunk, length = run.loss_chunk, states.shape[1]
    more = -length % chunk
    states = jnp.pad(states, ((0, 0), (0, more), (0, 0)))
    choices = jnp.pad(batch["choices"], ((0, 0), (0, more)))
    parts = [
        jnp.moveaxis(x.reshape(len(x), -1, chunk, *x.shape[2:]), 1, 0) for x in (states, choices)
    ]
    found = jax.lax.map(lambda part: piece(*part), tuple(parts))
    return jnp.moveaxis(found, 0, 1).reshape(len(tokens), -1)[:, :length]


def policy_loss(
    new: jax.Array,
    old: jax.Array,
    advantage: jax.Array,
    mask: jax.Array,
    *,
    clip: float,
    reference: jax.Array | None = None,
    kl: float = 0.0,
) -> tuple[jax.Array, dict]:
    """GRPO's loss and its metrics: the mean over tokens of

        -min(r A, clamp(r, 1 - clip, 1 + clip) A) + kl (exp(d) - d - 1)

    with r = exp(new - old) and d = reference - new, the estimate of the divergence from the
    reference that is never negative (Schulman 2020, "Approximating KL divergence", k3).

    Args:
        new, old, reference: log-probabilities of the choices [B, T]; `old` those when they were
            drawn.
        advantage: of each take [B].
        mask: which choices count [B, T].
    """
    total = jnp.maximum(mask.sum(), 1.0)
    mean = lambda x: (x * mask).sum() / total  # noqa: E731
    ratio = jnp.exp(jnp.where(mask > 0, new - old, 0.0))
    gain = advantage[:, None]
    within = jnp.clip(ratio, 1 - clip, 1 + clip)
    loss = -mean(jnp.minimum(ratio * gain, within * gain))
    metrics = {"clipped": mean(within * gain < ratio * gain)}
    if reference is not None:
        apart = jnp.where(mask > 0, reference - new, 0.0)
        divergence = mean(jnp.exp(apart) - apart - 1)
        loss += kl * divergence
        metrics["kl"] = divergence
    return loss, metrics


def policy_rows(run: GrpoRun, first_code: int, speech_end: int) -> jax.Array:
    """Ids of the policy's choices: codes, then END."""
    return jnp.append(first_code + jnp.arange(run.lm.codes), speech_end)


def grpo_objective(run: GrpoRun, rows: jax.Array, begin: dict) -> Objective:
    """`policy_loss` on takes of the model itself.

    A batch is a `policy_batch` with `old` [B, T], `advantages` and `rewards` [B], and with
    `run.kl` also `reference` [B, T].

    Args:
        rows: as `policy_rows` gives them.
        begin: the parameters that the run begins with, host arrays.
    """
    graphdef, shapes = nn.abstract(lambda rngs: Decoder(run.lm, rngs=rngs))

    def init(key: jax.Array) -> dict:
        return nn.split(Decoder(run.lm, rngs=nnx.Rngs(key)))[1]

    def loss(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        new = log_probabilities(nn.merge(graphdef, params), batch, run, rows)
        found, metrics = policy_loss(
            new,
            batch["old"],
            batch["advantages"],
            batch["mask"],
            clip=run.clip,
            reference=batch.get("reference"),
            kl=run.kl,
        )
        surprise = -(new * batch["mask"]).sum() / jnp.maximum(batch["mask"].sum(), 1.0)
        return found, metrics | {"reward": batch["rewards"].mean(), "nats": surprise}

    return Objective(
        "language model by GRPO",
        init,
        loss,
        nn.logical_axes(graphdef, shapes),
        rows=("batch", None),
        weight=lambda batch: batch["mask"].sum(),
        working=lambda params: working_parameters(run.lm, params),
        begin=begin,
        about=to_dict(run),
    )
