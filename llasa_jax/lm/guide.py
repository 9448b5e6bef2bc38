"""Guided attention: one head is taught to look at the text where the speech now is.

After DC-TTS (Tachibana et al. 2017, section 4.1), for a decoder over packed rows and for both
directions. It is a loss of training alone: the model stays the Llama that it is.
"""

import jax
import jax.numpy as jnp
import numpy as np

from llasa_jax.lm.vocabulary import TAGS

TEXT, SPEECH = 1, 2  # kinds of ids; 0 is the template around them
MASKED = -1e30
# Of each tag: does a text begin (1) or end (-1) with it?
_BOUNDS = [("TEXT_" in tag) * (1 if "START" in tag else -1) for tag in TAGS]


def guide_loss(
    q: jax.Array,
    k: jax.Array,
    tokens: jax.Array,
    segments: jax.Array,
    weights: jax.Array,
    *,
    text_vocab: int,
    sigma: float,
    unseen: int | None = None,
) -> jax.Array:
    """Mean over predicted codes and letters of -log(the attention near where they belong).

    The position that predicts place t of T, in the speech or the transcript, should attend to the
    places n of N of what is given, text or speech, along the diagonal:

        -log sum_n A[t, n] exp(-((n + 1/2) / N - (t + 1/2) / T)^2 / (2 sigma^2))

    with A the softmax over all that the head may see. Examples without speech do not count.

    Args:
        q, k: of the guided heads, G of them [G, B, S, H], turned by their positions.
        tokens, segments: [B, S], as `Decoder.hidden` takes them.
        weights: of the next ids in the loss [B, S]; those above 0 are predicted.
        text_vocab: ids of the text tokenizer; the tags and codes follow.
        sigma: deviation of the band around the diagonal, as a share of the whole.
        unseen: the id that nothing attends to.

    Returns:
        Nats, a float32 scalar; 0 where nothing is guided.
    """
    kind = kinds(tokens, text_vocab)
    together = segments[:, :, None] == segments[:, None, :]
    earlier = together & jnp.tril(jnp.ones(together.shape[1:], bool))
    visible = earlier if unseen is None else earlier & (tokens != unseen)[:, None]
    alike = kind[:, :, None] == kind[:, None, :]
    place = jnp.sum(earlier & alike, -1) - 0.5
    place = place / jnp.sum(together & alike, -1)
    # A position predicts the next id: it is guided to where that one belongs.
    asked = jnp.where(weights > 0, jnp.roll(kind, -1, 1), 0)
    given = visible & (asked[:, :, None] * kind[:, None, :] == TEXT * SPEECH)
    apart = jnp.roll(place, -1, 1)[:, :, None] - place[:, None, :]
    scores = jnp.einsum("GBSH,GBTH->GBST", q, k, preferred_element_type=jnp.float32)
    scores = scores * q.shape[-1] ** -0.5
    everywhere = jax.nn.logsumexp(jnp.where(visible, scores, MASKED), -1)
    near = jax.nn.logsumexp(jnp.where(given, scores - apart**2 / (2 * sigma**2), MASKED), -1)
    guided = given.any(-1)
    nats = jnp.where(guided, everywhere - near, 0.0).mean(0)
    return nats.sum() / jnp.maximum(guided.sum(), 1)


def kinds(tokens: jax.Array | np.ndarray, text_vocab: int) -> jax.Array | np.ndarray:
    """int [B, S]: `SPEECH` for codes, `TEXT` for ids between a text's START and END, else 0.

    By numpy where they are numpy's: prompts of every length would each compile programs.
    """
    xp = np if isinstance(tokens, np.ndarray) else jnp
    tag = tokens - text_vocab
    bounds = xp.where((tag >= 0) & (tag < len(TAGS)), xp.asarray(_BOUNDS)[tag % len(TAGS)], 0)
    text = (xp.cumsum(bounds, 1) > 0) & (tag < 0)
    return xp.where(tag >= len(TAGS), SPEECH, xp.where(text, TEXT, 0))


def exchange_texts(tokens: jax.Array, text_vocab: int) -> jax.Array:
    """The same rows [B, S] with other texts of the same lengths, made of the batch's own.

    All letters, in their order, move on by half of them. What a model loses by it, in nats a code,
    is what it takes from the text.
    """
    flat = tokens.reshape(-1)
    text = kinds(tokens, text_vocab).reshape(-1) == TEXT
    letters, count = flat[jnp.argsort(~text, stable=True)], text.sum()
    number = (jnp.cumsum(text) - 1 + count // 2) % jnp.maximum(count, 1)
    return jnp.where(text, letters[number], flat).reshape(tokens.shape)
