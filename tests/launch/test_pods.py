"""Runs on pods that nobody has: what would be run is text, held by goldens and published schemas.

After a wanted change, `LLASA_GOLDEN=write pytest tests/launch` writes the texts anew. A folder with
Kueue's and JobSet's CRDs, as their releases have them, is named by LLASA_CRDS.
"""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
ENVIRONMENT = {
    "PROJECT": "my-project",
    "ZONE": "us-east5-b",
    "CLUSTER": "pods",
    "BUCKET": "my-bucket",
    "IMAGE": "us-docker.pkg.dev/my-project/llasa/llasa:1",
    "WORK": "/shared/llasa",
}
PAPER = "run paper-1b llasa_1b --topology v6e:4x4"
LINES = {
    "gke-run": f"gke {PAPER}",
    "gke-run-two-slices": "gke run paper-8b llasa_8b --topology v5p:2x2x4 --slices 2 --spot",
    "gke-run-tpu7x": "gke run paper-8b llasa_8b --topology tpu7x:4x4x4",
    "gke-run-codec": "gke run codec xcodec2 --topology v5e:2x4 --flags --set train.batch=8",
    "gcluster-run": f"gcluster {PAPER} --flags",
    "xpk-run": f"xpk {PAPER} --set train.accumulate=2",
    "xpk-run-v5p": "xpk run paper-3b llasa_3b --topology v5p:4x4x4 --slices 2 --flags",
    "skypilot-run": f"skypilot {PAPER} --spot --flags",
    "tpu-vm-run": f"tpu-vm {PAPER} --flags",
    "tpu-vm-run-two-slices": "tpu-vm run codec xcodec2 --topology v5e:4x4 --slices 2 --spot",
    "slurm-run": "slurm run paper-1b llasa_1b --topology gpu:4x8",
} | {
    f"{way}-{verb.split()[0]}": f"{way} {verb}"
    for way in ("gke", "gcluster", "xpk", "skypilot", "tpu-vm", "slurm")
    for verb in ("list", "logs paper-1b", "delete paper-1b")
}


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


RENDER = load(ROOT / "launch/render.py")


def dry(words, **environment):
    """The program with --dry-run, in this process: its status and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, ENVIRONMENT | environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = RENDER.main([*words, "--dry-run"])
        except SystemExit as end:
            status = end.code
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


def script(line):
    done = dry(shlex.split(line))
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(str(ROOT), "ROOT")


@pytest.mark.parametrize("name", LINES)
def test_every_script_is_a_reviewed_one(name):
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("LLASA_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# launch/pod.sh {LINES[name]}\n{script(LINES[name])}")
    assert path.is_file(), f"no {path}: write it as the head of this file says, and read it"
    head, text = path.read_text().split("\n", 1)
    assert head == f"# launch/pod.sh {LINES[name]}"
    assert script(LINES[name]).splitlines() == text.splitlines()


def test_every_reviewed_text_has_its_line():
    assert sorted(path.stem for path in GOLDEN.glob("*.sh")) == sorted(LINES)


def shellcheck(paths, *words):
    tool = shutil.which("shellcheck", path=Path(sys.executable).parent) or "shellcheck"
    done = subprocess.run([tool, "-x", *words, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_shellcheck_finds_nothing():
    shellcheck([*ROOT.glob("launch/*.sh"), *ROOT.glob("bench/*.sh")], "-P", str(ROOT / "launch"))


def test_shellcheck_finds_nothing_in_what_would_run():
    shellcheck(GOLDEN.glob("*.sh"), "-s", "bash")


def heredocs(text):
    """What the script gives to commands; of the outermost script only."""
    return re.findall(r"<<'EOF'\n(.*?)\nEOF\n", text, re.DOTALL)


def closed(schema):
    """A schema that refuses keys it does not name, as `kubectl --validate=strict` does."""
    if isinstance(schema, dict):
        schema = {key: closed(value) for key, value in schema.items()}
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        # A number or text: so a CRD says it, and so the models.
        either = schema.get("x-kubernetes-int-or-string")
        if either or "oneof_schema_1_validator" in schema.get("properties", ()):
            schema = {"type": ["number", "string"]}
    return [closed(one) for one in schema] if isinstance(schema, list) else schema


JOBSET = closed(JobsetV1alpha2JobSet.model_json_schema())


def manifest(line):
    return yaml.safe_load(heredocs(script(line))[0])


GKE = [line for name, line in LINES.items() if name.startswith("gke-run")]


@pytest.mark.parametrize("line", GKE)
def test_a_jobset_is_one_by_the_published_models(line):
    """Of the package kubeflow-trainer-api, made from JobSet's and Kubernetes' OpenAPI texts."""
    jsonschema.validate(manifest(line), JOBSET)


def test_that_check_fails_where_it_should():
    found = manifest(GKE[0])
    found["spec"]["replicatedJobs"][0]["template"]["spec"]["backofLimit"] = 0
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate(found, JOBSET)
    found = manifest(GKE[0])
    found["spec"]["failurePolicy"]["rules"][0].pop("action")
    with pytest.raises(jsonschema.ValidationError, match="action"):
        jsonschema.validate(found, JOBSET)


@pytest.mark.skipif("LLASA_CRDS" not in os.environ, reason="LLASA_CRDS names no folder of CRDs")
def test_all_manifests_are_what_the_clusters_definitions_ask_for():
    """As an API server checks them; Kueue's are published as CRDs only."""
    schemas = {}
    for path in Path(os.environ["LLASA_CRDS"]).glob("*.yaml"):
        for crd in yaml.safe_load_all(path.read_text()):
            for version in crd["spec"]["versions"]:
                kind = f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]
                schemas[kind] = version["schema"]["openAPIV3Schema"]
    queue = yaml.safe_load_all((ROOT / "launch/gke-queue.yaml").read_text())
    for found in [*queue, *(manifest(line) for line in GKE)]:
        schema = schemas[found["apiVersion"], found["kind"]]
        jsonschema.validate(found, {"additionalProperties": False} | closed(schema))


