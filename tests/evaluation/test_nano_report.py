"""The pages of `llasa eval nano` and `llasa eval learning`."""

import csv
import io
import json

import numpy as np
import pytest

from llasa_jax.evaluation.learning_report import learning_table, write_learning_report
from llasa_jax.evaluation.nano_report import score_table, write_nano_report
from llasa_jax.evaluation.tables import for_console

NAMES = ["slt", "rms"]
KINDS = ("original", "codec", "n1", "n16")


@pytest.fixture
def found():
    ratio = {"value": 1.5, "low": 1.2, "high": 2.0}
    values = {"data": "synthetic speech (flite)", "sentences": 200, "voices": NAMES}
    values |= {"identities": NAMES, "voice_accuracy": 0.975, "rtf_n1": 0.2, "rtf_n16": 1.5}
    for kind in KINDS:
        values |= {f"wer_{kind}": 0.25, f"wer_{kind}_interval": [0.2, 0.3]}
    for n in (1, 16):
        values |= {f"ratio_n{n}": ratio, f"confusion_n{n}": [[90, 10], [0, 100]]}
        values |= {f"failures_n{n}": 0}
    return values


def test_the_table_holds_every_target(found):
    table = score_table(found)
    cells = {row[0]: row[1:] for row in table.rows}
    no_break = "\N{NO-BREAK SPACE}"
    assert (
        cells["Word error, best of 16"][0]
        == f"25.0{no_break}% (95{no_break}%: 20.0 to 30.0{no_break}%)"
    )
    assert cells["N = 16: multiple of the codec's word error"][1] == "at most 1.4"
    assert "0 of 200 (under 1.5 %" in cells["N = 16: silence, loop, runaway, early stop"][0]
    assert "synthetic speech" in table.note and for_console(table).row_count == len(table.rows)


def test_the_page_escapes_and_plays(found, tmp_path):
    tone = np.sin(np.arange(8000) / 5).astype(np.float32)
    sample = {
        "text": "<script>alert(1)</script>",
        "voice": "slt",
        "waves": dict.fromkeys(KINDS, tone),
        "heard": dict.fromkeys(KINDS, "a <b>"),
    }
    page = write_nano_report(tmp_path, found, [sample], [{"text": "x"}], 16000).read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "a <b>" not in page
    assert page.count("data:audio") == 4 and "http://" not in page
    assert json.loads((tmp_path / "eval.json").read_text())["voice_accuracy"] == 0.975
    assert (tmp_path / "confusion-1.png").read_bytes()[:4] == b"\x89PNG"


def test_learning_is_a_table_and_a_figure(tmp_path):
    points = [
        {
            "step": 1000 * i,
            "tokens": 2e6 * i,
            "flops": 5e13 * i,
            "valid_nats": 5.0 - i,
            "judge_wer": 1.0 / i,
            "judge_wer_interval": [0.9 / i, 1.2 / i],
            "failures": 3 - i,
            "sentences": 50,
        }
        for i in (1, 2)
    ]
    losses = [{"step": 500, "tokens": 1e6, "flops": 2e13, "valid_nats": 5.5}]
    found = {"data": "synthetic speech", "judge": "j", "points": points, "losses": losses}
    assert learning_table(found).rows[1][:3] == ("2,000", "4.0 M", "1.00e+14")
    write_learning_report(tmp_path, found)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "learning.csv").read_text())))
    assert [row["judge_wer"] for row in rows] == ["1.0", "0.5"] and rows[0]["low"] == "0.9"
    assert (tmp_path / "learning.png").read_bytes()[:4] == b"\x89PNG"
