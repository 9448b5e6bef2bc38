"""`llasa bench search`: sixteen candidates of one prompt, beside transformers' `generate`."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.codec.model import Codec
from llasa_jax.config import (
    CodecRun,
    DecoderConfig,
    DecoderRun,
    GuardConfig,
    RecogniserRun,
    SamplerConfig,
    SpeakerRun,
    load_config,
)
from llasa_jax.console import log
from llasa_jax.errors import UserError
from llasa_jax.interop.llama import llama_settings, llama_tensors
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.released import LLASA_1B
from llasa_jax.lm.vocabulary import Vocabulary, nano_vocabulary
from llasa_jax.metrics.text import normalise
from llasa_jax.search.engine import Engine
from llasa_jax.search.sampler import Sampler
from llasa_jax.verifiers.recogniser import content_verifier, init_recogniser
from llasa_jax.verifiers.speaker import SpeakerEncoder, speaker_verifier

Size = Literal["nano", "1b"]
CANDIDATES = 16
TEXT = "The small bird that sings at night lives in the tall grey trees."  # 64 characters
# Bytes a second between a device and its memory: the vendor's product pages.
MEMORY_RATE = {
    "NVIDIA H100 80GB HBM3": 3.35e12,
    "NVIDIA H200": 4.8e12,
    "NVIDIA A100-SXM4-80GB": 2.039e12,
}


@dataclass(frozen=True)
class Shapes:
    """A decoder, and the codes of every take; they end at this length on both sides."""

    lm: DecoderConfig
    length: int


def shapes_of(size: Size) -> Shapes:
    """The shipped voice's decoder, or Llasa-1B's layers with its codes and a byte tokenizer."""
    text = nano_vocabulary(1).text_vocab
    if size == "nano":
        return Shapes(replace(load_config("voice_lm", DecoderRun).lm, text_vocab=text), 128)
    return Shapes(replace(LLASA_1B, text_vocab=text, attention="reference", remat="none"), 512)


def bench_search(size: Size, runs: int, seed: int) -> dict[str, Any]:
    """Times sampling and search, theirs, then ours, with random weights; medians of `runs`.

    All takes have the same length on both sides, by bounds; both sample at 0.8 with the top 50.
    Theirs is LlamaForCausalLM.generate with SDPA attention and a growing or a static cache,
    whichever is faster. Search adds decoding to waves and scores of content and voice.

    Returns:
        {"seconds_1", "seconds_16" (sampling alone), "cost_16_over_1", "peer_seconds_16",
        "ratio_to_peer" (over 1: ours is faster), "roofline_share" (the share of the memory's rate
        that weights and caches take; None where the rate is unknown), "search_over_sampling"
        (None but for nano: no other codec is at hand)}, and the settings.

    Raises:
        UserError: if torch or transformers is missing, or there is no run.
    """
    if runs < 1:
        raise UserError("bench search: at least one run")
    shapes = shapes_of(size)
    vocabulary = nano_vocabulary(shapes.lm.codes)
    prompt = vocabulary.prompt(TEXT)
    peer = Peer(shapes, prompt, vocabulary)
    graphdef, params = _random(lambda rngs: Decoder(shapes.lm, rngs=rngs), seed)
    peer.begin(params)
    peer.choose()
    peer_s = _median(peer, runs)
    peer.free()

    bounds = {"min_codes": [shapes.length], "max_codes": [shapes.length]}
    seconds, samplers = {}, {}
    for n in (1, CANDIDATES):
        samplers[n] = Sampler(graphdef, params, vocabulary, SamplerConfig(), slots=n)
        draw = partial(samplers[n], [prompt], candidates=n, seed=seed, **bounds)
        draw()  # compiles
        seconds[n] = _median(draw, runs)
    search_s = None
    if size == "nano":
        search_s = _median(_search(samplers[CANDIDATES], vocabulary, shapes, seed), runs)

    ours = seconds[CANDIDATES]
    rate = MEMORY_RATE.get(jax.devices()[0].device_kind)
    moved = shapes.length * _bytes_a_step(shapes, len(prompt))
    return {
        "seconds_1": seconds[1],
        "seconds_16": ours,
        "cost_16_over_1": ours / seconds[1],
        "peer_seconds_16": peer_s,
        "ratio_to_peer": peer_s / ours,
        "roofline_share": None if rate is None else moved / rate / ours,
        "search_over_sampling": None if search_s is None else search_s / ours,
        "search_seconds_16": search_s,
        "settings": {
            "size": size,
            "codes": shapes.length,
            "prompt": len(prompt),
            "runs": runs,
            "dtype": shapes.lm.compute_dtype,
        },
        "peer": peer.about,
        "device": jax.devices()[0].device_kind,
    }


def lines(found: dict[str, Any]) -> str:
    """What `bench_search` found, to read."""
    settings, peer, share = found["settings"], found["peer"], found["roofline_share"]
    roofline = "" if share is None else f", {100 * share:.0f} % of the memory's rate"
    more = found["search_over_sampling"]
    search = "" if more is None else f"; with codec and verifiers {more:.2f} times sampling"
    return (
        f"{CANDIDATES} takes of {settings['codes']} codes, against {peer['name']} "
        f"{peer['version']} ({peer['cache']} cache)\n"
        f"{found['seconds_16']:.2f} s{roofline}, theirs {found['peer_seconds_16']:.2f} s: "
        f"{found['ratio_to_peer']:.2f} times as fast; one take {found['seconds_1']:.2f} s"
        f"{search}"
    )


def _random(build: Callable[[nnx.Rngs], nnx.Module], seed: int) -> tuple[nnx.GraphDef, dict]:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        graphdef, _ = nn.abstract(build)
        params = jax.jit(lambda key: nn.split(build(nnx.Rngs(key)))[1])(jax.random.key(seed))
    return graphdef, jax.device_get(params)


def _search(
    sampler: Sampler, vocabulary: Vocabulary, shapes: Shapes, seed: int
) -> Callable[[], Any]:
    """The same takes, decoded by the shipped voice's codec and scored by its two verifiers."""
    codec = load_config("voice_codec", CodecRun).codec
    rate = codec.sample_rate
    _, params = _random(lambda rngs: Codec(codec, rngs=rngs), seed)
    recogniser = load_config("voice_recogniser", RecogniserRun).recogniser
    content = content_verifier(recogniser, init_recogniser(recogniser, jax.random.key(seed)))
    config = load_config("voice_speaker", SpeakerRun).speaker
    _, weights = _random(lambda rngs: SpeakerEncoder(config, rngs=rngs), seed)
    speaker = speaker_verifier(config, weights, "speaker")
    pace = shapes.length / len(TEXT)
    guards = GuardConfig(pace, pace, slack_codes=0, loop_codes=0, retries=0)
    engine = Engine(sampler, vocabulary, BatchCodec(codec, params), [content, speaker], guards)
    noise = np.random.default_rng(seed).normal(0, 0.1, rate).astype(np.float32)
    references = [(content.reference(normalise(TEXT), None), speaker.reference("", noise))]
    run = partial(engine.pools, [TEXT], references, candidates=CANDIDATES, seed=seed)
    run()  # compiles
    return run


