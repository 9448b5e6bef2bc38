"""From budgets in FLOPs to runs, by rule: the same plan gives the same runs.

A width fixes a shape like that of the plan's own run: as deep, as many heads of the same size and
as wide a feed-forward in proportion. Its budget then fixes the steps, and the two fix batch and
learning rate. Nothing is drawn at random and nothing is measured.
"""

import math
from dataclasses import dataclass, replace

from llasa_jax.config import DecoderConfig, DecoderRun, MeshConfig, SweepPlan, config_hash
from llasa_jax.errors import UserError
from llasa_jax.parallel.flops import TRAIN, decoder_flops, parameter_count


@dataclass(frozen=True)
class Trial:
    """One run of a ladder.

    Attributes:
        name: its folder: budget, parameters, tokens, and what differs from the usual run.
        budget: FLOPs that it was made for.
        data: share of the training rows that it sees.
        tokens, flops: expected, by the plan's facts of the data; what was done is counted.
    """

    name: str
    budget: float
    run: DecoderRun
    seed: int
    data: float
    held_out: bool
    tokens: float
    flops: float

    @property
    def hash(self) -> str:
        """Of all that decides what the run does, but its data, its code and its devices."""
        train = replace(self.run.train, mesh=MeshConfig(), checkpoints="", compile_cache=True)
        return config_hash(replace(self.run, train=train)) + f"-{self.data:g}-{self.seed}"

    @property
    def job(self) -> str:
        """Its name where one is short, of a-z, 0-9 and -, and begins with a letter."""
        kept = [part for part in self.name.split("-") if part[0] not in "nd"]
        return "c" + "-".join(kept).replace(".", "p")


def shape(base: DecoderConfig, width: int, least_layers: int) -> DecoderConfig:
    """The decoder of a width in the family of `base`.

    Raises:
        UserError: the width has no such shape.
    """
    ratio = width / base.dim
    kv_heads = max(1, round(base.kv_heads * ratio))
    ffn = base.ffn * width / base.dim
    if ffn != int(ffn):
        raise UserError(f"rungs.widths: {width} gives a feed-forward of {ffn:g}; take another")
    return replace(
        base,
        dim=width,
        ffn=int(ffn),
        layers=max(least_layers, round(base.layers * ratio)),
        heads=kv_heads * base.heads // base.kv_heads,
        kv_heads=kv_heads,
    )


def ladder(plan: SweepPlan) -> list[Trial]:
    """All runs of a plan, in its order.

    Raises:
        UserError: two runs are the same, or one cannot be made.
    """
    trials = [
        _trial(plan, rung.flops, width, seed, share, rung.held_out)
        for rung in plan.rungs
        for width in rung.widths
        for share in rung.data
        for seed in rung.seeds
    ]
    names = [trial.name for trial in trials]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"rungs: {twice[0]} stands there twice")
    return trials


def _trial(
    plan: SweepPlan, budget: float, width: int, seed: int, share: float, held_out: bool
) -> Trial:
    base, lm = plan.run, shape(plan.run.lm, width, plan.least_layers)
    token = TRAIN * decoder_flops(lm, 1, plan.length)
    filled = plan.run.row * plan.used  # tokens of a row
    usual = base.train.steps * base.train.batch * filled
    growth = budget / token / usual
    batch = _power_of_two(base.train.batch * growth**plan.batch_tokens)
    steps = round(budget / (token * batch * filled))
    if steps < 2:
        raise UserError(f"rungs: {budget:g} FLOPs are {steps} steps of width {width}; give more")
    tokens = steps * batch * filled
    peak = base.train.optimizer.peak
    peak *= (width / base.lm.dim) ** plan.rate_width * growth**plan.rate_tokens
    optimizer = replace(base.train.optimizer, peak=float(f"{peak:.3g}"))
    guide = base.guide
    if guide is not None:
        guide = replace(guide, layers=tuple(min(i, lm.layers - 1) for i in guide.layers))
    name = f"{_short(budget, 'e')}-w{width}-n{_short(parameter_count(lm))}-d{_short(tokens)}"
    name += f"-u{100 * share:.0f}" if share < 1 else ""
    name += f"-s{seed}" if seed else ""
    place = base.train.checkpoints
    train = replace(
        base.train,
        steps=steps,
        batch=batch,
        optimizer=optimizer,
        valid_every=steps,
        keep_every=0,
        checkpoints=place and f"{place}/{name}",
    )
    run = replace(base, lm=lm, train=train, guide=guide)
    return Trial(name, budget, run, seed, share, held_out, tokens, tokens * token)


def _power_of_two(value: float) -> int:
    """The nearest by ratio, at least 1."""
    return 1 << max(0, round(math.log2(value)))


def _short(value: float, how: str = "") -> str:
    """Two digits for a name: 6.0e13 as `6e13`, 820,000 as `820k`."""
    if how == "e":
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    for size, letter in ((1e9, "b"), (1e6, "m"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"
