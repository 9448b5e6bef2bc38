import numpy as np
import pytest

from llasa_jax.codec.batch import BatchCodec
from llasa_jax.errors import UserError


@pytest.fixture(scope="module")
def codec(tiny):
    return BatchCodec(*tiny, batch=4)


def test_a_padded_batch_gives_what_each_item_gives_alone(codec, sound):
    hop = codec.config.hop
    sizes = (3 * hop + 5, 70 * hop, 50 * hop + 31, hop, 20 * hop, 66 * hop)
    some = [sound(size) for size in sizes]
    done = []
    codes = codec.encode(some, done.append)
    assert done == [4, 2]
    assert [len(c) for c in codes] == [3, 70, 50, 1, 20, 66]
    assert len(np.unique(np.concatenate(codes))) > 20
    rebuilt = codec.decode(codes, done.append)
    assert done == [4, 2, 4, 2]
    for wave, code, sound in zip(some, codes, rebuilt, strict=True):
        assert sound.shape == (len(code) * hop,) and sound.dtype == np.float32
        np.testing.assert_array_equal(codec.encode([wave])[0], code)
        (alone,) = codec.decode([code])
        np.testing.assert_allclose(sound, alone, atol=1e-5 * np.abs(alone).max())


def test_every_length_has_a_code_for_each_whole_hop(codec, sound):
    hop = codec.config.hop
    some = [sound(size) for size in range(hop, 3 * hop + 1)]
    codes = codec.encode(some)
    assert [len(c) for c in codes] == [len(wave) // hop for wave in some]
    assert all(c.dtype == np.int32 for c in codes)
    whole = codec.encode([wave[: len(wave) // hop * hop] for wave in some])
    for a, b in zip(codes, whole, strict=True):
        np.testing.assert_array_equal(a, b)  # the incomplete frame counts for nothing
    assert [len(wave) for wave in codec.decode(codes)] == [len(c) * hop for c in codes]


def test_what_no_codec_can_take_is_refused(codec, sound):
    for size in (0, 1, codec.config.hop - 1):
        with pytest.raises(UserError, match="shorter than one frame of 32 samples"):
            codec.encode([sound(320), sound(size)])
    for codes in ([0, 60], [-1], [], np.zeros(0, np.int32)):
        with pytest.raises(UserError, match=r"each in 0\.\.59"):
            codec.decode([np.array([1]), codes])
    assert codec.encode([]) == codec.decode([]) == []


def test_all_codes_can_be_decoded(codec):
    (wave,) = codec.decode([np.arange(60)])
    assert np.isfinite(wave).all() and len(wave) == 60 * 32
