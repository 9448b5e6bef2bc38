from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.codec.lengths import LENGTHS, code_count, lost_frames
from llasa_jax.config import CodecConfig, SemanticConfig

HOP = 320
XCODEC2 = CodecConfig(semantic=SemanticConfig())
NEUCODEC = replace(XCODEC2, semantic=SemanticConfig(edge=0))


@pytest.mark.parametrize("samples", range(HOP, 3 * HOP + 1))
def test_every_length_from_one_to_three_hops(samples):
    """Against the published code: zeros added, then whole filter-bank frames stacked in pairs."""

    def semantic_frames(padded, edge):
        return ((padded + 2 * edge - 400) // 160 + 1) // 2

    by_package = samples + HOP - samples % HOP
    by_transformers = -(-(samples + 1) // HOP) * HOP
    for config, edge in ((XCODEC2, 160), (NEUCODEC, 0)):
        found = {length: code_count(config, samples, length) for length in LENGTHS}
        assert found == {
            "training": samples // HOP,
            "package": semantic_frames(by_package, edge),
            "transformers": semantic_frames(by_transformers, edge),
        }


@given(st.integers(0, HOP - 1), st.sampled_from([XCODEC2, CodecConfig()]))
def test_less_than_a_hop_has_a_code_only_where_zeros_are_added(samples, config):
    assert [code_count(config, samples, length) for length in LENGTHS] == [0, 1, 1]
    assert [code_count(NEUCODEC, samples, length) for length in LENGTHS] == [0, 0, 0]


def test_only_filter_banks_without_edges_lose_a_frame():
    assert [lost_frames(c) for c in (XCODEC2, NEUCODEC, CodecConfig())] == [0, 1, 0]
