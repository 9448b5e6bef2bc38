import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.training.checkpoints import Checkpoints, Keep, fingerprints

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


@pytest.mark.parametrize(
    ("keep", "staying"),
    [
        (Keep(), {30, 40, 47}),
        (Keep(latest=1), {40, 47}),
        (Keep(every=20), {20, 30, 40, 47}),
        (Keep(latest=1, best="nats"), {20, 40, 47}),
        (Keep(latest=1, best="-nats"), {30, 40, 47}),
        (Keep(latest=9), {10, 20, 30, 35, 40, 47}),
    ],
)
def test_which_checkpoints_stay(keep, staying):
    found = {step: {"temporary": step in (35, 47)} for step in (10, 20, 30, 35, 40, 47)}
    for step, nats in ((20, 1.0), (30, 3.0), (40, 2.0)):
        found[step]["valid"] = {"nats": nats}
    assert keep.stay(found) == staying


def test_few_checkpoints_stay_though_they_are_temporary():
    found = dict.fromkeys((3, 5, 8), {"temporary": True})
    assert Keep().stay(found) == {5, 8}
    assert Keep().stay({}) == set()


def test_what_is_told_comes_back_with_the_versions(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    told = {"moved": 3, "pending": {"steps": [{"loss": "0x1.8p+1"}]}}
    assert checkpoints.save(7, jax.tree.map(jnp.asarray, STATE), told)
    checkpoints.close()
    found = Checkpoints(tmp_path, reading=True).about(7)
    assert {name: found[name] for name in told} == told
    assert found["versions"]["jax"] == jax.__version__
    assert set(found["fingerprints"]) == {
        "step",
        "params.layers.0.kernel",
        "opt.0.mu",
    }


def test_a_fingerprint_tells_every_bit_and_place():
    array = jnp.arange(24, dtype=jnp.float32).reshape(4, 6)
    found = {fingerprints({"x": array})["x"]}
    for index, value in (((0, 0), -0.0), ((3, 5), jnp.nextafter(23.0, 24.0)), ((1, 2), 9.0)):
        found |= {fingerprints({"x": array.at[index].set(value)})["x"]}
    swapped = array.at[0, 1].set(6.0).at[1, 0].set(1.0)
    found |= {fingerprints({"x": x})["x"] for x in (swapped, array.T)}
    assert len(found) == 6
    for dtype in ("bfloat16", "int8", "bool", "uint32"):
        a, b = (jnp.zeros(5, dtype), jnp.zeros(5, dtype).at[3].set(True))
        assert fingerprints({"x": a}) != fingerprints({"x": b})


def test_one_that_is_not_committed_does_not_count(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    half = folder / "3.orbax-checkpoint-tmp"  # as it is called until it is whole
    (folder / "3").rename(half)
    assert Checkpoints(folder, reading=True).latest == 2 and half.is_dir()
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest == 2
    assert checkpoints.save(3, jax.tree.map(jnp.asarray, STATE)) and checkpoints.settle()
    assert checkpoints.latest == 3
    checkpoints.close()
    assert not half.is_dir()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_newest_whole_one_is_taken_and_the_damaged_are_set_aside(saved, tmp_path):
    folder, told = tmp_path / "checkpoints", []
    shutil.copytree(saved, folder)
    flip(folder / "3/_CHECKPOINT_METADATA")
    checkpoints = Checkpoints(folder, tell=told.append)
    step, state, _ = checkpoints.newest(template())
    assert (step, state["step"], checkpoints.latest) == (2, 5, 2)
    assert len(told) == 1 and "checkpoints/3: cannot be restored (" in told[0]
    assert (tmp_path / "aside/3").is_dir()
    # The run comes by the step again.
    assert checkpoints.save(3, jax.tree.map(jnp.asarray, STATE)) and checkpoints.settle()
    assert checkpoints.steps == [2, 3]
    checkpoints.close()


def test_one_that_keeps_orbax_from_all_is_set_aside(saved, tmp_path):
    folder, told = tmp_path / "checkpoints", []
    shutil.copytree(saved, folder)
    path = folder / "3/_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace("init_timestamp", "init_timest`mp"))
    with pytest.raises(UserError, match="one is damaged .*init_timest`mp"):
        Checkpoints(folder, reading=True)
    checkpoints = Checkpoints(folder, tell=told.append)
    assert checkpoints.newest(template())[0] == 2 and len(told) == 1
    assert (tmp_path / "aside/3").is_dir()
    checkpoints.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_flipped_bit_gets_through(tmp_path):
    """In every file of a checkpoint: what comes back is what was saved, or nothing does."""
    state = {"kernel": jax.random.normal(jax.random.key(0), (64, 33)), "step": jnp.int32(3)}
    checkpoints = Checkpoints(tmp_path / "whole")
    checkpoints.save(3, state)
    checkpoints.close()
    refused = []
    for path in sorted(p for p in (tmp_path / "whole").rglob("*") if p.is_file()):
        folder, name = tmp_path / f"{len(refused)}", path.relative_to(tmp_path / "whole")
        shutil.copytree(tmp_path / "whole", folder)
        data = bytearray((folder / name).read_bytes())
        if data:
            data[3 * len(data) // 5] ^= 1
            (folder / name).write_bytes(data)
        try:
            reading = Checkpoints(folder, reading=True)
            found = reading.restore(3, template(state))
            jax.tree.map(np.testing.assert_array_equal, found, state)
            refused.append(False)
        except UserError as error:
            assert "checkpoint" in str(error)
            refused.append(True)
    assert len(refused) > 5 and sum(refused) > 2
