"""`llasa bench codec`: this codec and transformers' Xcodec2Model on the same weights and waves."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llasa_jax import nn
from llasa_jax.audio.kaldi import stacked_fbank
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, ConvConfig, SemanticConfig, TransformerConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.xcodec2 import export_codec
from llasa_jax.parallel.flops import transformer_flops

Size = Literal["released", "nano"]
CODECS: dict[Size, CodecConfig] = {
    "released": CodecConfig(
        spectral=None,
        conv=ConvConfig(),
        semantic=SemanticConfig(),
        decoder=TransformerConfig(dim=1024, ffn=4096, layers=12, heads=16),
        scan_layers=False,
    ),
    "nano": CodecConfig(
        spectral=None,
        conv=ConvConfig(channels=12, dim=256),
        semantic=SemanticConfig(dim=256, ffn=1024, layers=4, heads=4),
        decoder=TransformerConfig(),
        scan_layers=False,
    ),
}
PEAK_SIZE = 4096  # of the square matrices whose product shows what the machine can do


def bench_codec(size: Size, seconds: float, batch: int, runs: int, seed: int) -> dict[str, Any]:
    """Times encoding and decoding, ours and theirs in turn, in float32; medians of `runs`.

    Both see the same random weights, waves and codes. Ours is timed from waves; theirs from filter
    banks that are made beforehand, because its feature extractor works one wave at a time.

    Returns:
        {"encode", "decode"}: each {"ours_s", "peer_s", "ratio" (over 1: ours is faster), "flops",
        "bytes" (of our compiled program), "peak_share", "peer_peak_share"}, and {"agree"}: the
        share of equal codes and the largest difference of the waves relative to their peak.

    Raises:
        UserError: if torch or transformers is missing, or an argument is out of range.
    """
    config = CODECS[size]
    frames = round(seconds * config.frame_rate)
    if not 1 <= frames <= 60 * config.frame_rate or min(batch, runs) < 1:
        raise UserError("bench codec: 0.02 to 60 seconds, at least one wave and one run")
    peer = Peer(config)
    graphdef, params = nn.split(Codec(config, rngs=nnx.Rngs(seed)))
    peer.load(params)
    graphdef, params = nn.for_inference(graphdef, params)
    rng = np.random.default_rng(seed)
    loudness = np.repeat(10 ** rng.uniform(-3, -1, (batch, frames)), config.hop, 1)
    wave = np.float32(loudness * rng.normal(size=loudness.shape))
    codes = rng.integers(0, config.codebook_size, (batch, frames), np.int32)
    mask = np.ones((batch, frames), np.float32)
    work = {"encode": (wave, encode_flops), "decode": (codes, decode_flops)}

    ours: dict[str, Callable] = {}
    theirs = {"encode": peer.encoder(wave, mask), "decode": peer.decoder(codes)}
    found: dict[str, Any] = {}
    for name, (given, flops) in work.items():
        method = lambda p, x, m, name=name: getattr(nn.merge(graphdef, p), name)(x, m)  # noqa: E731
        program = jax.jit(method).lower(params, given, mask).compile()
        ours[name] = lambda program=program, given=given: np.asarray(program(params, given, mask))
        found[name] = {
            "flops": batch * flops(config, frames),
            "bytes": program.cost_analysis()["bytes accessed"],
        }
    same = ours["encode"]() == theirs["encode"]()
    one, two = ours["decode"](), theirs["decode"]()
    difference = float(np.abs(one - two).max() / np.abs(two).max())
    found["agree"] = {"codes": float(same.mean()), "wave": difference}

    peak = max(_matmul_rate(), peer.matmul_rate())
    for name in work:
        pairs = [(_seconds(ours[name]), _seconds(theirs[name])) for _ in range(runs)]
        ours_s, peer_s = (statistics.median(times) for times in zip(*pairs, strict=True))
        rate = found[name]["flops"] / peak
        found[name] |= {"ours_s": ours_s, "peer_s": peer_s, "ratio": peer_s / ours_s}
        found[name] |= {"peak_share": rate / ours_s, "peer_peak_share": rate / peer_s}
    settings = {"size": size, "seconds": seconds, "batch": batch, "runs": runs, "peak": peak}
    return found | settings | {"peer": peer.about, "device": jax.devices()[0].device_kind}


def lines(found: dict[str, Any]) -> str:
    """What `bench_codec` found, to read."""
    peer = found["peer"]
    rows = [f"{found['batch']} x {found['seconds']:g} s, against {peer['name']} {peer['version']}"]
    for name in ("encode", "decode"):
        part = found[name]
        rows.append(
            f"{name}: {part['ours_s']:.3f} s, theirs {part['peer_s']:.3f} s: {part['ratio']:.2f} "
            f"times as fast, {100 * part['peak_share']:.0f} % of peak (theirs "
            f"{100 * part['peer_peak_share']:.0f} %)"
        )
    return "\n".join(rows)


class Peer:
    """transformers' Xcodec2Model, on the GPU where jax uses one."""

    def __init__(self, config: CodecConfig):
        try:
            import torch
            import transformers
            from transformers import Xcodec2Model
        except ImportError as error:
            raise UserError(
                f"bench codec compares with transformers 5.23 or later ({error}); "
                "pip install 'llasa-jax[parity]'"
            ) from error
        self.torch, self.config, self.kind = torch, config, Xcodec2Model
        self.about = {
            "name": "transformers Xcodec2Model",
            "version": transformers.__version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"

    def load(self, params: dict) -> None:
        """Takes the parameters of `Codec(config)`, through their own layout."""
        with TemporaryDirectory() as folder:
            export_codec(Path(folder), "transformers", self.config, params)
            self.model = self.kind.from_pretrained(folder).eval().to(self.device)

    def encoder(self, wave: np.ndarray, mask: np.ndarray) -> Callable[[], np.ndarray]:
        """() -> codes [B, T] of wave [B, T * hop]."""
        semantic = self.config.semantic
        settings = dict(rate=self.config.sample_rate, bins=semantic.mel_bins, edge=semantic.edge)
        features = np.asarray(jax.jit(lambda w, m: stacked_fbank(w, m, **settings)[0])(wave, mask))
        values, features = self._tensor(wave[:, None]), self._tensor(features)
        return lambda: self._run(lambda: self.model.encode(values, features).audio_codes[:, 0])

    def decoder(self, codes: np.ndarray) -> Callable[[], np.ndarray]:
        """() -> wave [B, T * hop] of codes [B, T]."""
        given = self._tensor(codes[:, None].astype(np.int64))
        return lambda: self._run(lambda: self.model.decode(given).audio_values[:, 0])

    def matmul_rate(self) -> float:
        x = self._tensor(np.ones((PEAK_SIZE, PEAK_SIZE), np.float32))
        return _best_rate(lambda: self._run(lambda: (x @ x)[0]))

    def _tensor(self, array: np.ndarray) -> Any:
        return self.torch.from_numpy(np.array(array)).to(self.device)

    def _run(self, call: Callable[[], Any]) -> np.ndarray:
        with self.torch.inference_mode():
            return call().cpu().numpy()


def encode_flops(config: CodecConfig, frames: int) -> float:
    """Of the products of one wave's encoder, both branches, two a multiply and add."""
    conv, semantic, fused = config.conv, config.semantic, config.fused_dim
    size, samples = conv.channels, frames * config.hop
    total = 2 * 7 * size * samples
    for stride in conv.strides:
        total += 3 * 2 * (7 + 1) * size**2 * samples
        samples //= stride
        total += 2 * 2 * stride * 2 * size**2 * samples
        size *= 2
    total += 2 * 3 * size * conv.dim * frames
    dim, distances = semantic.dim, semantic.left + 1 + semantic.right
    layer = 14 * dim**2 + 8 * dim * semantic.ffn + 2 * semantic.conv_width * dim
    layer += (4 * frames + 2 * distances) * dim
    adapter = 4 * 2 * 3 * dim**2
    first = 2 * 2 * semantic.mel_bins * dim
    last = 2 * fused**2 + 2 * fused * len(config.levels)
    return total + frames * (first + semantic.layers * layer + adapter + last)


def decode_flops(config: CodecConfig, frames: int) -> float:
    """Of the products of one wave's decoder."""
    dim = config.decoder.dim
    convolutions = 2 * (7 + 8 * 3) * dim**2
    before = 2 * config.fused_dim * (len(config.levels) + dim)
    head = 2 * dim * (4 * config.output_hop + 2)
    layers = transformer_flops(config.decoder, frames, frames)
    return frames * (convolutions + before + head) + layers


def _matmul_rate() -> float:
    x = jnp.ones((PEAK_SIZE, PEAK_SIZE), jnp.float32)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest")[0])
    return _best_rate(lambda: np.asarray(product(x)))


def _best_rate(product: Callable[[], Any]) -> float:
    product()
    return 2 * PEAK_SIZE**3 / min(_seconds(product) for _ in range(5))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
