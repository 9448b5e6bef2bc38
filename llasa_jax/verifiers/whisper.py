"""Whisper (Radford et al. 2022) in Flax: what is said, and how likely a text is given the sound.

The arithmetic is that of transformers' WhisperForConditionalGeneration and its feature extractor:
30 seconds of log mel powers, silence after the end of a shorter wave, through an encoder; a decoder
attends to it. `text_scores` is the mean log-probability of a text's tokens (teacher-forced),
`transcripts` decodes greedily. Parameters carry transformers' names; kernels are [in, out].

Candidates' waves are at 16 kHz, and only their first 30 s are heard.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tokenizers import Tokenizer

from llasa_jax import nn
from llasa_jax.audio.spectral import mel_filters, stft
from llasa_jax.config import WhisperConfig
from llasa_jax.errors import UserError
from llasa_jax.verifiers.attention import attend, by_heads
from llasa_jax.verifiers.batch import BatchTranscriber, pad_labels
from llasa_jax.verifiers.protocol import Candidates, Verifier

RATE, WINDOW, HOP = 16000, 400, 160
FRAME = 2 * HOP  # samples of an encoder's frame
EPS = 1e-5
END, START = "<|endoftext|>", "<|startoftranscript|>"
NO_TIMES, TRANSCRIBE = "<|notimestamps|>", "<|transcribe|>"


class WhisperVocabulary:
    """Whisper's tokenizer, and the ids that begin, end and may not stand in a transcript.

    Attributes:
        prefix: int32 [P]; what every transcript begins with.
        end: the id that ends it; special tokens have this id or a higher one.
        banned: ids that greedy decoding never chooses.
        banned_first: those that it does not choose as the first of a text, either.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        language: str | None,
        banned: tuple[int, ...] = (),
        banned_first: tuple[int, ...] = (),
    ):
        """`language` is a code such as "en"; None is for the English-only models.

        Raises:
            UserError: if the tokenizer lacks a token of the prefix.
        """
        tags = [] if language is None else [f"<|{language}|>", TRANSCRIBE]
        ids = {name: tokenizer.token_to_id(name) for name in (END, START, *tags, NO_TIMES)}
        missing = [name for name, place in ids.items() if place is None]
        if missing:
            raise UserError(f"whisper: its tokenizer lacks {missing[0]}; is the language right?")
        self.tokenizer, self.language, self.end = tokenizer, language, ids.pop(END)
        self.prefix = np.array(list(ids.values()), np.int32)
        self.banned, self.banned_first = banned, banned_first

    def labels(self, text: str) -> np.ndarray:
        """Ids int32 [n] of a text and its end: Whisper begins every text with a blank."""
        ids = self.tokenizer.encode(f" {text.strip()}", add_special_tokens=False).ids
        return np.array([*ids, self.end], np.int32)

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids [n]; special tokens are left out."""
        return self.tokenizer.decode([int(i) for i in ids if i < self.end]).strip()


def log_mel(waves: jax.Array, lengths: jax.Array, *, bins: int, frames: int) -> jax.Array:
    """What Whisper hears of waves [B, samples] at 16 kHz: float32 [B, 2 * frames, bins].

    log10 of mel powers, at most 8 under the loudest one, (x + 4) / 4; transformers'
    WhisperFeatureExtractor. Past `lengths` [B] there is silence.
    """
    size = frames * FRAME
    waves = waves[:, :size]
    valid = jnp.arange(waves.shape[1]) < lengths[:, None]
    heard = jnp.pad(jnp.where(valid, waves, 0.0), ((0, 0), (0, size - waves.shape[1])))
    spectrum = stft(heard, WINDOW, HOP)[:, :-1]
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    filters = mel_filters(RATE, WINDOW, bins, 0.0, RATE / 2)
    mel = jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)
    log = jnp.log10(jnp.maximum(mel, 1e-10))
    log = jnp.maximum(log, log.max((1, 2), keepdims=True) - 8.0)
    return (log + 4.0) / 4.0


class Attention(nnx.Module):
    """Attention of x [B, T, D] to its own or other keys [B, N, S, H]; keys have no bias."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        self.heads = config.heads
        linear = partial(nn.Linear, config.dim, config.dim, rngs=rngs)
        self.q_proj = linear(("embed", "heads"))
        self.k_proj = linear(("embed", "heads"), bias=False)
        self.v_proj = linear(("embed", "heads"))
        self.out_proj = linear(("heads", "embed"))

    def keys(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, N, T, H] of x [B, T, D]."""
        return by_heads(self.k_proj(x), self.heads), by_heads(self.v_proj(x), self.heads)

    def __call__(self, x: jax.Array, keys: tuple, mask: jax.Array | None = None) -> jax.Array:
        return self.out_proj(attend(by_heads(self.q_proj(x), self.heads), *keys, mask))


class EncoderLayer(nnx.Module):
    """x + attention(norm(x)), then + gelu feed-forward(norm(x)); x [B, T, D]."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        norm = partial(nn.LayerNorm, config.dim, eps=EPS, rngs=rngs)
        self.self_attn, self.self_attn_layer_norm = Attention(config, rngs=rngs), norm()
        self.fc1 = nn.Linear(config.dim, config.ffn, ("embed", "mlp"), rngs=rngs)
        self.fc2 = nn.Linear(config.ffn, config.dim, ("mlp", "embed"), rngs=rngs)
        self.final_layer_norm = norm()

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.self_attn_layer_norm(x)
        return self.feed_forward(x + self.self_attn(h, self.self_attn.keys(h)))

    def feed_forward(self, x: jax.Array) -> jax.Array:
        h = jax.nn.gelu(self.fc1(self.final_layer_norm(x)), approximate=False)
        return x + self.fc2(h)


