import json
import signal

import numpy as np
import pytest

from llasa_jax.cli import main
from llasa_jax.config import DataRun
from llasa_jax.data.codes import read_codes
from llasa_jax.errors import UserError
from llasa_jax.evaluation.data_stats import data_stats, lines
from llasa_jax.recipes.prepare import prepare


@pytest.fixture(scope="module")
def prepared(tones, make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stats")
    make_model(folder / "model")
    kinds = ("generation", "understanding")
    prepare(DataRun(corpora=(str(tones),), kinds=kinds, row=192), folder / "out", folder / "model")
    return folder / "out"


def test_numbers_are_those_of_the_utterances(prepared):
    found = data_stats(prepared)
    encoded = read_codes(prepared / "codes")
    codes = np.concatenate([one.codes for one in encoded])
    assert found["utterances"] == len(encoded) == 40 and found["speakers"] == 2
    assert found["hours"] == pytest.approx(len(codes) / 50 / 3600, abs=1e-5)
    assert found["hours_by"]["language"]["en"] == pytest.approx(found["hours"])
    assert found["codebook"]["codes"] == len(codes)
    assert found["codebook"]["used_share"] == len(set(codes.tolist())) / 60
    seconds = found["lengths"]["seconds"]
    assert seconds["longest"] == pytest.approx(max(len(one.codes) for one in encoded) / 50)
    assert sum(seconds["histogram"]["counts"]) == 40
    assert found["lengths"]["characters"]["median"] == np.median(
        [len(one.utterance.text) for one in encoded]
    )
    assert set(found["folders"]) >= {"generation/train", "understanding/test"}
    assert 0.5 < found["folders"]["generation/train"]["used"] <= 1
    assert "40 utterances, 2 speakers" in lines(found)


def test_the_command_with_plots(prepared, tmp_path, capsys):
    old = signal.getsignal(signal.SIGTERM)
    try:
        line = ["data", "stats", str(prepared), "--out", str(tmp_path / "plots"), "--json"]
        assert main(line) == 0
        found = json.loads(capsys.readouterr().out)
        assert main(["data", "stats", str(tmp_path)]) == 2
    finally:
        signal.signal(signal.SIGTERM, old)
    assert found == json.loads((tmp_path / "plots/stats.json").read_text())
    for name in ("lengths", "speech", "rows", "codebook"):
        assert (tmp_path / f"plots/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_preparation(tmp_path):
    with pytest.raises(UserError, match="no finished preparation"):
        data_stats(tmp_path)
