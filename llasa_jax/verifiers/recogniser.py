"""A small CTC recogniser of characters: content verifier, and judge for other languages.

Its layers are the codec room's `RecogniserEncoder`, which a codec may also listen with. Each of
their 25 frames a second gives two outputs, because fast speech holds more than 25 characters a
second. A padded batch gives the same outputs as each wave alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from llasa_jax.codec.recogniser import RecogniserEncoder
from llasa_jax.config import RecogniserConfig
from llasa_jax.errors import UserError
from llasa_jax.nn import Linear, abstract, merge, split
from llasa_jax.verifiers.batch import BatchTranscriber, pad_labels
from llasa_jax.verifiers.characters import collapse, encode
from llasa_jax.verifiers.protocol import Candidates, Verifier

OUTPUTS = 2  # a frame of 40 ms


class Recogniser(RecogniserEncoder):
    """waves [B, samples], lengths [B] -> logits [B, T, 1 + characters] at 50 a second."""

    def __init__(self, config: RecogniserConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        classes = 1 + len(config.alphabet)
        self.head = Linear(config.dim, OUTPUTS * classes, ("embed", None), rngs=rngs)

    def __call__(self, waves: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns logits (class 0 is the blank) and their mask [B, T], 1 = valid."""
        x, mask = self.features(waves, lengths)
        logits = self.head(x).reshape(*x.shape[:1], -1, 1 + len(self.config.alphabet))
        return logits, jnp.repeat(mask, OUTPUTS, axis=1)


def ctc_loss_per_character(logits: jax.Array, mask: jax.Array, labels: jax.Array) -> jax.Array:
    """CTC's negative log-likelihood over the number of characters (Graves et al. 2006), [B].

    Args:
        logits: [B, T, classes], class 0 is the blank.
        mask: [B, T], 1 = valid.
        labels: int32 [B, L], 0 = padding. Longer than T can hold, the loss is about 1e5.
    """
    padding = (labels == 0).astype(jnp.float32)
    loss = optax.ctc_loss(logits, 1.0 - mask, labels, padding)
    return loss / jnp.maximum((1.0 - padding).sum(1), 1.0)


def init_recogniser(config: RecogniserConfig, key: jax.Array) -> dict:
    """Fresh parameters."""
    return split(Recogniser(config, rngs=nnx.Rngs(key)))[1]


def recogniser_definition(config: RecogniserConfig) -> nnx.GraphDef:
    """The static half, for `llasa_jax.nn.merge`."""
    return abstract(lambda rngs: Recogniser(config, rngs=rngs))[0]


class BatchRecogniser(BatchTranscriber):
    """Greedy transcripts of lists of waves of any lengths, each as it would be alone.

    `name` is what it is called when it judges.
    """

    def __init__(
        self, config: RecogniserConfig, params: dict, *, name: str = "recogniser", batch: int = 16
    ):
        graphdef = recogniser_definition(config)

        def best(params: dict, waves: jax.Array, lengths: jax.Array) -> jax.Array:
            logits, mask = merge(graphdef, params)(waves, lengths)
            return jnp.where(mask > 0, logits.argmax(-1), 0)

        read = partial(collapse, alphabet=config.alphabet)
        super().__init__(best, params, read, rate=config.sample_rate, name=name, batch=batch)
        self.config = config


def content_verifier(config: RecogniserConfig, params: dict, name: str = "content") -> Verifier:
    """Scores are minus the CTC loss a character of the reference text, which must be normalised."""
    graphdef = recogniser_definition(config)

    def score(params: dict, candidates: Candidates, labels: jax.Array) -> jax.Array:
        logits, mask = merge(graphdef, params)(candidates.waves, candidates.lengths)
        rows = jnp.broadcast_to(labels, (logits.shape[0], labels.shape[0]))
        return -ctc_loss_per_character(logits, mask, rows)

    def reference(text: str, wave: np.ndarray | None) -> np.ndarray:
        labels = encode(text, config.alphabet)
        if not len(labels):
            raise UserError(f"text {text!r}: no character that the recogniser knows; change it")
        return pad_labels(labels)

    return Verifier(name, params, score, reference, rate=config.sample_rate)
