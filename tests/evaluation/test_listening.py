import base64
import hashlib
import json
import re

import numpy as np
import pytest

from llasa_jax.audio.io import write_audio
from llasa_jax.cli import main
from llasa_jax.errors import UserError
from llasa_jax.evaluation.listening import rating_table, ratings, write_listening

HOSTILE = '<img src=x onerror="alert(1)"> said'


def a_run(folder, silent=()):
    (folder / "waves").mkdir(parents=True)
    (folder / "rows").mkdir()
    rows = []
    for i, text in enumerate(("one", HOSTILE, "three")):
        row = {"id": f"questions-{i}", "text": text, "category": "questions", "status": "ok"}
        row |= {"sound": i not in silent, "scores": {}, "scored_by": {}}
        if i not in silent:
            wave = 0.1 * np.sin(np.arange(4000) * 0.1)
            write_audio(folder / "waves" / f"questions-{i}.wav", wave, 16000)
        (folder / "rows" / f"{i}.json").write_text(json.dumps(row))
        rows.append(row)
    about = {"language": "en", "continues": None, "settings": {"strategy": folder.name}}
    (folder / "run.json").write_text(json.dumps(about))
    return folder, rows


@pytest.fixture
def made(tmp_path):
    folders = [tmp_path / "m" / name for name in ("direct", "best-of")]
    a_run(folders[0])
    a_run(folders[1], silent=[2])
    out = tmp_path / "page"
    assert main(["eval", "listen", *map(str, folders), "--out", str(out)]) == 0
    return out


def test_the_page_is_blind_escaped_and_may_run_its_own_script_alone(made):
    page, key = (made / "listen.html").read_text(), json.loads((made / "listen.json").read_text())
    assert HOSTILE not in page and "&lt;img" in page
    assert "direct" not in page and "best-of" not in page
    assert page.count("<audio") == 5 and len(key["clips"]) == 6 and 'data-count="5"' in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    for clip in key["clips"]:
        assert page.count(f'name="{clip}"') in (0, 3)


def saved(made, name, scores, page=None):
    key = json.loads((made / "listen.json").read_text())
    clips = {(about["system"], about["id"]): clip for clip, about in key["clips"].items()}
    given = {clips.get(k, "strange"): score for k, score in scores.items()}
    path = made / f"{name}.json"
    path.write_text(json.dumps({"page": page or key["page"], "rater": name, "ratings": given}))
    return path


def test_scores_come_to_means_by_system_and_category(made, capsys):
    one = saved(made, "ann", {("m, direct", "questions-0"): 3, ("m, best-of", "questions-0"): 1})
    two = saved(made, "bob", {("m, direct", "questions-0"): 2, ("m, direct", "questions-1"): 1})
    found = ratings(made, [one, two])
    assert found["scores"]["m, direct"]["all"]["value"] == (2.5 + 1) / 2
    # What was not spoken has 1 without anybody's listening.
    assert found["scores"]["m, best-of"]["questions"] == pytest.approx(
        {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2, "level": 0.95}
    )
    assert found["raters"] == ["ann", "bob"] and len(found["unrated"]) == 2
    assert rating_table(found).rows[-1][0] == "all"
    wrong = saved(made, "eve", {("m, direct", "questions-0"): 4, "?": 2})
    assert len(ratings(made, [one, wrong])["refused"]) == 2
    assert main(["eval", "ratings", str(made), str(wrong), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["refused"]


def test_other_files_are_refused(made, tmp_path):
    with pytest.raises(UserError, match="another page"):
        ratings(made, [saved(made, "ann", {}, page="0")])
    for text in ("", "[]", '{"page": 1}', '{"page": 1, "rater": 2, "ratings": 3}', "[" * 5000):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match="no readable file of scores"):
            ratings(made, [tmp_path / "bad.json"])


def test_runs_of_other_texts_are_refused(tmp_path):
    one, other = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    other[1][0]["text"] = "else"
    with pytest.raises(UserError, match="questions-0 has another text"):
        write_listening(tmp_path / "page", {"a": one, "b": other}, 0)