def test_the_queue_is_the_one_that_runs_ask_for():
    parts = list(yaml.safe_load_all((ROOT / "launch/gke-queue.yaml").read_text()))
    flavor, cluster, local = parts
    assert [p["kind"] for p in parts] == ["ResourceFlavor", "ClusterQueue", "LocalQueue"]
    (group,) = cluster["spec"]["resourceGroups"]
    assert group["flavors"][0]["name"] == flavor["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == cluster["metadata"]["name"]
    asked = manifest(GKE[0])
    assert asked["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    pod = asked["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert set(pod["containers"][0]["resources"]["requests"]) == set(group["coveredResources"])


def trained(text, way):
    """The training command that every process gets."""
    if way == "gke":
        found = yaml.safe_load(heredocs(text)[0])
        job = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        return job["containers"][0]["command"]
    if way == "skypilot":
        run = yaml.safe_load(heredocs(text)[0])["run"]
    elif way == "slurm":
        run = text.split("--label ")[1].split(" || status")[0]
    elif way == "tpu-vm":
        run = text.split("llasa:1 ")[1].split("\nsudo")[0]
    else:
        run = shlex.split(text.split("--command ")[1].split("\nxpk workload list")[0])[0]
    words = shlex.split(run)
    return words[next(i for i, word in enumerate(words) if word.endswith("llasa")) :]


WAYS = {"slurm": "gpu:1x8"} | dict.fromkeys(
    ("gke", "gcluster", "xpk", "skypilot", "tpu-vm"), "v6e:4x4"
)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=20, deadline=None)
@given(value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30))
def test_settings_arrive_as_they_are(way, value):
    given = ["--set", f"note={value}"]
    done = dry([way, "run", "paper", "llasa_1b", "--topology", WAYS[way], *given])
    assert done.returncode == 0, done.stderr
    command = trained(done.stdout, way)
    assert command[1:3] == ["train", "llasa_1b"] and command[-2:] == given


def test_the_same_line_is_the_same_run():
    """So it goes on where it stopped: its folder and checkpoints are those of its name."""
    command = trained(script(f"gke {PAPER}"), "gke")
    assert command[command.index("--out") + 1] == "/bucket/runs/paper-1b"
    assert "train.checkpoints=gs://my-bucket/runs/paper-1b/checkpoints" in command


