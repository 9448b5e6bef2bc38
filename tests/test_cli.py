"""The command's manners: one line and status 2 for bad input, results alone on stdout."""

import signal
import subprocess
import sys

import pytest

from llasa_jax import __version__
from llasa_jax.cli import main


@pytest.fixture(autouse=True)
def handler():
    """`main` takes over SIGTERM; the tests' own process gets it back."""
    old = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, old)


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: COMMAND; see `llasa --help`"),
        ("sing", "invalid choice: 'sing'"),
        ("codec", "the following arguments are required: PART; see `llasa codec --help`"),
        ("codec encode", "required: inputs, --out; see `llasa codec encode --help`"),
        ("codec encode a.wav --out o --beams 3", "unrecognized arguments: --beams 3"),
        ("say", "say: give a text, or --file FILE"),
        ("say hello --candidates many", "argument --candidates: invalid int value: 'many'"),
        ("quickstart --minutes soon", "argument --minutes: invalid float value: 'soon'"),
        ("codec encode {here}/a.wav --model {here}/none --out {here}/o", "no model in {here}/none"),
        ("codec decode {here}/a.npy --model {here}/none --out {here}/o", "no model in {here}/none"),
        ("say hello --model {here}/none -o {here}/o.wav", "no model in {here}/none"),
        ("codec train nowhere --store {here}/s --out {here}/o", "config nowhere: not found"),
        (
            "codec train quickstart_lm --store {here}/s --out {here}/o",
            "is a DecoderRun, this command takes CodecRun",
        ),
        (
            "codec train quickstart_codec --set codec.hops=2 --store {here}/s --out {here}/o",
            "--set codec.hops: unknown setting",
        ),
        ("codec train quickstart_codec --store {here}/s --out {here}/o", "{here}/s"),
        ("data prepare {here}/none --out {here}/o", "none"),
        ("data prepare {here}/s --model {here}/none --out {here}/o", "no model in {here}/none"),
        ("data prepare quickstart_lm --model {here}/none --out {here}/o", "takes DataRun"),
        ("data prepare nano --out {here}/o --set row=64", "name the codec's --model"),
        ("train quickstart_lm --tokens {here}/t --model {here}/none --out {here}/o", "no model in"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, monkeypatch, line, message):
    monkeypatch.setenv("LLASA_CACHE", str(tmp_path / "cache"))
    status = main([word.replace("{here}", str(tmp_path)) for word in line.split()])
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    (error,) = [x for x in captured.err.splitlines() if x.startswith("llasa: error: ")]
    assert message.replace("{here}", str(tmp_path)) in error
    assert "Traceback" not in captured.err
    assert not any(tmp_path.iterdir())  # nothing half-written


def test_a_mistyped_corpus_does_not_claim_the_folder(tmp_path, capsys):
    for name in ("quickstrat", "quickstart-synthetc"):
        assert main(["quickstart", "--corpus", name, "--out", str(tmp_path / "o")]) == 2
        assert f"no corpus '{name}'" in capsys.readouterr().err


def test_debug_shows_the_traceback_as_well(capsys):
    assert main(["codec", "decode", "a", "--out", "o", "--model", "none", "--debug"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and "\nllasa: error: no model in none" in error


def test_an_interruption_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("llasa_jax.recipes.files.encode_files", interrupted)
    assert main(["codec", "encode", "a.wav", "--out", "o"]) == 130
    assert capsys.readouterr().err == (
        "llasa: interrupted; run the same command again to continue\n"
    )


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["codec", "encode", "--help"]])
def test_help_goes_to_stdout(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    if arguments == ["--version"]:
        assert captured.out == f"llasa {__version__}\n"
    else:
        assert captured.out.startswith("usage: llasa")


def test_the_module_is_the_command():
    done = run("-m", "llasa_jax", "sing")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("llasa: error: ")


def test_help_comes_without_jax():
    code = """
import runpy, sys
sys.argv = ["llasa", "--help"]
try:
    runpy.run_module("llasa_jax", run_name="__main__")
except SystemExit as exit:
    assert exit.code == 0
heavy = {"jax", "flax", "numpy", "librosa", "torch", "transformers", "tensorflow"}
print("loaded:", sorted(heavy & set(sys.modules)))
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("loaded: []\n")
