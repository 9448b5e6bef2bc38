"""HuBERT-large with a CTC output (Hsu et al. 2021): the recogniser of many TTS papers' word errors.

The arithmetic is that of transformers' HubertForCTC with `do_stable_layer_norm`, and of its feature
extractor. Waves are at 16 kHz.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import HubertConfig
from llasa_jax.errors import UserError
from llasa_jax.metrics.text import normalise as normalise_text
from llasa_jax.verifiers.batch import BatchTranscriber, pad_labels
from llasa_jax.verifiers.characters import collapse, encode
from llasa_jax.verifiers.protocol import Candidates, Verifier
from llasa_jax.verifiers.recogniser import ctc_loss_per_character
from llasa_jax.verifiers.wav2vec import EPS, RATE, Frames, Layer, PositionConv, normalise

WAVE_EPS = 1e-7
UNHEARD = "\0"  # of outputs that are no character


class Hubert(nnx.Module):
    """Waves [B, samples], lengths [B] -> logits [B, T, outputs] at 50 a second and their mask."""

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs):
        self.frames = Frames(config, rngs=rngs)
        self.positions = PositionConv(config, rngs=rngs)
        self.layers = nn.Stack(partial(Layer, config), config.layers, rngs=rngs)
        self.layer_norm = nn.LayerNorm(config.dim, eps=EPS, rngs=rngs)
        self.lm_head = nn.Linear(config.dim, len(config.outputs), ("embed", None), rngs=rngs)

    def __call__(self, waves: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, mask = self.frames(normalise(waves, lengths, WAVE_EPS), lengths)
        x = x + self.positions(x, mask)
        x, _ = self.layers(x, mask)
        return self.lm_head(self.layer_norm(x)).astype(jnp.float32), mask


def hubert_definition(config: HubertConfig) -> nnx.GraphDef:
    """The static half, for `llasa_jax.nn.merge`."""
    return nn.abstract(lambda rngs: Hubert(config, rngs=rngs))[0]


def alphabet_of(config: HubertConfig) -> str:
    """What each output but the blank stands for, a character each."""
    return "".join(output if len(output) == 1 else UNHEARD for output in config.outputs[1:])


def hubert_verifier(config: HubertConfig, params: dict, name: str = "hubert") -> Verifier:
    """Scores are minus the CTC loss a character of the reference text."""
    graphdef, alphabet = hubert_definition(config), alphabet_of(config)

    def score(params: dict, candidates: Candidates, labels: jax.Array) -> jax.Array:
        logits, mask = nn.merge(graphdef, params)(candidates.waves, candidates.lengths)
        rows = jnp.broadcast_to(labels, (len(logits), len(labels)))
        return -ctc_loss_per_character(logits, mask, rows)

    def reference(text: str, wave: np.ndarray | None) -> np.ndarray:
        labels = encode(normalise_text(text), alphabet)
        if not len(labels):
            raise UserError(f"verifier {name}: no letter of {text!r} is among its outputs")
        return pad_labels(labels)

    return Verifier(name, params, score, reference, rate=RATE)


def hubert_transcriber(
    config: HubertConfig, params: dict, *, name: str = "hubert", batch: int = 8
) -> BatchTranscriber:
    """Greedy transcripts of lists of waves at 16 kHz, in lower case."""
    graphdef, alphabet = hubert_definition(config), alphabet_of(config)
    heard = jnp.array([False, *(letter != UNHEARD for letter in alphabet)])

    def best(params: dict, waves: jax.Array, lengths: jax.Array) -> jax.Array:
        logits, mask = nn.merge(graphdef, params)(waves, lengths)
        ids = logits.argmax(-1)
        return jnp.where((mask > 0) & heard[ids], ids, 0)

    read = partial(collapse, alphabet=alphabet)
    return BatchTranscriber(best, params, read, rate=RATE, name=name, batch=batch)
