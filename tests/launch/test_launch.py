"""The launch scripts, with a stand-in for the Python in .venv that notes how it is called."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FAKE_PYTHON = """#!/bin/bash
here="$(dirname "$0")"
case "$*" in
"-m pip --version") [ ! -e "$here/no-pip" ] ;;
"-m ensurepip") exit 1 ;;
"-c import pip"*) echo "$here/pip" ;;
*"pip install --quiet --no-index"*) rm "$here/no-pip"; echo "$*" >> "$here/log" ;;
"-m pip install"*)
  echo "$*" >> "$here/log"; echo "Collecting one"; echo "Installing collected packages: one"
  [ ! -e "$here/pip-fails" ] || { echo "ERROR: no such version" >&2; exit 1; } ;;
"-m "*) echo "$*" >> "$here/log" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "a checkout"
    for folder in ("launch", "bench"):
        shutil.copytree(ROOT / folder, root / folder)
    for path in [ROOT / "pyproject.toml", *ROOT.glob("requirements*.txt")]:
        shutil.copy(path, root)
    binaries = root / ".venv/bin"
    binaries.mkdir(parents=True)
    for name, text in {
        "python": FAKE_PYTHON,
        "llasa": '#!/bin/bash\nprintf "[%s]" "$@"\npwd\n',
    }.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def run(script, *arguments):
        command = ["bash", str(root / "launch" / script), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    def log():
        path = binaries / "log"
        lines = path.read_text().replace(str(root), "ROOT").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    return SimpleNamespace(root=root, bin=binaries, run=run, log=log, environment=environment)


def test_quickstart_installs_once_and_passes_its_arguments(checkout, tmp_path):
    done = checkout.run("quickstart.sh", "--out", "my runs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"[quickstart][--out][my runs]{tmp_path}"
    packages, itself = checkout.log()
    assert packages.endswith("-r ROOT/requirements.txt")
    assert itself.endswith("--no-deps -r ROOT/requirements-nodeps.txt -e ROOT")
    assert "minutes" in done.stderr and "unpacking 1 packages" in done.stderr

    again = checkout.run("quickstart.sh")
    assert again.stderr == "" and checkout.log() == []

    with (checkout.root / "requirements.txt").open("a") as file:
        file.write("one==2\n")
    assert checkout.run("quickstart.sh").returncode == 0 and len(checkout.log()) == 2


def test_a_failed_installation_is_tried_again(checkout):
    (checkout.bin / "pip-fails").touch()
    done = checkout.run("quickstart.sh")
    assert done.returncode == 2 and done.stdout == ""
    assert "ERROR: no such version" in done.stderr and "llasa: error: cannot install" in done.stderr
    (checkout.bin / "pip-fails").unlink()
    assert checkout.run("quickstart.sh").returncode == 0 and len(checkout.log()) == 3


def test_the_default_suite_needs_no_torch(checkout):
    done = checkout.run("test.sh", "-k", "a or b")
    assert done.returncode == 0, done.stderr
    *installs, check, layout, tests = checkout.log()
    assert not any("torch" in line or "parity" in line for line in installs)
    assert check == "-m ruff check ." and layout == "-m ruff format --check ."
    assert tests.startswith("-m pytest -n ") and tests.endswith(" -k a or b")


def test_parity_installs_torch_before_transformers(checkout):
    assert checkout.run("test.sh", "--parity").returncode == 0
    lines = checkout.log()
    torch = next(i for i, line in enumerate(lines) if " torch==" in line)
    assert lines[torch + 1].endswith("-r ROOT/requirements-parity.txt")
    assert lines[torch + 2].endswith("-r ROOT/requirements-plan.txt")
    assert lines[-1].endswith(" --parity")


def trains(checkout, *, logs="$*", more=""):
    """An installed checkout with a shipped model, whose `llasa` makes its results' folders."""
    (checkout.bin / "llasa").write_text(
        f'#!/bin/bash\necho "{logs}" >> "$(dirname "$0")/log"\n{more}'
        'while [ $# -gt 0 ]; do [ "$1" = --out ] && mkdir -p "$2/model"; shift; done\n'
    )
    shipped = checkout.root / "llasa_jax/nano"
    shipped.mkdir(parents=True)
    (shipped / "sampling.json").write_text("{}")
    checkout.run("quickstart.sh")
    checkout.log()


def test_the_voice_is_trained_part_by_part_and_goes_on(checkout):
    made = "run/model/{codec,recogniser,speaker}.safetensors run/model/tokenizer.json"
    trains(checkout, logs="$1 $2", more=f'[ "$1" = codec ] && touch {made}\n')
    listen = ["train voice_teacher", "train voice_recogniser", "train voice_speaker"]
    parts = [*listen, "codec train"]
    always = ["data prepare", "convert run/model", "voices add"]
    distilled = ["voices add", "data distil", "train voice_distil"]
    done = checkout.run("voice.sh", "run")
    assert done.returncode == 0, done.stderr
    language = ["train voice_lm", "train voice_guided"]
    assert checkout.log() == [
        "data prepare",
        *parts,
        always[0],
        *language,
        *distilled,
        *always[1:],
    ]
    assert [path.name for path in (checkout.root / "run").glob("nano*")] == ["nano"]
    (checkout.root / "run/corpus/store.json").touch()
    made = [f"model/{name}" for name in ("recogniser", "speaker", "codec", "lm")]
    for name in [*made, "teacher/model/recogniser", "first/lm", "second/lm"]:
        (checkout.root / f"run/{name}.safetensors").touch()
    (checkout.root / "run/second/voices").mkdir()
    (checkout.root / "run/takes/data.json").touch()
    assert checkout.run("voice.sh", "run").returncode == 0
    assert checkout.log() == always


def test_the_dutch_voice_goes_on_and_is_judged_by_another_half(checkout):
    trains(checkout)
    done = checkout.run("dutch.sh", "run")
    assert done.returncode == 0, done.stderr
    lines = checkout.log()
    assert [" ".join(line.split()[:2]) for line in lines] == [
        *("data prepare", "codec train", "train dutch_recogniser", "train quickstart_speaker"),
        *("data prepare", "data prepare", "data prepare", "train dutch_lm"),
        *("train quickstart_judge", "train dutch_judge", "eval tts", "eval tts"),
    ]
    assert all("--scorer recogniser=run/judge/model" in line for line in lines[-2:])
    begun = [line for line in lines if "--init llasa_jax/nano" in line]
    assert len(begun) == 3 and "--init run/judge-en" in lines[-3]
    for name in ("corpus/store.json", "english/store.json"):
        (checkout.root / "run" / name).touch()
    for name in ("codec", "recogniser", "speaker", "lm"):
        (checkout.root / f"run/model/{name}.safetensors").touch()
    for name in ("judge-en", "judge"):
        (checkout.root / f"run/{name}/model/recogniser.safetensors").touch()
    assert checkout.run("dutch.sh", "run").returncode == 0
    assert checkout.log() == [*lines[5:7], *lines[-2:]]


def test_without_ensurepip_pip_comes_out_of_debians_package(checkout, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    wheel = "usr/share/python-wheels/pip-1-py3-none-any.whl"
    for name, text in {
        "apt-get": 'case "$*" in *download*) touch python3-pip-whl_1.deb ;; *) exit 1 ;; esac',
        "dpkg-deb": f'mkdir -p "$(dirname {wheel})" && touch {wheel}',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    checkout.environment["PATH"] = f"{tools}:{checkout.environment['PATH']}"
    (checkout.bin / "no-pip").touch()
    done = checkout.run("quickstart.sh")
    assert done.returncode == 0, done.stderr
    assert "pip-1-py3-none-any.whl/pip install --quiet --no-index" in checkout.log()[0]


def test_no_python_is_one_line(checkout, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").write_text("#!/bin/bash\nexit 1\n")  # one that is too old
    (tools / "python3").chmod(0o755)
    shutil.rmtree(checkout.root / ".venv")
    checkout.environment["PATH"] = str(tools)
    done = checkout.run("quickstart.sh")
    assert done.returncode == 2 and done.stderr.startswith("llasa: error: no Python 3.11 or newer")
    assert len(done.stderr.splitlines()) == 1 and not (checkout.root / ".venv").exists()


@pytest.fixture
def gpu(checkout, tmp_path):
    """A machine with a GPU, as far as the script can see."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/bash\necho name, driver_version\n")
    (tools / "nvidia-smi").chmod(0o755)
    checkout.environment["PATH"] = f"{tools}:{checkout.environment['PATH']}"
    return checkout


def test_the_gpu_script_trains_measures_and_keeps_its_numbers(gpu):
    done = gpu.run("../bench/gpu.sh", "90")
    assert done.returncode == 0, done.stderr
    installed = "\n".join(gpu.log())
    assert " jax[cuda13]==" in installed and " torch==" in installed
    assert "requirements-eval.txt" in installed
    prepare, train = done.stdout.splitlines()
    assert prepare.startswith("[data][prepare][nano][--out][runs/gpu/corpus]")
    assert "[codec][train][nano_codec]" in train and "[--minutes][90]" in train
    results = gpu.root / "results/gpu"
    assert (results / "gpu.txt").read_text() == "name, driver_version\n"
    assert (results / "eval.json").read_text().startswith("[eval][codec]")
    assert "[--batch][16][--json]" in (results / "bench-16.json").read_text()
    large = "[bench][train][--model-size][1b][--json]"
    assert (results / "train-1b.json").read_text().startswith(large)


def test_the_gpu_script_keeps_no_half_results(gpu):
    (gpu.bin / "llasa").write_text('#!/bin/bash\n[ "$1" != bench ] || exit 2\n')
    assert gpu.run("../bench/gpu.sh").returncode == 2
    assert [path.name for path in (gpu.root / "results/gpu").iterdir()] == ["gpu.txt"]


@pytest.mark.parametrize(
    "arguments, message",
    [([], "no NVIDIA driver"), (["soon"], "bench/gpu.sh soon: expected whole minutes")],
)
def test_the_gpu_script_refuses_in_one_line(checkout, arguments, message):
    done = checkout.run("../bench/gpu.sh", *arguments)
    assert done.returncode == 2 and done.stderr.startswith(f"llasa: error: {message}")
    assert len(done.stderr.splitlines()) == 1 and checkout.log() == []


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {one.name.lower().replace("_", "-"): one for one in found}


@pytest.mark.parametrize(
    "extra, file", [(None, "requirements"), ("test", "requirements-test"),
                    ("parity", "requirements-parity"), ("eval", "requirements-eval"),
                    ("browser", "requirements-browser"), ("docs", "requirements-docs")]
)  # fmt: skip
def test_pins_satisfy_what_the_package_asks_for(extra, file):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["optional-dependencies"][extra] if extra else project["dependencies"]
    pinned = pins(f"{file}.txt")
    for line in asked:
        requirement = Requirement(line)
        exact = pinned[requirement.name.lower().replace("_", "-")]
        (version,) = exact.specifier
        assert version.operator == "==" and requirement.specifier.contains(version.version), line


def test_the_check_of_every_change_is_the_parity_suite():
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "bash launch/test.sh --parity"


@pytest.fixture
def paper(checkout):
    """A checkout with stand-ins for `llasa` and for what fetches."""
    (checkout.bin / "llasa").write_text(
        '#!/bin/bash\necho "$*" >> "$(dirname "$0")/log"\nout=; sort="$1 $2"\n'
        'while [ $# -gt 0 ]; do [ "$1" = --out ] && out="$2"; shift; done\n'
        'case "$sort" in convert*) mkdir -p "$out"\n'
        'case "$sort" in *xcodec2) part=codec ;; *) part=lm ;; esac\n'
        'touch "$out/$part.safetensors" ;; "eval paper") echo table ;; "plan"*) echo {} ;; esac\n'
    )
    (checkout.bin / "hf").write_text(
        '#!/bin/bash\necho "hf $2" >> "$(dirname "$0")/log"\nmkdir "$4"\n'
    )
    (checkout.bin / "hf").chmod(0o755)
    checkout.run("quickstart.sh")
    checkout.log()
    weights = checkout.root / "run/weights"
    weights.mkdir(parents=True)
    (weights / "wavlm_large_finetune.pth").touch()
    (checkout.root / "run/seedtts_testset").mkdir()
    return checkout


def test_the_paper_is_fetched_once_spoken_and_compared(paper):
    done = paper.run("paper.sh", "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "table"
    lines = paper.log()
    fetched = [line for line in lines if line.startswith("hf")]
    assert fetched == [
        "hf HKUSTAudio/Llasa-1B",
        "hf HKUSTAudio/Llasa-3B",
        "hf HKUSTAudio/Llasa-8B",
        "hf HKUSTAudio/xcodec2-hf",
        "hf openai/whisper-large-v3",
    ]
    converted = [line for line in lines if line.startswith("convert")]
    assert converted[:2] == [
        "convert run/weights/xcodec2 --out run/models/llasa-1b",
        "convert run/weights/llasa-1b --out run/models/llasa-1b",
    ]
    spoken = [line for line in lines if line.startswith("eval tts")]
    assert [line.split()[2] for line in spoken] == [
        f"run/seedtts_testset/{name}.lst" for name in ("en/meta", "zh/meta", "zh/hardcase")
    ]
    assert all(line.count("--model run/models/llasa-") == 3 for line in spoken)
    assert "--select whisper-wer" in spoken[0] and "truth,codec,direct" in spoken[0]
    assert "--scorer paraformer " in spoken[1] and "truth" not in spoken[2]
    assert lines[-1] == "eval paper run"

    again = paper.run("paper.sh", "run")
    assert again.returncode == 0
    assert not [line for line in paper.log() if line.startswith(("hf", "convert"))]


def test_the_paper_script_does_less_when_asked_and_refuses_what_it_does_not_know(paper):
    paper.environment |= {"PAPER_MODELS": "llasa-1b", "PAPER_SETS": "en", "PAPER_OPTIONS": "--x 2"}
    assert paper.run("paper.sh", "run").returncode == 0
    (spoken,) = (line for line in paper.log() if line.startswith("eval tts"))
    assert spoken.endswith("--out run/results/en --x 2") and spoken.count("--model") == 1
    paper.environment["PAPER_SETS"] = "nl"
    done = paper.run("paper.sh", "run")
    assert done.returncode == 2 and "PAPER_SETS: nl is none of en" in done.stderr
    (paper.bin / "hf").write_text("#!/bin/bash\nexit 1\n")
    shutil.rmtree(paper.root / "run/weights/whisper-large-v3")
    done = paper.run("paper.sh", "run")
    assert done.returncode == 2 and "cannot fetch openai/whisper-large-v3" in done.stderr
