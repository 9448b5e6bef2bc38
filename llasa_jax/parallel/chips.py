"""What each TPU generation can do, per chip: the ceilings of a roofline."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """A TPU chip; bytes and rates in SI units.

    Attributes:
        flops: dense bfloat16 FLOP/s.
        hbm: bytes of main memory that the compiler grants a program.
        hbm_rate: bytes/s between it and the chip.
        ici_rate: bytes/s that the chip sends to its neighbours, over all links.
        dcn_rate: bytes/s that it sends to other slices, its share of the host's network.
        axes: dimensions of the torus; a collective along one mesh axis uses the links of one.
        devices: JAX devices a chip.
    """

    flops: float
    hbm: int
    hbm_rate: float
    ici_rate: float
    dcn_rate: float
    axes: int
    devices: int = 1


# Google's pages on TPU v4, v5e, v5p, v6e and TPU7x (docs.cloud.google.com/tpu/docs/v4 ..., read
# in November 2026). Their ICI figures are of both directions: half of it is sent; v4's is 2,400
# Gbit/s one way. DCN: v5p, v6e and TPU7x as given; v5e 6.4 Tbit/s for 256 chips; v4 taken as v5p.
# Memory: what libtpu 0.0.42 calls available, of 32, 16, 95, 32 and 192 GiB.
CHIPS = {
    "v4": Chip(275e12, int(30.75 * 2**30), 1200e9, 300e9, 6.25e9, 3),
    "v5e": Chip(197e12, int(15.75 * 2**30), 819e9, 200e9, 3.125e9, 2),
    "v5p": Chip(459e12, int(95.74 * 2**30), 2765e9, 600e9, 6.25e9, 3),
    "v6e": Chip(918e12, int(31.25 * 2**30), 1638e9, 400e9, 12.5e9, 2),
    "tpu7x": Chip(2307e12, int(189.5 * 2**30), 7380e9, 600e9, 12.5e9, 3, devices=2),
}
