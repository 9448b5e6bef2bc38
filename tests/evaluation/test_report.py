"""The report: self-contained, escaped, bounded, and honest about what was not measured."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.evaluation import page as page_module
from llasa_jax.evaluation import report as report_module
from llasa_jax.evaluation.page import mp3, plain
from llasa_jax.evaluation.report import write_report

TEXT = 'he said "<script>alert(1)</script>" & left'
SPEAKER = "o\"nell' <b onload=x>"


def tone(seconds: float, rate: int = 16000) -> dict:
    time = np.arange(int(seconds * rate)) / rate
    return {"wave": (0.3 * np.sin(2 * np.pi * 220 * time)).astype(np.float32), "rate": rate}


def candidate(seconds: float, chosen_at: list[int], **more) -> dict:
    scores = {"content": np.float32(-1.5), "speaker <i>": float("nan")}
    return {**tone(seconds), "scores": scores, "chosen_at": chosen_at, "status": "ok", **more}


def make_samples() -> list[dict]:
    candidates = [
        candidate(0.6, [1], transcript="<img src=http://x.example/y.png>"),
        candidate(0.7, [4, 16]),
        candidate(0.5, [], status="no_stop"),
        {**candidate(0.5, []), "wave": np.zeros(0, np.float32)},
    ]
    return [
        {
            "text": TEXT,
            "speaker": SPEAKER,
            "kind": "synthetic",
            "reference": tone(0.8),
            "resynthesis": tone(0.8),
            "candidates": candidates,
        }
    ]


def make_report() -> dict:
    points = [
        {
            "n": n,
            "judge": "pocketsphinx",
            "judge_wer": 0.9 - 0.02 * n,
            "judge_wer_interval": [0.85 - 0.02 * n, 0.95 - 0.02 * n],
            "similarity": 0.7,
            "similarity_interval": [0.6, 0.8],
            "scores": {"content": -2.0, "speaker": 0.5},
            "seconds": 12.0,
            "failures": 0,
        }
        for n in (1, 4)
    ]
    return {
        "corpus_name": "</title><script>alert(2)</script>",
        "seed": 0,
        "machine": {"cores": 2, "cpu": "a $\\frac$ processor"},
        "corpus": {
            "synthetic": {"minutes": 60.0, "utterances": 900},
            "recorded": {"dutch": {"minutes": 20.0}, "english": {"minutes": 10.5}},
            "rejects": {"silent": 2},
        },
        "codec": {
            "stoi": {"synthetic": np.float32(0.9), "recorded": float("nan"), "recorded_nl": 0.8},
            "stoi_interval": {"recorded_nl": [0.75, 0.85]},
            "wer_ratio": 1.4,
            "wer_original": 0.2,
            "wer_resynthesis": 0.28,
            "wer_data": "synthetic",
            "judge": "pocketsphinx",
            "codebook": {"size": 4096, "used_share": 0.5, "entropy_bits": 9.5},
        },
        "lm": {"valid_nats": 7.0, "unigram_nats": 8.0, "bigram_nats": 7.5, "data": "synthetic"},
        "search": {
            "strategy": "best_of_n",
            "verifiers": ["content", "speaker"],
            "judges": ["pocketsphinx", "GE2E"],
            "sentences": 20,
            "points": points,
        },
        "seconds": {"total": 890.0},
        "curves": {
            "codec": [{"step": s, "loss": 1 / s, "valid_stoi": None} for s in (1, 2, 3)],
            "lm": [{"step": s, "loss": 7.0, "valid_nats": float("inf")} for s in (1, 2, 3)],
        },
        "targets": [{"name": "STOI", "value": np.float64(0.9), "target": 0.88, "met": np.True_}],
    }


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "runs" / "first"
    assert write_report(folder, make_report(), make_samples()) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text())


def test_loads_nothing(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        for name in ("src", "srcset", "poster", "data"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
        assert attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in "".join(a.get("style", "") for _, a in page.tags)
    (policy,) = (a for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")


def test_escapes_what_it_shows(page):
    assert TEXT in page.text
    assert f"Speaker: {SPEAKER}" in page.text
    assert "<img src=http://x.example/y.png>" in page.text
    assert "</title><script>alert(2)</script>" in page.text
    assert not page.all("b") or all(not attributes for attributes in page.all("b"))


def test_players_show_candidates_and_choices(page):
    labels = [attributes["aria-label"] for attributes in page.all("audio")]
    assert labels == [
        f"{name}, sentence 1"
        for name in ("Reference", "Codec resynthesis", "Candidate 1", "Candidate 2", "Candidate 3")
    ]
    assert all("controls" in attributes for attributes in page.all("audio"))
    for badge in ("kept of 1", "kept of 4", "kept of 16", "no stop", "no sound"):
        assert badge in page.text


def test_figures_have_alternatives_and_files(folder, page):
    assert all(attributes["alt"] for attributes in page.all("img"))
    names = {path.name for path in folder.glob("*.png")}
    assert names == {
        "codec_loss.png",
        "lm_loss.png",
        "codebook_use.png",
        "search_curve.png",
        "sample_1.png",
    }
    assert [a["lang"] for a in page.all("html")] == ["en"]


def test_says_what_it_was_measured_on_and_what_was_not(page):
    text = re.sub(r"\s+", " ", page.text)
    assert "60 minutes of synthetic speech and 30 minutes of recorded human speech" in text
    rows = [line.strip() for line in page.text.splitlines()]
    assert "Intelligibility, STOI (0 to 1)synthetic speech0.900" in rows
    assert "Intelligibility, STOI (0 to 1)recorded human speechnot measured" in rows
    dutch = "recorded human speech (Dutch)0.800 (95\N{NO-BREAK SPACE}%: 0.750 to 0.850)"
    assert f"Intelligibility, STOI (0 to 1){dutch}" in rows
    assert "Validation loss, nats a codesynthetic speech7" in rows
    assert "Not measured in this run: Selection verifiers." in text
    assert "need not be intelligible" in text
    assert "candidates is 82.0 % (95 %: 77.0 to 87.0 %)" in text
    assert "0 of 20 (under 14 %, 95 %)" in text


def test_json_is_strict_and_sorted(folder):
    def refuse(name):
        raise AssertionError(name)

    text = (folder / "report.json").read_text()
    loaded = json.loads(text, parse_constant=refuse)
    assert loaded["codec"]["stoi"] == {
        "recorded": None,
        "recorded_nl": 0.8,
        "synthetic": pytest.approx(0.9),
    }
    assert loaded["targets"][0]["met"] is True
    assert list(loaded) == sorted(loaded)


def test_leaves_only_whole_files(folder):
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_nothing_measured(tmp_path):
    page = Page(write_report(tmp_path, {}, []).read_text())
    assert "This run kept no sound" in page.text
    assert "Not measured in this run: Targets, Codec, Language model" in page.text
    assert json.loads((tmp_path / "report.json").read_text()) == {}
    assert not list(tmp_path.glob("*.png"))


def test_a_corpus_without_synthetic_speech(tmp_path):
    report = {
        "corpus": {"recorded": {"minutes": 12.0}},
        "codec": {"stoi": {"recorded": 0.8}},
        "lm": {"valid_nats": None},
        "search": {"points": [{"n": 1, "judge": None, "judge_wer": None, "similarity": 0.5}]},
    }
    page = Page(write_report(tmp_path, report, [{"text": "x"}]).read_text())
    assert "on 12 minutes of recorded human speech." in page.text
    assert "ynthetic speech" not in page.text
    assert "was not measured in this run" in page.text


def test_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MAX_SOUND_BYTES", 20_000)
    monkeypatch.setattr(report_module, "PICTURED_SAMPLES", 0)
    samples = [
        {"text": "a" * 10**6, "candidates": [candidate(2.0, []), candidate(1.0, [1])]}
        for _ in range(30)
    ]
    path = write_report(tmp_path, {}, samples)
    page = Page(path.read_text())
    assert path.stat().st_size < 200_000
    assert "Sentence 24" in page.text and "Sentence 25" not in page.text
    # The kept candidates come first; what no longer fits is named.
    assert {a["aria-label"].split(",")[0] for a in page.all("audio")} == {"Candidate 2"}
    assert "left out to keep this page small" in page.text


@pytest.mark.parametrize("rate", [8000, 16000, 17000, 24000])
def test_mp3_of_any_rate(rate):
    data = mp3(tone(0.5, rate)["wave"], rate)
    assert data[:2] == b"\xff\xf3" or data[:3] == b"ID3" or data[0] == 0xFF
    assert len(data) < 6000


def test_plain_takes_numpy_and_refuses_no_number():
    values = {1: np.arange(2), "x": (np.float64("nan"), -np.inf, np.int64(3), None, True)}
    assert plain(values) == {"1": [0, 1], "x": [None, None, 3, None, True]}


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the report"):
        write_report(tmp_path / "file", {}, [])