@pytest.mark.parametrize(
    "line, message",
    [
        ("gke run Paper llasa_1b --topology v6e:4x4", "Paper: a name is a-z, 0-9 and -"),
        (f"gke run {'a' * 29} llasa_1b --topology v6e:4x4", "at most 28"),
        (
            "gke run paper llasa_9b --topology v6e:4x4",
            "llasa_9b: no language model, ladder or codec",
        ),
        (
            "gke run paper ../setup --topology v6e:4x4",
            "../setup: no language model, ladder or codec",
        ),
        ("gke run paper voice_speaker --topology v6e:4x4", "voice_speaker: no language model"),
        ("gke run paper llasa_1b", "run: expected NAME CONFIG --topology"),
        ("gke run paper llasa_1b --topology v9:4x4", "--topology v9:4x4: expected a chip"),
        ("gke run paper llasa_1b --topology v6e:4x4x4", "a grid of v6e has 2 sides"),
        ("gke run paper llasa_1b --topology v6e:3x3", "9 chips do not fill hosts of 4"),
        ("gke run paper llasa_1b --topology v6e:4x4 --slices 0", "--slices: 0 is not positive"),
        ("gke run paper llasa_1b --topology gpu:4x8", "gke: does not have gpu"),
        ("slurm run paper llasa_1b --topology v6e:4x4", "slurm: does not have v6e"),
        ("slurm run paper llasa_1b --topology gpu:4x8 --spot", "has neither --spot nor --slices"),
        ("skypilot run paper llasa_1b --topology tpu7x:4x4x4", "does not have tpu7x; take gke"),
        ("skypilot run paper llasa_1b --topology v6e:4x4 --slices 2", "starts single slices"),
        ("tpu-vm run paper llasa_1b --topology tpu7x:4x4x4", "does not have tpu7x; take gke"),
        ("xpk run paper llasa_1b --topology v6e:4x4 --spot", "node pools decide on spot"),
        ("gke run paper llasa_1b --topology v6e:4x4 --set 'a=1\n2'", "a setting is one line"),
        ("gke logs", "logs: which run? give its NAME"),
        ("gke stop paper", "invalid choice: 'stop'"),
        ("borg list", "invalid choice: 'borg'"),
    ],
)
def test_what_cannot_be_is_one_line(line, message):
    done = dry(shlex.split(line))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("llasa: error: ") and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("value", ["", "a bucket", "b; rm -rf /", "b'", "$(id)", "-x", "b\nc"])
def test_the_environment_is_named_and_never_read_by_a_shell(value):
    done = dry(["gke", "run", "p", "llasa_1b", "--topology", "v6e:4x4"], BUCKET=value)
    assert done.returncode == 2 and done.stderr.startswith("llasa: error: BUCKET: ")


@pytest.fixture
def tools(tmp_path):
    """Stand-ins for the clouds' commands, on PATH before all others."""
    folder = tmp_path / "tools"
    folder.mkdir()

    def make(name, text):
        (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {tmp_path}/log\n{text}\n')
        (folder / name).chmod(0o755)

    environment = ENVIRONMENT | {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / "launch/render.py")]
    make.run = lambda line: subprocess.run(command + line.split(), env=environment)
    make.log = lambda: (tmp_path / "log").read_text()
    return make


@pytest.mark.parametrize("state, status", [("Completed", 0), ("Failed", 1)])
def test_a_jobset_that_failed_fails_the_command(tools, tmp_path, state, status):
    """An earlier end of the same name is removed; the manifest comes by standard input."""
    tools(
        "kubectl",
        f"case \"$*\" in *apply*) cat > {tmp_path}/applied ;; *'get jobset'*) echo {state} ;; esac",
    )
    assert tools.run(f"gke {PAPER}").returncode == status
    assert yaml.safe_load((tmp_path / "applied").read_text())["kind"] == "JobSet"
    order = re.findall(r" (delete|apply|wait) ", tools.log())
    assert order == ["delete", "apply", "wait"]