class DecoderLayer(EncoderLayer):
    """The same with attention to what is heard between the two."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.encoder_attn = Attention(config, rngs=rngs)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.dim, eps=EPS, rngs=rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, heard: jax.Array | None, kept: tuple | None = None
    ) -> jax.Array | tuple[jax.Array, tuple]:
        """x [B, T, D] -> x; or, with `kept`, one position [B, 1, D] -> (x, its key and value).

        Args:
            mask: [T, keys], the keys each position sees.
            heard: the encoder's output [B, F, D], where its keys are not kept.
            kept: keys and values of earlier positions, and of what is heard.
        """
        h = self.self_attn_layer_norm(x)
        own = self.self_attn.keys(h)
        seen, listened = own, None
        if kept is not None:
            past, listened = kept
            seen = tuple(jnp.concatenate(pair, 2) for pair in zip(past, own, strict=True))
        x = x + self.self_attn(h, seen, mask)
        listened = self.encoder_attn.keys(heard) if listened is None else listened
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), listened)
        x = self.feed_forward(x)
        return x if kept is None else (x, own)


class Encoder(nnx.Module):
    """Log mel [B, 2 * frames, bins] -> what is heard [B, frames, D]."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        dim = config.dim
        self.dtype = jnp.dtype(config.compute_dtype)
        self.conv1 = nn.Conv1d(config.mel_bins, dim, 3, (None, "embed"), rngs=rngs)
        # Symmetric: "same" padding of a strided convolution as torch has it.
        self.conv2 = nn.Conv1d(dim, dim, 3, ("embed", "mlp"), stride=2, padding=(1, 1), rngs=rngs)
        self.embed_positions = nn.param(
            rngs, (config.frames, dim), (None, "embed"), nn.normal(0.02)
        )
        self.layers = nn.Stack(partial(EncoderLayer, config), config.encoder_layers, rngs=rngs)
        self.layer_norm = nn.LayerNorm(dim, eps=EPS, rngs=rngs)

    def __call__(self, mel: jax.Array) -> jax.Array:
        gelu = partial(jax.nn.gelu, approximate=False)
        x = gelu(self.conv2(gelu(self.conv1(mel.astype(self.dtype)))))
        x, _ = self.layers(x + self.embed_positions[...].astype(self.dtype))
        return self.layer_norm(x)


