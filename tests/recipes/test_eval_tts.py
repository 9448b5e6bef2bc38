"""`llasa eval tts` and `compare` with a tiny model of random weights, through the command line."""

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from llasa_jax.audio.io import read_audio, write_audio
from llasa_jax.cli import main
from llasa_jax.errors import UserError
from llasa_jax.evaluation import scorers
from llasa_jax.recipes import eval_tts as recipe
from llasa_jax.recipes.talking import TalkSettings, split_text

HOSTILE = "<script>alert(1)</script> words"
LINES = (
    "a|said before|p.wav|one small bird|t.wav",
    f"b|{HOSTILE}",
    "c|said before|gone.wav|two tall trees",
    "d|said before|broken.wav|a grey stone",
    "e|so|p.wav|no words",
    "a|again",
    "only one",
    "f|",
)
SMALL = ["--candidates", "2", "--beams", "2", "--step-codes", "8", "--prefix-seconds", "0.3"]


def tone(seconds, pitch):
    return (0.2 * np.sin(np.arange(int(16000 * seconds)) * pitch)).astype(np.float32)


@pytest.fixture
def listed(tmp_path):
    write_audio(tmp_path / "p.wav", tone(0.5, 0.1), 16000)
    write_audio(tmp_path / "t.wav", tone(0.7, 0.2), 16000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF nonsense")
    path = tmp_path / "meta.lst"
    path.write_text("\n".join(LINES))
    return path


@pytest.fixture
def run(speaking_model, listed, tmp_path, capsys):
    def command(*more, status=1, out="out"):
        words = [
            "eval",
            "tts",
            listed,
            "--model",
            speaking_model,
            "--out",
            tmp_path / out,
            "--json",
        ]
        assert main([str(word) for word in (*words, *SMALL, *more)]) == status
        captured = capsys.readouterr()
        return (json.loads(captured.out) if captured.out else None), captured.err

    return command


OWN = ("--scorer", "content", "--scorer", "speaker")


def test_a_list_is_spoken_judged_and_goes_on_where_it_stopped(run, tmp_path, monkeypatch):
    ways = ("--strategy", "direct,partial,partial+best-of,truth,codec")
    found, told = run(*ways, *OWN)
    assert [one["line"] for one in found["refused"]] == [6, 7, 8]
    assert "line 6: refused: its id stands on an earlier line, too" in told
    by_name = {one["strategy"]: one for one in found["runs"]}
    assert list(by_name) == ["direct", "partial", "partial+best-of", "truth", "codec"]
    direct = by_name["direct"]
    assert direct["utterances"] == 5 and direct["without_sound_ids"] == ["c", "d"]
    assert any("gone.wav" in why for why in direct["why"])
    words = direct["scores"]["content"]
    assert words["original_utterances"] == 3 and words["rate"]["n"] == 5
    assert direct["scores"]["speaker"]["o"]["n"] == 2  # b has no voice
    assert by_name["truth"]["without_sound"] == 4  # a alone has a recording of its text
    partial = by_name["partial"]
    assert partial["chosen_by"] == ["speaker"] and partial["without_sound_ids"] == ["b", "c", "d"]
    assert any("needs a wave of the voice" in why for why in partial["why"])
    titles = {(one["against"], one["of"]) for one in found["differences"]}
    assert ("model, direct", "model, partial") in titles or len(titles) == 10
    assert 0 <= found["timing"]["overhead"] < 1 and "speak" in found["timing"]["parts_s"]

    out = tmp_path / "out"
    page = (out / "tts.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "data:audio/mpeg" in page
    assert "Ye et al. 2025" in page and "took part in choosing" in page and "line 7" in page
    (label,) = (path for path in out.iterdir() if path.is_dir())
    kept = (out / "summary.json").read_bytes()
    wave, rate = read_audio(label / "direct" / "waves" / "a.wav")
    assert rate == 16000 and len(wave) > 0
    assert len((label / "direct" / "utterances.jsonl").read_text().splitlines()) == 5

    # The same again draws nothing; with one utterance lost, the same comes out.
    monkeypatch.setattr(recipe.Talker, "engine", lambda self, strategies: 1 / 0)
    run(*ways, *OWN)
    assert (out / "summary.json").read_bytes() == kept
    monkeypatch.undo()
    (label / "partial" / "rows" / "a.json").unlink()
    (label / "direct" / "rows" / "e.json").write_text("{}")
    assert "made again" in run(*ways, *OWN)[1]
    assert (out / "summary.json").read_bytes() == kept

    # Another judge hears what is there; another configuration is refused by name.
    monkeypatch.setattr(recipe.Talker, "engine", lambda self, strategies: 1 / 0)
    monkeypatch.setattr(scorers, "Dnsmos", Quality)
    monkeypatch.setitem(scorers.PACKAGES, "dnsmos", "numpy")  # an optional package's version
    more, _ = run(*ways, *OWN, "--scorer", "dnsmos")
    assert more["runs"][0]["scores"]["dnsmos"]["value"]["n"] == 3
    _, told = run("--strategy", "direct", *OWN, "--seed", "1", status=2)
    assert "another configuration: settings" in told
    compared(label, tmp_path)


class Quality:
    def scores(self, waves, text=""):
        return np.array([np.nan if len(wave) < 1 else 3.0 for wave in waves], np.float32)


def compared(label, tmp_path):
    """`llasa eval compare` of two of the runs, of a partial one, and of none."""
    direct, partial = label / "direct", label / "partial"

    def compare(one, other, status=0):
        assert main(["eval", "compare", str(one), str(other), "--json"]) == status

    from contextlib import redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()) as said:
        compare(direct, partial)
    found = json.loads(said.getvalue())
    assert found["differs"] == ["chosen_by", "settings"] and found["partial"] == {}
    assert "content rate" in found["differences"][0]["scores"]
    half = tmp_path / "half"
    shutil.copytree(partial, half)
    (half / "utterances.jsonl").unlink()
    (half / "rows" / "e.json").unlink()
    with redirect_stdout(StringIO()) as said:
        compare(direct, half)
    found = json.loads(said.getvalue())
    assert found["partial"] == {"half": 4}  # runs are called by what tells their folders apart
    assert found["differences"][0]["only_in"][str(direct.relative_to(tmp_path))] == 1
    compare(direct, tmp_path, status=2)
    (half / "run.json").write_text("[]")
    compare(half, direct, status=2)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--scorer", "nobody"], "unknown, there are: whisper"),
        (["--scorer", "whisper"], "say whisper=PATH"),
        (["--scorer", "wavlm=nowhere.pth"], "no weights there"),
        (["--scorer", "content", "--scorer", "content"], "twice"),
        (["--strategy", "guess", "--scorer", "content"], "give some of direct"),
        (["--scorer", "content", "--chunk", "0"], "number of characters"),
        (["--scorer", "content", "--lead", "ear", "--strategy", "partial"], "unknown"),
        ([], "who judges"),
    ],
)
def test_bad_settings_are_refused_in_one_line(run, words, message):
    _, told = run(*words, status=2)
    assert message in told and len(told.strip().splitlines()) <= 4


