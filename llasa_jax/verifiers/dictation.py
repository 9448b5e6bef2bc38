"""The language model as a recogniser: it writes what it hears, greedily.

For models that learned both directions (`lm.vocabulary`, "understanding"): codes in, text out.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from llasa_jax import nn
from llasa_jax.audio.io import resample
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.config import DecoderConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import TAGS, Vocabulary
from llasa_jax.verifiers.itself import nothing_read, read_on

RATE = 16_000
UNIT = 64  # codes that lengths are padded to: few programs are compiled
SPARE = 32  # ids of a text beyond one for each code


class Dictation:
    """Texts of lists of waves of any lengths, each as it would be alone.

    Raises:
        UserError: if codec, vocabulary and model do not belong together.
    """

    name = "self"

    def __init__(
        self,
        config: DecoderConfig,
        params: dict,
        vocabulary: Vocabulary,
        codec: BatchCodec,
        batch: int = 8,
    ):
        if (vocabulary.size, codec.config.codebook_size) != (config.vocab, config.codes):
            raise UserError(
                f"dictation: the model has {config.vocab} ids and {config.codes} codes, its "
                f"vocabulary {vocabulary.size} and its codec {codec.config.codebook_size}"
            )
        self.params, self.vocabulary, self.codec, self.batch = params, vocabulary, codec, batch
        self._write = jax.jit(partial(write, config, vocabulary))

    def transcribe(
        self, waves: Sequence[np.ndarray], on_wave: Callable[[], None] = lambda: None
    ) -> list[str]:
        """What is said in each wave, float32 [samples] at 16 kHz; nothing in less than one code.

        Args:
            on_wave: called as each wave is done.
        """
        rate, hop = self.codec.config.sample_rate, self.codec.config.hop
        heard = [resample(wave, RATE, rate) for wave in waves]
        places = [i for i, wave in enumerate(heard) if len(wave) >= hop]
        coded = dict(zip(places, self.codec.encode([heard[i] for i in places]), strict=True))
        texts = [""] * len(waves)
        order = sorted(places, key=lambda i: len(coded[i]))
        for start in range(0, len(order), self.batch):
            items = order[start : start + self.batch]
            size = -(-len(coded[items[-1]]) // UNIT) * UNIT
            codes = np.zeros((self.batch, size), np.int32)
            counts = np.zeros(self.batch, np.int32)
            for row, i in enumerate(items):
                codes[row, : len(coded[i])], counts[row] = coded[i], len(coded[i])
            ids = np.asarray(self._write(self.params, codes, counts))
            for row, i in enumerate(items):
                texts[i] = self._read(ids[row])
                on_wave()
        return texts

    def _read(self, ids: np.ndarray) -> str:
        """The text of ids int32 [L] up to the one that ends it."""
        ends = np.flatnonzero(ids == self.vocabulary.text_end)
        kept = ids[: ends[0]] if len(ends) else ids
        return self.vocabulary.tokenizer.decode(kept.tolist(), skip_special_tokens=True).strip()


def write(
    config: DecoderConfig, vocabulary: Vocabulary, params: dict, codes: jax.Array, counts: jax.Array
) -> jax.Array:
    """The likeliest next id, again and again: int32 [N, T + SPARE], filled up with the end's id.

    Args:
        codes: int32 [N, T], of which each row has `counts` [N].
    """
    graphdef, _ = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
    decoder = nn.merge(graphdef, params)
    before, between, _ = vocabulary.frame("understanding")
    rows, limit = len(codes), codes.shape[1] + SPARE
    room = len(before) + codes.shape[1] + len(between) + limit

    def all_rows(ids: np.ndarray) -> tuple[jax.Array, jax.Array]:
        wide = jnp.broadcast_to(jnp.asarray(ids, jnp.int32), (rows, len(ids)))
        return wide, jnp.full(rows, len(ids), jnp.int32)

    _, state = read_on(decoder, nothing_read(config, rows, room), *all_rows(before))
    _, state = read_on(decoder, state, codes + vocabulary.first_code, counts)
    hidden, state = read_on(decoder, state, *all_rows(between))
    size = config.text_vocab + len(TAGS)  # no speech in a text, and of the tags its end alone
    allowed = jnp.arange(size) < config.text_vocab
    allowed = allowed.at[vocabulary.text_end].set(True)

    def best(hidden: jax.Array) -> jax.Array:
        logits = decoder.logits(hidden, 0, size)
        return jnp.where(allowed, logits, -jnp.inf).argmax(-1).astype(jnp.int32)

    def go_on(carry: tuple) -> jax.Array:
        place, ids, _, _ = carry
        return (place < limit) & (ids[:, place - 1] != vocabulary.text_end).any()

    def step(carry: tuple) -> tuple:
        place, ids, state, last = carry
        hidden, state = read_on(decoder, state, last[:, None], jnp.ones(rows, jnp.int32))
        ended = last == vocabulary.text_end
        last = jnp.where(ended, vocabulary.text_end, best(hidden[:, -1]))
        return place + 1, ids.at[:, place].set(last), state, last

    first = best(hidden[:, -1])
    ids = jnp.full((rows, limit), vocabulary.text_end, jnp.int32).at[:, 0].set(first)
    return jax.lax.while_loop(go_on, step, (jnp.int32(1), ids, state, first))[1]
