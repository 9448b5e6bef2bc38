import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.training.checkpoints import Checkpoints

STATE = {
    "step": np.int32(3),
    "params": {"layers": {0: {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}}},
    "opt": ({"mu": np.full(3, 0.1, np.float32)}, ()),
}


def template(state=STATE):
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state))


def restore(folder, shape=None):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(checkpoints.latest, shape or template())
    finally:
        checkpoints.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest is None
    for step in (1, 2, 3):
        checkpoints.save(
            step, jax.tree.map(lambda leaf, step=step: jnp.asarray(leaf + step), STATE)
        )
    checkpoints.close()
    return folder


def test_the_newest_state_comes_back_bit_for_bit(saved):
    found = restore(saved)
    assert jax.tree.structure(found) == jax.tree.structure(STATE)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(STATE), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b + 3)


def test_only_the_newest_two_are_kept(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["2", "3"]


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's readers
@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: [halve(p) for p in folder.rglob("*") if p.is_file()],
        lambda folder: [halve(p) for p in folder.rglob("d/*")],
        lambda folder: [p.unlink() for p in folder.rglob("manifest.ocdbt")],
        lambda folder: [p.write_bytes(b"\0no") for p in folder.rglob("_METADATA")],
        lambda folder: shutil.rmtree(folder / "default"),
    ],
    ids=["all cut", "data cut", "no manifest", "no metadata", "no content"],
)
def test_a_damaged_checkpoint_is_one_line(saved, tmp_path, harm):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    harm(folder / "3")
    with pytest.raises(UserError, match="checkpoints/3: cannot be restored .* delete ") as caught:
        restore(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    gc.collect()  # what the failed reads left warns here, where it is ignored


def test_another_configurations_checkpoint_is_one_line(saved):
    wider = STATE | {"params": {"layers": {0: {"kernel": np.zeros((3, 5), np.float32)}}}}
    more = STATE | {"ema": np.zeros(2)}
    named = r"params.layers.0.kernel is \(3, 4\) there, \(3, 5\) in this configuration"
    for other, message in ((wider, named), (more, r"ema is missing there, \(2,\) in this")):
        with pytest.raises(UserError, match=rf"cannot be restored \({message}") as caught:
            restore(saved, template(other))
        assert "\n" not in str(caught.value)
