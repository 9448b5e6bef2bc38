"""`llasa bench train`: this training step and transformers' Llama with PyTorch on the same rows."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from llasa_jax.config import DecoderConfig, DecoderRun, OptimizerConfig, TrainConfig
from llasa_jax.console import log
from llasa_jax.errors import UserError
from llasa_jax.interop.llama import llama_settings, llama_tensors
from llasa_jax.lm.released import LLASA_1B
from llasa_jax.parallel.flops import TRAIN, decoder_flops, utilisation
from llasa_jax.training.language import language_objective
from llasa_jax.training.step import Objective, initial_state, make_step, place_batch, training_mesh

Size = Literal["nano", "1b"]
STEPS = 3  # of one measurement, each after the other
OPTIMIZER = OptimizerConfig(peak=1e-3, start=1.0, final=1.0, warmup=0.0)  # a constant rate


@dataclass(frozen=True)
class Shapes:
    """A model and its batch: `rows` rows of `length` tokens; `levels` are those of the codes."""

    lm: DecoderConfig
    rows: int
    length: int
    levels: tuple[int, ...]


SHAPES: dict[Size, Shapes] = {
    "nano": Shapes(
        DecoderConfig(text_vocab=4096 - 8 - 4**5, codes=4**5, scan_layers=False), 8, 512, (4,) * 5
    ),
    "1b": Shapes(replace(LLASA_1B, attention="cudnn", remat="none"), 4, 2048, (4,) * 8),
}


def bench_train(size: Size, runs: int, seed: int) -> dict[str, Any]:
    """Times steps (forward, backward, clipping, AdamW), theirs, then ours; medians of `runs`.

    A GPU need not hold both at once. Both begin with the same parameters and learn the same random
    rows, in the model's compute type with float32 parameters. Theirs is LlamaForCausalLM with SDPA
    attention and the fused AdamW, as it is or compiled, whichever is faster.

    Returns:
        {"ours_tokens_s", "peer_tokens_s", "ratio" (over 1: ours is faster), "mfu", "peer_mfu" (None
        where the device's peak is unknown), "flops" (of a step, by hand), "agree": the largest
        difference of both sides' losses in their first steps}, and the settings.

    Raises:
        UserError: if torch or transformers is missing, or there is no run.
    """
    if runs < 1:
        raise UserError("bench train: at least one run")
    shapes = SHAPES[size]
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, shapes.lm.vocab, (shapes.rows, shapes.length), np.int32)
    train = TrainConfig(batch=shapes.rows, optimizer=OPTIMIZER)
    run = DecoderRun(lm=shapes.lm, train=train, row=shapes.length)
    objective = language_objective(run, shapes.levels)
    peer = Peer(shapes)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        params = jax.device_get(jax.jit(objective.init)(jax.random.key(seed)))
    peer.begin(params, tokens)
    peer_losses = peer()
    peer.hasten()
    peer_s = statistics.median(_seconds(peer) for _ in range(runs)) / STEPS
    peer.free()
    ours = Ours(objective, train, params, tokens)
    losses = ours()
    ours_s = statistics.median(_seconds(ours) for _ in range(runs)) / STEPS

    flops = TRAIN * decoder_flops(shapes.lm, tokens.size, shapes.length)
    mfu, peer_mfu = (utilisation(flops, x, jax.devices()[:1]) for x in (ours_s, peer_s))
    return {
        "ours_tokens_s": tokens.size / ours_s,
        "peer_tokens_s": tokens.size / peer_s,
        "ratio": peer_s / ours_s,
        "mfu": mfu,
        "peer_mfu": peer_mfu,
        "flops": flops,
        "agree": float(np.max(np.abs(np.subtract(losses, peer_losses)))),
        "settings": {"size": size, "rows": shapes.rows, "length": shapes.length, "runs": runs},
        "peer": peer.about,
        "device": jax.devices()[0].device_kind,
    }


def lines(found: dict[str, Any]) -> str:
    """What `bench_train` found, to read."""
    peer, settings = found["peer"], found["settings"]
    share = "" if found["mfu"] is None else f", {100 * found['mfu']:.0f} % MFU"
    compiled = "compiled" if peer["compiled"] else "not compiled"
    return (
        f"{settings['rows']} x {settings['length']} tokens, against {peer['name']} "
        f"{peer['version']} ({compiled})\n"
        f"{found['ours_tokens_s']:.0f} tokens a second{share}, theirs "
        f"{found['peer_tokens_s']:.0f}: {found['ratio']:.2f} times as fast"
    )


class Ours:
    """The step of `llasa train` on one device."""

    def __init__(self, objective: Objective, train: TrainConfig, params: dict, tokens: np.ndarray):
        mesh, ones, place = (
            training_mesh(train.mesh),
            np.ones_like(tokens),
            np.arange(len(tokens[0])),
        )
        batch = {
            "tokens": tokens,
            "positions": np.int32(place) * ones,
            "segments": ones,
            "targets": np.roll(tokens, -1, 1),
            # The last token of a row has no next one.
            "weights": np.float32(place < len(place) - 1) * ones,
        }
        self._batch, self._key = place_batch(objective, mesh, batch), jax.random.key(0)
        self._state = jax.jit(partial(initial_state, objective, train))(self._key, params)
        self._step = jax.jit(make_step(objective, train, mesh), donate_argnums=0)

    def __call__(self) -> list[float]:
        """The losses of `STEPS` more steps."""
        losses = []
        for _ in range(STEPS):
            self._state, metrics = self._step(self._state, {}, self._batch, self._key, 1000)
            losses.append(metrics["loss"])
        return [float(loss) for loss in losses]


class Peer:
    """transformers' LlamaForCausalLM and PyTorch's AdamW, on the GPU where jax uses one."""

    def __init__(self, shapes: Shapes):
        try:
            import torch
            import transformers
        except ImportError as error:
            raise UserError(
                f"bench train compares with transformers 5.23 or later ({error}); "
                "pip install 'llasa-jax[parity]'"
            ) from error
        self.torch, self.shapes = torch, shapes
        settings = transformers.LlamaConfig(**llama_settings(shapes.lm), use_cache=False)
        self.model = transformers.AutoModelForCausalLM.from_config(
            settings, attn_implementation="sdpa", dtype=torch.float32
        )
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        self.about = {
            "name": "transformers LlamaForCausalLM",
            "version": transformers.__version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "attention": "sdpa",
            "compiled": False,
        }

    def begin(self, params: dict, tokens: np.ndarray) -> None:
        """Takes the parameters of `Decoder(shapes.lm)`, rows, and an optimizer at its start."""
        self._tokens = self.torch.from_numpy(np.int64(tokens)).to(self.device)
        tensors = llama_tensors(self.shapes.lm, params)
        state = {name: self.torch.from_numpy(np.array(x)) for name, x in tensors.items()}
        # A tied head is the table under another name.
        self.model.load_state_dict(state, strict=not self.shapes.lm.tied_embeddings)
        self.model.to(self.device).train()
        self._forward = self.model
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        decay = OPTIMIZER.weight_decay
        groups = [
            {"params": matrices, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]
        betas = OPTIMIZER.beta1, OPTIMIZER.beta2
        rule = self.torch.optim.AdamW
        self._optimizer = rule(groups, lr=OPTIMIZER.peak, betas=betas, fused=True)

    def hasten(self) -> None:
        """Goes on with the compiled model if it is faster."""
        plain = _seconds(self)
        self._forward = self.torch.compile(self.model)
        try:
            self()  # compiles
            self.about["compiled"] = _seconds(self) < plain
        except Exception as error:  # whatever a missing or unfit C++ compiler makes of it
            log(f"bench train: torch.compile does not work here ({type(error).__name__})")
        if not self.about["compiled"]:
            self._forward = self.model

    def free(self) -> None:
        """Gives the GPU's memory back."""
        del self.model, self._forward, self._optimizer
        if self.device == "cuda":
            self.torch.cuda.empty_cache()

    def __call__(self) -> list[float]:
        """The losses of `STEPS` more steps."""
        torch, given = self.torch, self._tokens
        half = self.shapes.lm.compute_dtype == "bfloat16"
        losses = []
        for _ in range(STEPS):
            with torch.autocast(self.device, torch.bfloat16, enabled=half):
                loss = self._forward(input_ids=given, labels=given).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.clip)
            self._optimizer.step()
            self._optimizer.zero_grad()
            losses.append(loss.detach())
        return [float(loss) for loss in losses]


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
