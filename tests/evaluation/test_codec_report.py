import json
from html.parser import HTMLParser

import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.evaluation import codec_report
from llasa_jax.evaluation.codec_report import LABELS, score_table, write_codec_report
from llasa_jax.evaluation.figures import quality_by_rate, spectrograms
from llasa_jax.evaluation.peers import RATE
from llasa_jax.evaluation.tables import for_console

HOSTILE = "<script>alert(1)</script> & co"
CONSTANT = "Opus 6000 CBR"


def scores(place, **more):
    value = 1 + place / 10
    return {
        "bits_per_second": 700.0 * (place + 1),
        "stoi": 0.5 + place / 20,
        "stoi_interval": [0.4, 0.9],
        "pesq_wb": value,
        "pesq_wb_interval": [value - 0.1, value + 0.1],
        "wer": None,
    } | more


def found():
    coders = [key for key in LABELS if key != "original"]
    about = {"corpora": ["asterisk"], "voices": [HOSTILE], "kinds": ["recorded"]}
    return {
        **{key: scores(place) for place, key in enumerate(coders)},
        "ours": scores(3, codebook_entropy_bits=12.34, pesq_nb=float("nan")),
        "original": {"wer": 0.25},
        "data": about
        | {"utterances": 7, "hours": 0.01, "heard": "never trained on"}
        | {"wer": {"utterances": 5, "kinds": ["synthetic"]}},
        "versions": {"codec2": "1.0"},
        "machine": {"cores": 2},
        "notes": ["Said so."],
        "not_measured": {"codec2_900": HOSTILE},
    }


def sample(name, text=""):
    rng = np.random.default_rng(0)
    waves = {key: 0.1 * rng.normal(size=RATE).astype(np.float32) for key in LABELS}
    return {"name": name, "text": text, "speaker": HOSTILE, "kind": "recorded", "waves": waves}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.cells, self._cell = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "srcset", "href")]
        if tag in ("td", "th"):
            self.cells.append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._cell = None if tag in ("td", "th") else self._cell

    def handle_data(self, data):
        if self._cell:
            self.cells[-1] += data


def test_the_page_has_table_figures_and_players_and_loads_nothing(tmp_path):
    path = write_codec_report(tmp_path / "o", found(), [sample(HOSTILE), sample("b", "a text")])
    text = path.read_text()
    page = Page(text)
    assert page.tags.count("audio") == 2 * len(LABELS) and "script" not in page.tags
    assert page.tags.count("img") == 2 and "a text" in text and "Said so." in text
    assert all(s.startswith(("data:", "#")) for s in page.sources)
    for label in LABELS.values():
        assert label in page.cells
    assert "1.30 1.20 to 1.40" in page.cells and "12.34" in page.cells
    assert "counted on 5 English recordings with a known text (synthetic speech)" in text
    assert "7 recordings" in text and "never trained on" in text
    names = {p.name for p in (tmp_path / "o").iterdir()}
    assert names == {"codecs.html", "eval.json", "quality.png", "spectrograms.png"}
    kept = json.loads((tmp_path / "o" / "eval.json").read_text())
    assert kept["ours"]["pesq_nb"] is None and kept["ours"]["pesq_wb"] == 1.3


def test_the_table_shows_what_is_absent_as_such():
    table = score_table(found())
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.head[1:3] == ["Original", "Ours"] and len(table.head) == 1 + len(LABELS)
    assert rows["PESQ-WB"][0] == "" and rows["PESQ-WB"][1] == "1.30"
    assert rows["Word error rate"][:2] == ("25.0\N{NO-BREAK SPACE}%", "not measured")
    assert "not measured" not in "".join(for_console(score_table(found())).columns[2]._cells)


def test_a_codec_that_is_missing_has_no_column():
    report = {k: v for k, v in found().items() if not k.startswith("codec2")}
    assert score_table(report).head == ["Measure", "Original", "Ours", "Opus 6000", CONSTANT]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_draw_what_there_is(theme):
    assert quality_by_rate({"Ours": scores(1), "Other": {}}, theme=theme).startswith(b"\x89PNG")
    waves = {f"${i}": (np.zeros(100 * i), RATE) for i in range(1, 4)}
    assert spectrograms(waves, theme=theme).startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(codec_report, "_pictures", lambda *_: [])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the report"):
        write_codec_report(tmp_path / "file", found(), [sample("a")])