@pytest.mark.parametrize(
    "name, way", [("gcluster", "gcluster"), ("xpk", "xpk"), ("sky", "skypilot")]
)
def test_a_tool_that_fails_fails_the_command(tools, name, way):
    tools(name, "case \"$*\" in *await*|*wait-for*|*'jobs launch'*) exit 3 ;; esac")
    assert tools.run(f"{way} {PAPER}").returncode == 3


@pytest.mark.parametrize("statuses, status", [((0, 0, 0, 0), 0), ((0, 0, 1, 0), 1), ((0, 0, 0), 1)])
def test_one_worker_of_a_tpu_vm_that_fails_fails_the_command(tools, statuses, status):
    ends = "; ".join(f"echo llasa ended with {number}" for number in statuses)
    tools("gcloud", f'case "$*" in *describe*) echo ACTIVE ;; *ssh*) {ends} ;; esac')
    assert tools.run(f"tpu-vm {PAPER}").returncode == status
    assert "create" not in tools.log()  # it is there already


def test_a_tpu_vm_that_was_taken_away_is_ordered_again(tools, tmp_path):
    tools(
        "gcloud",
        f"""case "$*" in
        *delete*) touch {tmp_path}/deleted ;;
        *create*) touch {tmp_path}/created ;;
        *describe*)
          if [ -e {tmp_path}/created ]; then echo ACTIVE
          elif [ ! -e {tmp_path}/deleted ]; then echo SUSPENDED; fi ;;
        *ssh*) for i in 1 2 3 4; do echo llasa ended with 0; done ;;
        esac""",
    )
    assert tools.run(f"tpu-vm {PAPER} --spot").returncode == 0
    assert re.findall(r"resources (delete|create|ssh) ", tools.log()) == ["delete", "create", "ssh"]
    assert "--spot" in tools.log()


def test_what_every_tpu_vm_runs(tools, tmp_path):
    """The worker's own script, docker and gcloud stood in for: it ends as the container does."""
    text = script(f"tpu-vm {PAPER}")
    (worker,) = heredocs(text)
    for name, answer in {"sudo": '"$@"', "gcloud": "", "hostname": "echo t1v-w-0"}.items():
        tools(name, answer)
    tools("docker", "case $1 in start) exit 1 ;; wait) echo 75 ;; logs) echo step 1 ;; esac")
    path = {"PATH": f"{tmp_path}/tools:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", worker], env=path, capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    assert done.stdout.splitlines() == ["t1v-w-0: step 1", "llasa ended with 75"]
    assert "docker run --detach --name paper-1b" in tools.log()
    assert tools.log().splitlines()[-1].endswith("/llasa gs://my-bucket")  # worker 0 copies up


@pytest.mark.parametrize("status, requeued", [(0, False), (1, False), (75, True)])
def test_a_slurm_job_that_saved_is_queued_again(tools, tmp_path, status, requeued):
    """The batch script itself, with srun stood in for."""
    (batch,) = heredocs(script("slurm run paper-1b llasa_1b --topology gpu:4x8"))
    tools("srun", f"exit {status}")
    tools("scontrol", "")
    environment = {"PATH": f"{tmp_path}/tools:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-eu", "-c", batch], env=environment)
    assert done.returncode == status and ("scontrol requeue 7" in tools.log()) == requeued


def test_the_scripts_name_their_python(tmp_path):
    """`launch/pod.sh` takes the one of .venv where there is one."""
    root = tmp_path / "a checkout"
    for folder in ("launch", "configs"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / ".venv/bin").mkdir(parents=True)
    python = root / ".venv/bin/python"
    python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    words = ["bash", str(root / "launch/pod.sh"), *f"gke {PAPER} --dry-run".split()]
    environment = {"PATH": os.environ["PATH"]} | ENVIRONMENT
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == script(f"gke {PAPER}"), done.stderr


def test_the_image_is_made_of_what_there_is():
    text = (ROOT / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)", text, re.M) for word in line.split()[:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert set(re.findall(r"--requirement (\S+)", text)) <= set(copied)
