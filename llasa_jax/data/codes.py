"""The encoded corpus: each utterance's codes with its metadata, before they become token rows.

`codes.jsonl` holds a line about the whole (version, codec, codebook, ...) and then a line an
utterance. N-gram baselines, voice prompts and token shards are all made from it.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llasa_jax.data.utterance import Utterance
from llasa_jax.errors import UserError

VERSION = 1


@dataclass(frozen=True)
class Encoded:
    """An utterance and its codes, int32 [frames]."""

    utterance: Utterance
    codes: np.ndarray


def write_codes(
    path: str | Path, encoded: Sequence[Encoded], *, codec: str, codebook: int, frame_rate: float
) -> None:
    """Write `codes.jsonl`, whole or not at all.

    Args:
      path: the file.
      encoded: all utterances; their order is kept.
      codec: hash that names the codec and its weights.
      codebook: number of codes it has.
      frame_rate: codes a second.

    Raises:
      UserError: the file cannot be written.
    """
    path = Path(path)
    head = {"version": VERSION, "codec": codec, "codebook": codebook, "frame_rate": frame_rate}
    head["utterances"] = len(encoded)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(head) + "\n")
            for one in encoded:
                row = asdict(one.utterance) | {"codes": np.asarray(one.codes).tolist()}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write the codes to {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_codes(path: str | Path, codec: str | None = None) -> list[Encoded]:
    """Read `codes.jsonl`.

    Args:
      path: the file.
      codec: the codec hash that the caller goes on with; None takes any.

    Raises:
      UserError: there is none, it is damaged, or another codec or version wrote it.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            head = json.loads(next(file))
            if head["version"] != VERSION:
                raise ValueError(f"version {head['version']}, this program reads {VERSION}")
            encoded = [_encoded(json.loads(line), head["codebook"]) for line in file]
        if len(encoded) != head["utterances"]:
            raise ValueError(f"holds {len(encoded)} of {head['utterances']} utterances")
    except FileNotFoundError as error:
        raise UserError(f"no encoded corpus at {path}; run `llasa data prepare`") from error
    except (OSError, StopIteration, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the codes in {path} are damaged ({error}); encode again") from error
    if codec not in (None, head["codec"]):
        raise UserError(f"{path}: made by codec {head['codec']}, not {codec}; encode again")
    return encoded


def _encoded(row: dict[str, Any], codebook: int) -> Encoded:
    codes = np.array(row.pop("codes"), np.int32).reshape(-1)
    if codes.size and not 0 <= codes.min() <= codes.max() < codebook:
        raise ValueError(f"a code of {row['id']} is not in [0, {codebook})")
    return Encoded(Utterance(**row), codes)


def describe(encoded: Sequence[Encoded], frame_rate: float) -> dict[str, Any]:
    """What speech this is: utterances, codes, hours; hours by kind, speaker, language, licence."""
    names = ("kind", "speaker", "language", "licence")
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for one in encoded:
        for name, counter in counts.items():
            counter[getattr(one.utterance, name)] += len(one.codes)
    total = sum(len(one.codes) for one in encoded)

    def hours(codes: int) -> float:
        return round(codes / frame_rate / 3600, 6)

    by = {name: {k: hours(n) for k, n in sorted(c.items())} for name, c in counts.items()}
    return {"utterances": len(encoded), "codes": total, "hours": hours(total), "hours_by": by}
