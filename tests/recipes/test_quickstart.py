"""The main job through the real command line, on a corpus of a few seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llasa_jax.audio.io import read_audio

pytestmark = pytest.mark.timeout(900)  # the whole path, compiled stage by stage


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "llasa_jax", *map(str, arguments)]


def llasa(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def run(speech_corpus, tmp_path_factory) -> Path:
    """A finished run that was interrupted once on the way."""
    out = tmp_path_factory.mktemp("runs") / "quickstart"
    arguments = ("quickstart", "--corpus", speech_corpus, "--minutes", 0.1, "--out", out)
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True) as first:
        while not (out / "speaker").is_dir() and first.poll() is None:
            time.sleep(0.2)
        os.kill(first.pid, signal.SIGTERM)
        log = first.stderr.read()
    assert first.returncode in (75, 130), log  # 75: in the midst of a training
    done = json.loads((out / "stages.json").read_text())
    assert "result" in done["recogniser"]
    again = llasa(*arguments)
    assert again.returncode == 0, again.stderr
    assert "recogniser: done before" in again.stderr
    return out


def test_report_holds_every_figure(run):
    report = json.loads((run / "report.json").read_text())
    assert 0 <= report["codec"]["stoi"]["recorded"] <= 1
    assert report["codec"]["wer_ratio"] is None or report["codec"]["wer_ratio"] > 0
    for name in ("valid_nats", "unigram_nats", "bigram_nats"):
        assert 0 < report["lm"][name] < 12
    assert 0 <= report["lm"]["stopped_share"] <= 1
    points = report["search"]["points"]
    assert [point["n"] for point in points] == [1, 4, 16]
    for point in points:
        assert {"judge", "judge_wer", "judge_wer_interval", "similarity", "seconds"} <= set(point)
    assert report["search"]["judges"] == ["judge", "ge2e"]
    assert not set(report["search"]["judges"]) & set(report["search"]["verifiers"])
    assert report["corpus"]["rejects"] == {"broken": 1}
    assert report["seconds"]["total"] > 0 and report["peak_memory_gib"] > 0


def test_selection_takes_the_higher_combined_score_of_a_larger_pool(run):
    for path in (run / "search").glob("*.json"):
        record = json.loads(path.read_text())
        assert len(record["candidates"]) == 16
        ok = [c["status"] == "ok" for c in record["candidates"]]
        if all(ok):
            best = max(range(16), key=lambda i: record["candidates"][i]["combined"])
            assert record["choices"]["16"] == best


def test_page_is_whole_and_escapes_names(run):
    page = (run / "report.html").read_text()
    assert "<script>" not in page
    assert "data:audio" in page and "http://" not in page and "https://" not in page


def test_a_finished_run_is_not_run_again_and_not_mixed_with_another(run, speech_corpus):
    start = time.monotonic()
    again = llasa("quickstart", "--corpus", speech_corpus, "--minutes", 0.1, "--out", run)
    assert again.returncode == 0 and "report: done before" in again.stderr
    other = llasa(
        "quickstart", "--corpus", speech_corpus, "--minutes", 0.1, "--out", run, "--seed", 1
    )
    assert other.returncode == 2 and other.stderr.count("llasa: error:") == 1
    assert time.monotonic() - start < 60


def test_say_writes_sound_and_prints_its_record(run, tmp_path):
    out = tmp_path / "out.wav"
    arguments = ("say", "amber bell", "--model", run, "-o", out, "--candidates", 2, "--json")
    spoken = llasa(*arguments)
    assert spoken.returncode == 0, spoken.stderr
    record = json.loads(spoken.stdout)
    wave, rate = read_audio(out)
    assert rate == 16000 and len(wave) / rate == pytest.approx(record["audio_seconds"])
    assert set(record["searches"][0]["candidates"][0]["scores"]) == {"content", "speaker"}
    first = out.read_bytes()
    assert llasa(*arguments).returncode == 0
    assert out.read_bytes() == first  # the same seed gives the same bytes


def test_codec_files_there_and_back(run, speech_corpus, tmp_path):
    encoded = llasa(
        "codec", "encode", speech_corpus / "low", "--model", run, "--out", tmp_path / "codes"
    )
    assert encoded.returncode == 0, encoded.stderr
    assert "20 files written" in encoded.stderr and "1 left out" in encoded.stderr
    codes = np.load(tmp_path / "codes" / "3.npy")
    wave, _ = read_audio(speech_corpus / "low" / "3.wav")
    assert len(codes) == len(wave) // 320
    decoded = llasa(
        "codec", "decode", tmp_path / "codes" / "3.npy", "--model", run, "--out", tmp_path / "waves"
    )
    assert decoded.returncode == 0, decoded.stderr
    assert len(read_audio(tmp_path / "waves" / "3.wav")[0]) == 320 * len(codes)


@pytest.mark.parametrize(
    "arguments",
    [
        ("say", "...!"),
        ("say", "hello", "--voice", "nobody"),
        ("say", "hello", "-o", "out.mp4"),
        ("say", "hello", "--candidates", 0),
    ],
)
def test_what_cannot_be_said_is_one_line(run, arguments, tmp_path):
    refused = subprocess.run(
        command(*arguments, "--model", run), capture_output=True, text=True, cwd=tmp_path
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("llasa: error: ") and refused.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_another_configurations_model_is_refused(run, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for path in (run / "model").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    (model / "lm.safetensors").write_bytes((model / "codec.safetensors").read_bytes())
    refused = llasa("say", "hello", "--model", model, "-o", tmp_path / "out.wav")
    assert refused.returncode == 2 and "lm.safetensors" in refused.stderr


@pytest.mark.parametrize("kind", ["empty", "text only", "missing"])
def test_an_unusable_corpus_is_one_line(kind, tmp_path):
    folder = tmp_path / "corpus"
    if kind != "missing":
        folder.mkdir()
    if kind == "text only":
        (folder / "a.txt").write_text("hello")
    refused = llasa("quickstart", "--corpus", folder, "--out", tmp_path / "run", "--minutes", 0.1)
    assert refused.returncode == 2
    assert refused.stderr.count("llasa: error:") == 1
