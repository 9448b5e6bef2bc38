"""Settings of `llasa sweep`: which runs a ladder has, and the rules that make them."""

from dataclasses import dataclass

from llasa_jax.config.checks import require
from llasa_jax.config.runs import DecoderRun


@dataclass(frozen=True)
class RungConfig:
    """The runs of one budget: each width with each seed and each share of the training rows.

    `held_out` runs are forecast, not fitted, and only run when they are asked for.
    """

    flops: float = 2e12
    widths: tuple[int, ...] = (64,)
    seeds: tuple[int, ...] = (0,)
    data: tuple[float, ...] = (1.0,)
    held_out: bool = False

    def __post_init__(self):
        require(self.flops > 0, "rungs.flops: must be positive")
        require(len(self.widths) > 0 and min(self.widths) > 0, "rungs.widths: positive, some")
        require(len(self.seeds) > 0 and min(self.seeds) >= 0, "rungs.seeds: from 0, some")
        ok = len(self.data) > 0 and all(0 < share <= 1 for share in self.data)
        require(ok, "rungs.data: shares of the training rows, above 0 and at most 1")


@dataclass(frozen=True)
class SweepPlan:
    """`llasa sweep`: runs like `run`, each of a budget in FLOPs and a width (`scaling.ladder`).

    The peak learning rate of a run is that of `run`, times (width / its width) to the power
    `rate_width`, times (tokens / its tokens) to the power `rate_tokens`; the batch grows as the
    power `batch_tokens` of the tokens, in powers of two.

    `fitted_from` is the smallest budget in FLOPs that a law is fitted to: models below it may not
    have learned yet what those above are good at.

    `used` is the share of a row's places that hold ids, and `length` the mean length of the
    sequence that an id stands in: facts of the data (`llasa data stats`), for counting FLOPs before
    there is any. `flops_s` is what a chip does a second, by the hand formula, and `price` what its
    hour costs: for estimates alone. Losses are of at most `valid_rows` rows of each kind.
    """

    run: DecoderRun = DecoderRun()
    rungs: tuple[RungConfig, ...] = (RungConfig(),)
    least_layers: int = 2
    rate_width: float = -0.5
    rate_tokens: float = 0.0
    batch_tokens: float = 0.0
    fitted_from: float = 0.0
    used: float = 0.98
    length: float = 160.0
    valid_rows: int = 256
    flops_s: float = 1e11
    price: float = 0.0

    def __post_init__(self):
        require(len(self.rungs) > 0, "rungs: name at least one")
        require(self.fitted_from >= 0, "fitted_from: must not be negative")
        require(0 < self.used <= 1, "used: a share, above 0")
        require(self.length >= 1, "length: at least 1")
        require(min(self.least_layers, self.valid_rows) > 0, "least_layers, valid_rows: positive")
        require(self.flops_s > 0 and self.price >= 0, "flops_s: positive; price: not negative")
        require(self.run.lm.lora is None, "run.lm.lora: a ladder trains whole models")