def test_models_of_one_name_are_refused(listed, speaking_model, tmp_path):
    with pytest.raises(UserError, match="rename one"):
        recipe.eval_tts(
            str(listed),
            [speaking_model, speaking_model],
            TalkSettings(),
            scorers=["content"],
            out=tmp_path,
        )


def test_long_texts_are_cut_at_stops_as_often_as_the_paper_says():
    text = "This is a first sentence of some words. " * 6
    assert split_text(text, None) == [text.strip()]
    assert len(split_text("x" * 100, 100)) == 1 and len(split_text("x" * 101, 100)) == 2
    assert len(split_text("字" * 201, 100)) == 3
    parts = split_text(text, 100)
    assert len(parts) == 3 and all(part.endswith(".") for part in parts)
    assert " ".join(parts) == text.strip()
    assert (
        "".join(split_text("一二三四五六，七八九十，" * 12, 100)) == "一二三四五六，七八九十，" * 12
    )


def test_an_utterance_is_continued_and_heard_with_its_beginning(
    speaking_model, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "test-clean" / "1"
    folder.mkdir(parents=True)
    write_audio(folder / "1-0.flac", tone(4.5, 0.1), 16000)
    (folder / "1.trans.txt").write_text("1-0 THREE WORDS LONG")
    lengths = []

    class Judge:
        def transcribe(self, waves, on_wave=None):
            lengths.extend(map(len, waves))
            return ["three words"] * len(waves)

    monkeypatch.setattr(scorers, "Pocketsphinx", Judge)
    words = ["eval", "tts", tmp_path / "test-clean", "--model", speaking_model, "--json"]
    words += ["--out", tmp_path / "out", "--strategy", "truth,direct", "--scorer", "pocketsphinx"]
    assert main([str(word) for word in words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["continues"] == 3
    said = next((tmp_path / "out").glob("*/direct/waves/1-0.wav"))
    assert lengths == [72000, 48000 + len(read_audio(said)[0])]
    assert found["runs"][1]["scores"]["pocketsphinx"]["rate"]["value"] == pytest.approx(1 / 3)
    assert "table 5" in (tmp_path / "out" / "tts.html").read_text()


def process(arguments, number, address, folder, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if address:
        environment |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
        environment |= {"JAX_PROCESS_ID": str(number)}
    command = [sys.executable, "-m", "llasa_jax", *map(str, arguments)]
    with (folder / f"{number}.log").open("w") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_leave_what_one_does(speaking_model, tmp_path):
    """Forty sentences, three blocks; the bytes of the summary and of every row are the same. Two
    devices of a process speak as many."""
    lines = [f"u{i}|sentence number {i} of forty" for i in range(40)]
    (tmp_path / "many.lst").write_text("\n".join(lines))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    summaries = []
    for count, where, devices in ((1, None, 1), (2, address, 1), (1, None, 2)):
        out = tmp_path / f"out-{count}-{devices}"
        words = ["eval", "tts", tmp_path / "many.lst", "--model", speaking_model, "--out", out]
        words += [*SMALL, "--strategy", "direct,best-of", "--scorer", "content"]
        logs = tmp_path / f"logs-{count}-{devices}"
        logs.mkdir()
        started = [process(words, number, where, logs, devices) for number in range(count)]
        try:
            codes = [one.wait(900) for one in started]
        finally:
            for one in started:
                one.kill()
        assert codes == [0] * count, (logs / "0.log").read_text()[-2000:]
        rows = {p.name: p.read_bytes() for p in sorted(out.glob("*/*/rows/*.json"))}
        assert len(rows) == 40
        summaries.append(((out / "summary.json").read_bytes(), rows))
    assert summaries[0] == summaries[1]
    assert summaries[2][1].keys() == summaries[0][1].keys()
