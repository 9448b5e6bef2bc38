"""Several hosts without a cloud: processes here, told of each other as each way tells its hosts.

Clusters' environment variables and the metadata server are stood in for; the entry point, the
processes and what passes between them are real.
"""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, SpectralConfig, TransformerConfig
from llasa_jax.data.shards import write_shards
from llasa_jax.interop.bundle import part_hash, save_part
from llasa_jax.lm.vocabulary import nano_vocabulary
from llasa_jax.training.meter import TIMED
from llasa_jax.training.record import read_curve

ROOT = Path(__file__).parents[2]
COUNT = """
import json, jax
from llasa_jax.parallel.distributed import connect
connect()
print(json.dumps([jax.process_index(), jax.process_count(), jax.device_count()]))
"""
# A TPU VM knows its slice by its chips, then by the metadata server; here are no chips.
ON_TPU = """
import os, sys, jax
from llasa_jax.parallel import distributed
distributed._on_cloud_tpu = lambda environment: True
os.environ.pop("TPU_SKIP_MDS_QUERY", None)
"""


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


class Metadata(http.server.BaseHTTPRequestHandler):
    """What a TPU VM's metadata server says."""

    def do_GET(self):
        found = self.server.attributes.get(self.path.rsplit("/", 1)[1])
        self.send_response(404 if found is None else 200)
        self.end_headers()
        self.wfile.write((found or "").encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def told():
    """A function: (way, processes) -> the environment of each process."""
    servers = []

    def metadata(**attributes):
        server = http.server.ThreadingHTTPServer(("localhost", 0), Metadata)
        server.attributes = {name.replace("_", "-"): text for name, text in attributes.items()}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"localhost:{server.server_address[1]}"

    def environments(way, processes):
        port, hosts = free_port(), ",".join(["localhost"] * processes)
        numbers = range(processes)
        if (
            way == "jobset"
        ):  # of GPUs: an address that the manifest sets, a number that Kubernetes sets
            common = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
            common |= {"JAX_NUM_PROCESSES": str(processes)}
            return [common | {"JOB_COMPLETION_INDEX": str(n)} for n in numbers]
        if way == "slurm":  # JAX takes the port from the job's number
            common = {"SLURM_JOB_ID": str(port % 4096), "SLURM_STEP_NODELIST": "localhost"}
            common |= {"SLURM_NTASKS": str(processes), "SLURM_STEP_NUM_TASKS": str(processes)}
            return [common | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in numbers]
        common = {"JAX_FORCE_TPU_INIT": "1", "JAX_COORDINATOR_PORT": str(port)}
        if way == "gke-tpu":
            common |= {"TPU_WORKER_HOSTNAMES": hosts, "GCE_METADATA_IP": metadata(tpu_env="")}
            return [common | {"TPU_WORKER_ID": str(n)} for n in numbers]
        if way == "gke-tpu-slices":  # of one host each
            common |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
            common |= {"MEGASCALE_NUM_SLICES": str(processes)}
            common |= {"MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080"}
            return [common | {"MEGASCALE_SLICE_ID": str(n)} for n in numbers]
        given = {"worker_network_endpoints": hosts, "tpu_env": "ACCELERATOR_TYPE: 'v6e-8'"}
        places = [metadata(agent_worker_number=str(n), **given) for n in numbers]
        return [common | {"GCE_METADATA_IP": place} for place in places]

    yield environments
    for server in servers:
        server.shutdown()


def begin(environments, program, *words):
    common = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles faster
    }
    running = []
    for one in environments:
        asks = "GCE_METADATA_IP" in one and "TPU_WORKER_HOSTNAMES" not in one
        command = [sys.executable, "-c", ON_TPU + program if asks else program, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=common | one, **pipes))
    return running


def finish(running, seconds=250):
    try:
        said = [process.communicate(timeout=seconds) for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], said


WAYS = ["jobset", "slurm", "gke-tpu", "gke-tpu-slices", "tpu-vm"]


@pytest.mark.parametrize("way", WAYS)
def test_processes_find_each_other(told, way):
    statuses, said = finish(begin(told(way, 2), COUNT))
    assert statuses == [0, 0], said
    assert [json.loads(out.splitlines()[-1]) for out, _ in said] == [[0, 2, 4], [1, 2, 4]]


TRAIN = "import sys; from llasa_jax.cli import main; sys.exit(main(sys.argv[1:]))"
CONFIG = """
from llasa_jax.config import *

def get_config():
    lm = DecoderConfig(dim=16, ffn=32, layers=2, heads=4, kv_heads=2, head_dim=8,
                       text_vocab=267, codes=64, vocab_multiple=4)
    train = TrainConfig(steps=4, batch=8, log_every=1, valid_every=4, save_every=2,
                        optimizer=OptimizerConfig(peak=0.01), compile_cache=False)
    return DecoderRun(lm=lm, train=train, row=320, loss_chunk=64)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a configuration, a codec, and token rows of both splits."""
    folder = tmp_path_factory.mktemp("pod")
    (folder / "tiny.py").write_text(CONFIG)
    small = TransformerConfig(dim=8, ffn=8, layers=1, heads=2)
    codec = CodecConfig(
        levels=(4, 4, 4), spectral=SpectralConfig(8, small), decoder=small, norm_groups=4
    )
    rng = np.random.default_rng(0)
    _, template = nn.abstract(lambda rngs: Codec(codec, rngs=rngs))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), template)
    save_part(folder / "model", "codec", codec, params)
    vocabulary = nano_vocabulary(codec.codebook_size)
    vocabulary.save(folder / "model")
    made = {"codec": part_hash(folder / "model", "codec"), "vocabulary": vocabulary.hash}
    for split, count in (("train", 24), ("valid", 9)):
        some = [vocabulary.example("ab", rng.integers(0, 64, 8 + i)) for i in range(count)]
        write_shards(folder / "tokens" / "generation" / split, some, row=320, about={}, **made)
    return folder


def line(place, out, *settings):
    words = ["train", place / "tiny.py", "--tokens", place / "tokens", "--model", place / "model"]
    words += ["--out", place / out]
    words += [word for setting in settings for word in ("--set", setting)]
    return [str(word) for word in words]


def curve(folder):
    rows = read_curve(folder / "curve.csv")
    return [{name: x for name, x in row.items() if name not in TIMED} for row in rows]


@pytest.fixture(scope="module")
def alone(place):
    statuses, said = finish(begin([{"JAX_NUM_CPU_DEVICES": "1"}], TRAIN, *line(place, "alone")))
    assert statuses == [0], said
    return curve(place / "alone")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_a_pod_trains_as_one_machine(told, place, alone, way, processes):
    out = f"{way}-{processes}"
    words = line(place, out, f"train.mesh.data={processes}", "train.mesh.fsdp=-1")
    statuses, said = finish(begin(told(way, processes), TRAIN, *words))
    assert statuses == [0] * processes, said
    found = curve(place / out)
    assert len(found) == len(alone) == 4
    for row, other in zip(found, alone, strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_process_ends_well_when_one_dies(told, place):
    """So every way sees that the run failed; the same line then ends it."""
    words = line(place, "dies", "train.steps=100000", "train.mesh.fsdp=-1", "train.save_every=10")
    running = begin(told("jobset", 2), TRAIN, *words)
    checkpoints = place / "dies" / "checkpoints"
    try:
        while not any(p.name.isdecimal() for p in checkpoints.glob("*")):
            assert [process.poll() for process in running] == [None, None]
            time.sleep(0.5)
    finally:
        running[1].kill()
    statuses, _ = finish(running)
    assert 0 not in statuses
