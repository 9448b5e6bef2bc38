"""What `llasa eval nano` found, as a page to read and listen to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from llasa_jax.evaluation.figures import WIDTH, drawn
from llasa_jax.evaluation.page import (
    Clip,
    fill_players,
    json_bytes,
    make_picture,
    plain,
    template,
    write_files,
)
from llasa_jax.evaluation.tables import Table, failures, number, percent, with_interval, words

LABELS = {
    "original": "Reference (flite)",
    "codec": "Through the codec",
    "n1": "First take",
    "n16": "Best of 16",
}


@drawn
def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """How often speech meant for one identity (rows) is nearest to each (columns)."""
    table = np.array(counts)
    figure = Figure(figsize=(WIDTH, 0.45 * len(names) + 1.6), layout="constrained")
    axis = figure.subplots()
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(table):
        if count:
            ink = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(count), ha="center", va="center", color=ink)
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.grid(visible=False)
    axis.set(xlabel="nearest identity", ylabel="identity of the prompt")
    return figure


def score_table(found: Mapping[str, Any]) -> Table:
    """Word error, failures, voices and speed, with the targets they are held against."""
    rows = [
        (
            f"Word error, {label.lower()}",
            with_interval(found[f"wer_{kind}"], found[f"wer_{kind}_interval"], percent),
            "",
        )
        for kind, label in LABELS.items()
    ]
    for n, most in ((1, 2.0), (16, 1.4)):
        ratio = found[f"ratio_n{n}"]
        shown = with_interval(ratio["value"], [ratio["low"], ratio["high"]])
        rows.append((f"N = {n}: multiple of the codec's word error", shown, f"at most {most:g}"))
    for n, most in ((1, "at most 3 %"), (16, "none")):
        count = failures(found[f"failures_n{n}"], found["sentences"])
        rows.append((f"N = {n}: silence, loop, runaway, early stop", count, most))
    rows.append(("N = 16: voice nearest to its own", percent(found["voice_accuracy"]), "90 %"))
    for n, most in ((1, 1), (16, 8)):
        rows.append((f"N = {n}: seconds a second of sound", number(found[f"rtf_n{n}"]), f"{most}"))
    note = f"{found['sentences']} sentences never trained on, {len(found['voices'])} voices, "
    note += f"{found['data']}."
    return Table("What was reached", ("What", "Measured", "Target"), rows, note)


def write_nano_report(
    folder: Path,
    found: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    rate: int,
) -> Path:
    """Writes `nano.html`, its figure, `eval.json` and `utterances.json` into `folder`.

    Args:
        found: as `llasa eval nano --json` prints it.
        samples: {"text", "voice", "waves", "heard"} to listen to, by the keys of `LABELS`.
        rows: what was heard and how it ended, for every sentence.
        rate: samples a second of the waves.

    Returns:
        The path of the page.
    """
    found = plain(found)
    pictures = [
        make_picture(
            f"confusion-{n}.png",
            f"Whose voice it is, N = {n}",
            f"Confusion matrix of {', '.join(found['identities'])}",
            "Rows: whose prompt it was. Columns: the nearest of all identities, by GE2E.",
            confusion,
            found[f"confusion_n{n}"],
            found["identities"],
        )
        for n in (1, 16)
    ]
    listening = [
        {
            "title": sample["text"],
            "about": f"Voice: {sample['voice']}. Synthetic speech.",
            "clips": [
                Clip(
                    label,
                    {"wave": sample["waves"][kind], "rate": rate},
                    transcript=sample["heard"][kind] or "(nothing)",
                )
                for kind, label in LABELS.items()
            ],
        }
        for sample in samples
    ]
    fill_players(clip for entry in listening for clip in entry["clips"])
    page = template("nano.html.jinja").render(
        title="The shipped voice, measured",
        table=score_table(found),
        pictures=pictures,
        listening=listening,
        words=words,
        number=number,
    )
    files = {picture.file: picture.png for picture in pictures}
    files |= {"eval.json": json_bytes(found), "utterances.json": json_bytes(rows)}
    write_files(folder, files | {"nano.html": page.encode()})
    return folder / "nano.html"