class Decoder(nnx.Module):
    """Token ids and what is heard [B, frames, D] -> logits of the next token."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        dim = config.dim
        init = nn.normal(0.02)
        self.embed_tokens = nn.param(rngs, (config.vocab, dim), ("vocab", "embed"), init)
        self.embed_positions = nn.param(rngs, (config.positions, dim), (None, "embed"), init)
        self.layers = nn.Stack(partial(DecoderLayer, config), config.decoder_layers, rngs=rngs)
        self.layer_norm = nn.LayerNorm(dim, eps=EPS, rngs=rngs)

    def embed(self, ids: jax.Array, place: jax.Array | int, dtype: jnp.dtype) -> jax.Array:
        """Ids [B, T] that stand from `place` on -> [B, T, D]."""
        positions = jax.lax.dynamic_slice_in_dim(self.embed_positions[...], place, ids.shape[1])
        return (self.embed_tokens[...][ids] + positions).astype(dtype)

    def logits(self, x: jax.Array) -> jax.Array:
        """Float32 [..., V] of the layers' output [..., D]."""
        table = self.embed_tokens[...].astype(x.dtype)
        return jnp.matmul(self.layer_norm(x), table.T, preferred_element_type=jnp.float32)

    def __call__(self, ids: jax.Array, heard: jax.Array) -> jax.Array:
        """Ids [B, T] -> logits [B, T, V]."""
        mask = np.tril(np.ones((ids.shape[1], ids.shape[1]), bool))
        x, _ = self.layers(self.embed(ids, 0, heard.dtype), mask, heard)
        return self.logits(x)

    def listen(self, heard: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Every layer's keys and values of what is heard: two [L, B, N, F, H]."""
        graphdef, state = nnx.split(self.layers.layers)
        return jax.lax.map(lambda one: nnx.merge(graphdef, one).encoder_attn.keys(heard), state)

    def step(self, ids: jax.Array, place: jax.Array, past: tuple, heard: tuple) -> tuple:
        """One token a row, ids [B] at `place`, after `past` [L, B, N, S, H] and what is heard.

        Returns:
            logits [B, V], and `past` with its keys and values.
        """
        seen = jnp.arange(past[0].shape[3] + 1)
        seen = ((seen < place) | (seen == past[0].shape[3]))[None]
        x = self.embed(ids[:, None], place, heard[0].dtype)
        x, own = self.layers(x, seen, None, each=(past, heard))
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=place, axis=3)
        past = tuple(put(old, new) for old, new in zip(past, own, strict=True))
        return self.logits(x[:, 0]), past


