"""Texts without their letters: what classifier-free guidance compares a model's answer with.

A model that was also trained on examples whose text is blank (Ho & Salimans 2022, for decoders
Sanchez et al. 2023) can be asked twice for the next code, with the text and without. What the text
changed is then made larger (`SamplerConfig.guidance`). A blank text is as long as the text, so that
everything after it stands where it stood.
"""

import jax
import jax.numpy as jnp
import numpy as np

from llasa_jax.lm.guide import TEXT, kinds

BLANK = 0  # the id that stands for each of a blank text's; no real text is a row of it


def blank_texts(
    key: jax.Array,
    tokens: jax.Array,
    segments: jax.Array,
    weights: jax.Array,
    *,
    share: float,
    text_vocab: int,
) -> jax.Array:
    """The ids [B, S] with the given texts of a share of the packed examples blank.

    Transcripts, which are learned, stay as they are.

    Args:
        segments: numbers of the examples [B, S], 0 where there is none.
        weights: of the next ids in the loss [B, S]; a text with weight is not given.
    """
    rows, places = tokens.shape
    chosen = jax.random.bernoulli(key, share, (rows, places + 1))
    chosen = jnp.take_along_axis(chosen, segments, axis=1)
    given = (kinds(tokens, text_vocab) == TEXT) & (weights == 0)
    return jnp.where(chosen & given, BLANK, tokens)


def blank_prompt(ids: np.ndarray, text_vocab: int) -> np.ndarray:
    """A prompt's ids [n], as `Vocabulary.prompt` gives them, with its text blank."""
    return np.where(kinds(ids[None], text_vocab)[0] == TEXT, BLANK, ids)
