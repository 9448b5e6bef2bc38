import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llasa_jax.errors import UserError
from llasa_jax.parallel import distributed
from llasa_jax.parallel.distributed import connect, gather, lay, processes_told

THREE = {
    "JAX_COORDINATOR_ADDRESS": "host-0:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


@pytest.fixture(autouse=True)
def no_chips(monkeypatch):
    monkeypatch.setattr(distributed, "_on_cloud_tpu", lambda environment: False)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"JAX_NUM_PROCESSES": "1", "SLURM_STEP_NUM_TASKS": "8"},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_ID": "7"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "1"},
    ],
)
def test_one_process_is_left_as_it_is(environment):
    assert processes_told(environment) is None


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_STEP_NUM_TASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "16"},
        {"TPU_WORKER_HOSTNAMES": "t1k-w-0,t1k-w-1"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"},
    ],
)
def test_clusters_that_jax_knows_are_left_to_it(environment):
    assert processes_told(environment) == {}


def test_three_variables_say_everything():
    found = {"coordinator_address": "host-0:1234", "num_processes": 4, "process_id": 3}
    expected = found | {"cluster_detection_method": "deactivate"}
    assert processes_told(THREE) == expected
    job = {name: value for name, value in THREE.items() if name != "JAX_PROCESS_ID"}
    assert processes_told(job | {"JOB_COMPLETION_INDEX": "3"}) == expected


@pytest.mark.parametrize("name", ["JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID"])
def test_a_missing_variable_is_named(name):
    with pytest.raises(UserError, match=f"{name}: is not set"):
        processes_told({key: value for key, value in THREE.items() if key != name})


def test_no_number_is_named():
    with pytest.raises(UserError, match="JAX_PROCESS_ID: first, needed"):
        processes_told(THREE | {"JAX_PROCESS_ID": "first"})


def test_others_that_do_not_answer_are_one_line(monkeypatch):
    def refuse(**arguments):
        raise RuntimeError("deadline exceeded\nat 12:00")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    for name, value in THREE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"cannot join the others \(deadline exceeded\); set JAX"):
        connect()


def test_processes_of_cpus_take_no_program_from_the_cache(monkeypatch):
    """Such a program's collectives come in any order, and the processes wait for each other."""
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: None)
    settings = ("jax_enable_compilation_cache", "jax_enable_preemption_service")
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in THREE.items():
        monkeypatch.setenv(name, value)
    try:
        jax.config.update("jax_enable_compilation_cache", True)
        connect()
        assert not jax.config.jax_enable_compilation_cache
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_host_arrays_are_laid_and_gathered():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    tree = {"a": np.arange(6.0, dtype=np.float32).reshape(3, 2), "b": np.int32(4)}
    where = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)
    laid = lay(tree, where)
    assert laid["a"].sharding == where["a"] and laid["b"].dtype == np.int32
    jax.tree.map(np.testing.assert_array_equal, gather(laid), tree)
