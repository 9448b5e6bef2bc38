"""The table of a ladder's runs, `runs.csv`: a row a finished run, what is not known left empty."""

import csv
import io
import math
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llasa_jax import __version__
from llasa_jax.errors import UserError

# Column: what it holds. The order is that of the file.
COLUMNS = {
    "name": "the run, as in the plan",
    "held_out": "1 where it is forecast, not fitted",
    "budget": "FLOPs it was made for",
    "flops": "FLOPs it took, by hand, head included",
    "n": "parameters",
    "n_inner": "those without embedding and head",
    "d": "tokens it was trained on, repeated ones too",
    "d_text": "of them text and template",
    "d_speech": "of them codes",
    "unique": "different tokens among them, at most",
    "data": "share of the training rows it saw",
    "width": "of the model",
    "layers": "of the model",
    "rows": "of a step",
    "steps": "of training",
    "rate": "peak learning rate",
    "seed": "of everything random",
    "loss": "validation, nats a learned token, kinds mixed as in training",
    "speech_nats": "validation, nats a code of speech given the text",
    "text_nats": "validation, nats an id of text given the speech",
    "text_worth": "what other texts cost it, nats a code (`lm.guide.exchange_texts`)",
    "train_nats": "training, mean of its last logged steps",
    "tokens_s": "tokens a second and chip, steps alone",
    "flops_s": "FLOP/s a chip, steps alone",
    "mfu": "of the chip's peak, where that is known",
    "seconds": "of the run, compiling and validation included",
    "device": "it ran on",
    "chips": "it ran on",
    "code": "version, and commit where it is known",
    "config": "hash of configuration, data share and seed",
    "wer": "word error of first takes (`llasa sweep --speak`)",
    "wer_low": "its interval",
    "wer_high": "its interval",
    "failures": "first takes that failed",
    "sentences": "spoken",
}
TEXTS = ("name", "device", "code", "config")
FITTED = ("n", "d", "flops")


def rows_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table as CSV; a column that a row does not have stays empty."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({k: "" if row.get(k) is None else row[k] for k in COLUMNS})
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that has at least n, d, flops and one loss; numbers as floats.

    Columns of other names are kept where they hold numbers. Empty cells are left out.

    Raises:
        UserError: there is no such table, or a cell of n, d or flops is no positive number.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            missing = [name for name in FITTED if name not in (table.fieldnames or ())]
            if missing:
                raise UserError(f"{path}: has no column {', '.join(missing)}; see docs/scaling.md")
            return [_typed(path, number, row) for number, row in enumerate(table, 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read as a table of runs ({reason})") from error


def _typed(path: Path, line: int, row: dict[str | None, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, cell in row.items():
        if name is None or not cell:
            continue
        if name in TEXTS:
            found[name] = cell
            continue
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            found[name] = value
    for name in FITTED:
        if not found.get(name, 0) > 0:
            raise UserError(f"{path} line {line}: {name} is {row.get(name)!r}, no positive number")
    return found


def code_version() -> str:
    """The package's version, with the commit of its source where that is known."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=9"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    commit = found.stdout.strip()
    return f"{__version__}+{commit}" if found.returncode == 0 and commit else __version__
