"""How long a compiled step should take: the roofline of Williams et al. 2009, with interconnect."""

from collections.abc import Sequence

from llasa_jax.parallel.chips import Chip
from llasa_jax.parallel.hlo import Collective


def step_seconds(
    chip: Chip, flops: float, traffic: float, collectives: Sequence[Collective]
) -> tuple[float, float]:
    """Least and most seconds of a step, at the chip's ceilings: an estimate, nothing measured.

    The least is the slowest of products, memory and interconnect, all else hidden behind it, with
    every link in use. The most is their sum, nothing overlapping, with the links of one torus axis.
    Neither knows of elementwise arithmetic, or of products too small to fill the matrix unit.

    Args:
        flops, traffic: of one device; FLOPs of products, bytes to and from main memory.
    """
    far = sum(one.sent * one.times for one in collectives if one.kind == "send")
    near = sum(one.sent * one.times for one in collectives) - far
    scale = chip.devices  # each device has its share of the chip
    compute = flops * scale / chip.flops
    memory = traffic * scale / chip.hbm_rate
    links = near * scale / chip.ici_rate
    network = far * scale / chip.dcn_rate
    return max(compute, memory, links, network), compute + memory + links * chip.axes + network