def _bytes_a_step(shapes: Shapes, prompt: int) -> float:
    """Bytes of weights and caches that a step of sixteen takes reads, at mean length."""
    lm, size = shapes.lm, jnp.dtype(shapes.lm.compute_dtype).itemsize
    layer = 2 * lm.dim * lm.head_dim * (lm.heads + lm.kv_heads) + 3 * lm.dim * lm.ffn
    weights = lm.layers * layer + (lm.codes + 1) * lm.dim
    keys = prompt + CANDIDATES * shapes.length / 2
    return size * (weights + lm.layers * 2 * lm.kv_heads * lm.head_dim * keys)


class Peer:
    """transformers' LlamaForCausalLM, on the GPU where jax uses one."""

    def __init__(self, shapes: Shapes, prompt: np.ndarray, vocabulary: Vocabulary):
        try:
            import torch
            import transformers
        except ImportError as error:
            raise UserError(
                f"bench search compares with transformers 5.23 or later ({error}); "
                "pip install 'llasa-jax[parity]'"
            ) from error
        self.torch, self.shapes = torch, shapes
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        self.model = transformers.AutoModelForCausalLM.from_config(
            transformers.LlamaConfig(**llama_settings(shapes.lm)),
            attn_implementation="sdpa",
            dtype=getattr(torch, shapes.lm.compute_dtype),
        )
        self._prompt = torch.from_numpy(np.int64(prompt))[None].to(self.device)
        self._end = vocabulary.speech_end
        self.about = {
            "name": "transformers LlamaForCausalLM.generate",
            "version": transformers.__version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "attention": "sdpa",
            "cache": "growing",
        }

    def begin(self, params: dict) -> None:
        """Takes the parameters of `Decoder(shapes.lm)`."""
        tensors = llama_tensors(self.shapes.lm, params)
        state = {name: self.torch.from_numpy(np.array(x)) for name, x in tensors.items()}
        # A tied head is the table under another name.
        self.model.load_state_dict(state, strict=not self.shapes.lm.tied_embeddings)
        self.model.to(self.device).eval()

    def choose(self) -> None:
        """Goes on with the static cache if it is faster."""
        seconds = {}
        for cache in ("growing", "static"):
            self.about["cache"] = cache
            try:
                self()  # warms up, or compiles
                seconds[cache] = _seconds(self)
            except Exception as error:  # whatever a missing or unfit C++ compiler makes of it
                log(f"bench search: the {cache} cache does not work here ({type(error).__name__})")
        if not seconds:
            raise UserError("bench search: transformers' generate does not work here")
        self.about["cache"] = min(seconds, key=seconds.get)
        self.about["seconds"] = seconds

    def free(self) -> None:
        """Gives the GPU's memory back."""
        del self.model
        if self.device == "cuda":
            self.torch.cuda.empty_cache()

    def __call__(self) -> Any:
        """Sixteen sequences of the length."""
        length, static = self.shapes.length, self.about["cache"] == "static"
        with self.torch.inference_mode():
            return self.model.generate(
                self._prompt,
                attention_mask=self.torch.ones_like(self._prompt),
                do_sample=True,
                temperature=0.8,
                top_k=50,
                num_return_sequences=CANDIDATES,
                min_new_tokens=length,
                max_new_tokens=length,
                eos_token_id=self._end,
                pad_token_id=self._end,
                **({"cache_implementation": "static"} if static else {}),
            ).cpu()


def _median(call: Callable[[], Any], runs: int) -> float:
    return statistics.median(_seconds(call) for _ in range(runs))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
