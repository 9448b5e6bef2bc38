"""The inference-time law: what mix of parameters and candidates is best, from measured curves."""

import json

import pytest

from llasa_jax.errors import UserError
from llasa_jax.scaling.figures import search_figure
from llasa_jax.scaling.search_law import read_search, search_law


def curve(parameters, wers, **more):
    points = [
        {
            "n": n,
            "flops": 2.0 * parameters * 25 * 4 * n,
            "sound": 4.0,
            "judge_wer": wer,
            "judge_wer_interval": [wer - 0.05, wer + 0.05],
        }
        for n, wer in zip((1, 4, 16), wers, strict=True)
    ]
    return {
        "strategy": "best-of",
        "parameters": parameters,
        "sentences": 50,
        "judges": ["judge"],
        "points": points,
    } | more


def written(folder, *curves):
    paths = []
    for number, one in enumerate(curves):
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(json.dumps(one))
    return paths


def test_the_best_mix_changes_with_the_cost(tmp_path):
    small, large = curve(1e6, (0.9, 0.8, 0.7)), curve(8e6, (0.6, 0.5, 0.45))
    law = search_law([read_search(path) for path in written(tmp_path, large, small)])
    assert [one["parameters"] for one in law["curves"]] == [10**6, 8 * 10**6]
    assert law["curves"][0]["slope"] == pytest.approx(-0.05)
    first, last = law["mixes"][0], law["mixes"][-1]
    assert (first["best"], first["candidates"], first["wer"]) == (10**6, pytest.approx(1), 0.9)
    assert (last["best"], last["candidates"], last["wer"]) == (8 * 10**6, pytest.approx(16), 0.45)
    assert first["wers"][1] is None and last["wers"][0] is None  # never beyond what was measured
    wers = [mix["wer"] for mix in law["mixes"]]
    assert wers == sorted(wers, reverse=True)
    assert search_figure(law)[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strategy": "beam"}, "best-of"),
        ({"parameters": None}, "llasa curve"),
        ({"points": [{"n": 1}]}, "llasa curve"),
    ],
)
def test_another_file_is_refused(tmp_path, change, words):
    (path,) = written(tmp_path, curve(1e6, (0.9, 0.8, 0.7)) | change)
    with pytest.raises(UserError, match=words):
        read_search(path)


def test_curves_that_cannot_be_compared_are_refused(tmp_path):
    one, same = curve(1e6, (0.9, 0.8, 0.7)), curve(1e6, (0.6, 0.5, 0.4))
    other = curve(2e6, (0.6, 0.5, 0.4), judges=["another"])
    for pair in ((one, same), (one, other)):
        with pytest.raises(UserError, match="different sizes"):
            search_law([read_search(path) for path in written(tmp_path, *pair)])