class Whisper(nnx.Module):
    """Encoder and decoder of a released size."""

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def hear(self, waves: jax.Array, lengths: jax.Array) -> jax.Array:
        """Waves [B, samples] at 16 kHz, lengths [B] -> [B, frames, D]."""
        sizes = dict(bins=self.config.mel_bins, frames=self.config.frames)
        return self.encoder(log_mel(waves, lengths, **sizes))

    def text_scores(self, heard: jax.Array, prefix: np.ndarray, labels: jax.Array) -> jax.Array:
        """Mean log-probability of the labels int32 [L], negative ones left out: [B] float32."""
        ids = jnp.concatenate([jnp.asarray(prefix), jnp.maximum(labels, 0)])[:-1]
        logits = self.decoder(jnp.broadcast_to(ids, (len(heard), len(ids))), heard)
        of_labels = jax.nn.log_softmax(logits[:, len(prefix) - 1 :])
        chosen = jnp.take_along_axis(of_labels, jnp.maximum(labels, 0)[None, :, None], -1)[..., 0]
        weight = (labels >= 0).astype(jnp.float32)
        return (chosen * weight).sum(1) / jnp.maximum(weight.sum(), 1.0)

    def transcripts(
        self, heard: jax.Array, vocabulary: WhisperVocabulary, limit: int | None = None
    ) -> jax.Array:
        """Greedy transcripts int32 [B, limit] with their prefix, filled up with the end's id."""
        config, batch = self.config, len(heard)
        limit = min(limit or config.positions, config.positions)
        listened, prefix = self.decoder.listen(heard), jnp.asarray(vocabulary.prefix)
        shape = (config.decoder_layers, batch, config.heads, limit, config.dim // config.heads)
        past = (jnp.zeros(shape, heard.dtype),) * 2
        ids = jnp.full((batch, limit), vocabulary.end, jnp.int32).at[:, : len(prefix)].set(prefix)
        allowed = np.zeros((2, config.vocab), np.float32)
        allowed[:, list(vocabulary.banned)] = -np.inf
        allowed[1, list(vocabulary.banned_first)] = -np.inf

        def go_on(state: tuple) -> jax.Array:
            place, _, _, done = state
            return (place < limit - 1) & ~done.all()

        def step(state: tuple) -> tuple:
            place, ids, past, done = state
            logits, past = self.decoder.step(ids[:, place], place, past, listened)
            first = place + 1 == len(prefix)
            best = jnp.argmax(logits + jnp.where(first, allowed[1], allowed[0]), -1)
            begun = place + 1 >= len(prefix)
            best = jnp.where(done, vocabulary.end, best).astype(jnp.int32)
            ids = ids.at[:, place + 1].set(jnp.where(begun, best, ids[:, place + 1]))
            return place + 1, ids, past, done | (begun & (best == vocabulary.end))

        start = (jnp.int32(0), ids, past, jnp.zeros(batch, bool))
        return jax.lax.while_loop(go_on, step, start)[1]


def whisper_definition(config: WhisperConfig) -> nnx.GraphDef:
    """The static half, for `llasa_jax.nn.merge`."""
    return nn.abstract(lambda rngs: Whisper(config, rngs=rngs))[0]


def whisper_verifier(
    config: WhisperConfig, params: dict, vocabulary: WhisperVocabulary, name: str = "whisper"
) -> Verifier:
    """Scores are the mean log-probability of the reference text's tokens and its end."""
    graphdef = whisper_definition(config)

    def score(params: dict, candidates: Candidates, labels: jax.Array) -> jax.Array:
        model = nn.merge(graphdef, params)
        heard = model.hear(candidates.waves, candidates.lengths)
        return model.text_scores(heard, vocabulary.prefix, labels)

    def reference(text: str, wave: np.ndarray | None) -> np.ndarray:
        if not text.strip():
            raise UserError(f"verifier {name}: needs a text; give one")
        labels, room = vocabulary.labels(text), config.positions - len(vocabulary.prefix)
        if len(labels) > room:
            raise UserError(f"verifier {name}: the text has {len(labels)} tokens; split it")
        return pad_labels(labels, -1)[:room]

    return Verifier(name, params, score, reference, rate=RATE)


def whisper_transcriber(
    config: WhisperConfig,
    params: dict,
    vocabulary: WhisperVocabulary,
    *,
    name: str = "whisper",
    batch: int = 8,
) -> BatchTranscriber:
    """Greedy transcripts of lists of waves at 16 kHz."""
    graphdef = whisper_definition(config)

    def best(params: dict, waves: jax.Array, lengths: jax.Array) -> jax.Array:
        model = nn.merge(graphdef, params)
        return model.transcripts(model.hear(waves, lengths), vocabulary)

    seconds = config.frames * FRAME / RATE
    return BatchTranscriber(
        best, params, vocabulary.decode, rate=RATE, pad_seconds=seconds, name=name, batch=batch
    )
