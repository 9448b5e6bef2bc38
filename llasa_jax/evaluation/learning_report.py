"""Learning curves of a language model: loss, words and failures over its training."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from llasa_jax.evaluation.figures import WIDTH, drawn
from llasa_jax.evaluation.page import json_bytes, plain, write_files
from llasa_jax.evaluation.tables import Table, failures, number, percent, with_interval


@drawn
def learning_curves(found: Mapping[str, Any]) -> Figure:
    """Validation loss, word error with its interval, and failures, over tokens."""
    points, losses = found["points"], found["losses"]
    tokens = [point["tokens"] for point in points]
    figure = Figure(figsize=(1.5 * WIDTH, 3.2), layout="constrained")
    loss, words, failed = figure.subplots(1, 3, sharex=True)
    loss.plot([x["tokens"] for x in losses], [x["valid_nats"] for x in losses], marker=".")
    loss.set(title="Validation loss", ylabel="nats a code")
    rates = np.array([point["judge_wer"] for point in points])
    bounds = np.array([point["judge_wer_interval"] for point in points])
    words.errorbar(tokens, rates, np.abs(bounds.T - rates), marker="o", capsize=3)
    words.set(title=f"Word error ({found['judge']}), N = 1", ylim=(0, None))
    shares = [point["failures"] / point["sentences"] for point in points]
    failed.plot(tokens, shares, marker="o")
    failed.set(title="Failures, N = 1", ylim=(0, None))
    for axis, decimals in ((words, 0), (failed, 1)):
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))
    for axis in (loss, words, failed):
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlabel("tokens")
    return figure


def learning_table(found: Mapping[str, Any]) -> Table:
    """A row a checkpoint."""
    rows = [
        (
            f"{p['step']:,}",
            f"{p['tokens'] / 1e6:.1f} M",
            f"{p['flops']:.2e}",
            number(p["valid_nats"]),
            with_interval(p["judge_wer"], p["judge_wer_interval"], percent),
            failures(p["failures"], p["sentences"]),
        )
        for p in found["points"]
    ]
    head = ("Step", "Tokens", "FLOPs", "Nats a code", "Word error, N = 1", "Failures")
    return Table("What each checkpoint says", head, rows, f"Data: {found['data']}.")


def write_learning_report(folder: Path, found: Mapping[str, Any]) -> None:
    """Writes learning.json, learning.csv and learning.png into `folder`."""
    found, text = plain(found), io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = ("step", "tokens", "flops", "valid_nats", "judge_wer", "low", "high", "failures")
    table.writerow((*head, "sentences"))
    for p in found["points"]:
        row = [p["step"], round(p["tokens"]), f"{p['flops']:.4e}", p["valid_nats"], p["judge_wer"]]
        table.writerow([*row, *p["judge_wer_interval"], p["failures"], p["sentences"]])
    files = {"learning.json": json_bytes(found), "learning.csv": text.getvalue().encode()}
    write_files(folder, files | {"learning.png": learning_curves(found)})
