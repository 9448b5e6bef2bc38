from llasa_jax.parallel.chips import CHIPS, Chip
from llasa_jax.parallel.hlo import Collective
from llasa_jax.parallel.roofline import step_seconds

CHIP = Chip(flops=100, hbm=0, hbm_rate=50, ici_rate=20, dcn_rate=1, axes=2)
GATHER = Collective("all-gather", bytes=80, devices=4, in_loop=True, times=2)  # 2 x 60 are sent


def test_the_slowest_of_all_or_their_sum():
    assert step_seconds(CHIP, 300, 100, []) == (3, 3 + 2)
    assert step_seconds(CHIP, 300, 500, [GATHER]) == (10, 3 + 10 + 6 * 2)


def test_other_slices_are_reached_over_the_network():
    send = Collective("send", bytes=30, devices=1, in_loop=False, times=1)
    assert step_seconds(CHIP, 0, 0, [send, GATHER]) == (30, 30 + 12)


def test_a_device_may_be_half_a_chip():
    half = Chip(flops=200, hbm=0, hbm_rate=100, ici_rate=40, dcn_rate=2, axes=2, devices=2)
    assert step_seconds(half, 300, 500, [GATHER]) == step_seconds(CHIP, 300, 500, [GATHER])


def test_ceilings_are_those_of_the_pages():
    """FLOPs a byte at which products and memory take the same time, of each generation."""
    ridges = {name: round(chip.flops / chip.hbm_rate) for name, chip in CHIPS.items()}
    assert ridges == {"v4": 229, "v5e": 241, "v5p": 166, "v6e": 560, "tpu7x": 313}
