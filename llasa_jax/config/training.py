"""Settings that every training run has: optimizer, mesh, length."""

from dataclasses import dataclass
from typing import Literal

from llasa_jax.config.checks import require


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, or Muon for the layers' matrices; warm-up, decay, gradients clipped by their norm.

    The rate rises from the share `start` of `peak` over the share `warmup` of the run, as its power
    `warmup_power`, and falls to the share `final` of `peak`: as a cosine to the run's end; linearly
    over the last `decay` of the run ("wsd"); or linearly over the `decay` that follows the warm-up,
    and stays there ("linear").
    """

    kind: Literal["adamw", "muon"] = "adamw"
    momentum: float = 0.9
    peak: float = 1e-3
    start: float = 0.0
    final: float = 0.1
    warmup: float = 0.03
    warmup_power: float = 1.0
    schedule: Literal["cosine", "wsd", "linear"] = "cosine"
    decay: float = 0.3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0

    def __post_init__(self):
        require(self.peak > 0, "optimizer.peak: must be positive")
        require(self.warmup_power > 0, "optimizer.warmup_power: must be positive")
        for name in ("start", "final", "warmup", "decay"):
            require(0 <= getattr(self, name) <= 1, f"optimizer.{name}: a share from 0 to 1")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh (`parallel.mesh`); one may be -1: all that are left.

    The batch is split over data and fsdp, the state over fsdp and tensor. All ones are one device.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor, self.sequence)
        ok = all(size > 0 or size == -1 for size in sizes) and sizes.count(-1) <= 1
        require(ok, "train.mesh: sizes must be positive, at most one of them -1")


@dataclass(frozen=True)
class TrainConfig:
    """How long and how: `steps` of `batch` items, logged, validated and saved at intervals.

    A step's gradient is taken of `accumulate` parts of its batch, one after the other: as much less
    memory, and the same gradient. `ema` is the decay of the mean of the parameters that is kept, 0
    for none.

    A step whose loss or gradient norm is over `spike_sigmas` standard deviations above those of the
    last `spike_window` steps is skipped; 0 skips only what is not finite. After `bad_steps` skipped
    ones in a row the run goes back to the last good checkpoint, with the data moved on.

    A checkpoint is saved every `save_every` steps, to the run's folder or to `checkpoints`, a
    bucket's address. Kept are the last `keep`, those whose step is a multiple of `keep_every` (0:
    none), and that with the least of the validation metric `keep_best` ("-NAME": the largest). One
    more is saved when `save_minutes` have passed since the last (0: none), and stays until the
    next. When nothing happens for `watch_minutes` (0: never), the run says what it waits for.

    `compile_cache` keeps compiled programs in the user's cache folder ($LLASA_JAX_CACHE), unless
    JAX is told another.
    """

    steps: int = 1000
    batch: int = 16
    accumulate: int = 1
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: int = 20
    valid_every: int = 200
    save_every: int = 200
    save_minutes: float = 15.0
    checkpoints: str = ""
    keep: int = 2
    keep_every: int = 0
    keep_best: str = ""
    ema: float = 0.0
    spike_sigmas: float = 6.0
    spike_window: int = 128
    bad_steps: int = 32
    watch_minutes: float = 10.0
    compile_cache: bool = True

    def __post_init__(self):
        sizes = (self.steps, self.batch, self.log_every, self.valid_every, self.save_every)
        require(min(sizes) > 0, "train: steps, batch and intervals must be positive")
        ok = self.accumulate > 0 and self.batch % self.accumulate == 0
        require(ok, f"train.accumulate: {self.accumulate} does not divide the batch {self.batch}")
        ok = self.keep_every >= 0 and self.keep_every % self.save_every == 0
        require(ok, "train.keep_every: 0, or a multiple of train.save_every")
        require(self.keep > 0, "train.keep: at least one checkpoint")
        ok = min(self.save_minutes, self.watch_minutes) >= 0
        require(ok, "train.save_minutes, train.watch_minutes: 0 (off) or a positive number")
        require(self.bad_steps > 0, "train.bad_steps: at least one")
        require(0 <= self.ema < 1, f"train.ema: {self.ema} is not in [0, 1)")
        require(self.spike_sigmas >= 0, "train.spike_sigmas: 0 (off) or a positive number")
        require(self.spike_window > 1, "train.spike_window: of at least two steps")
