"""`llasa bench data`: how many tokens a second the input pipeline makes, alone."""

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from llasa_jax.data.pipeline import READING, packed_batches
from llasa_jax.data.shards import Example, TokenShards, write_shards
from llasa_jax.errors import UserError

MADE_EXAMPLES = 60_000  # of the rows that are made up: 16 s of speech at most
VOCABULARY = 193_800
WARM_UP = 0.2  # share of the time after which memory should grow no more


def bench_data(
    tokens: Path | None, row: int, batch: int, seconds: float, seed: int
) -> dict[str, Any]:
    """Reads training batches as fast as they come, as a training run reads them.

    Args:
        tokens: a folder of token rows; None makes up some of `row` ids, of random codes (which zstd
            cannot compress).
        batch: rows of a batch.
        seconds: how long.

    Returns:
        `tokens_s`: positions of rows a second; `memory_growth_mib`: how much more memory the
        process holds at the end than after a fifth of the time; `memory_mib` at the end; `batches`,
        `rows`, `row`, `batch`, `seconds`, `used`, `threads`, `cores`.
    """
    if not 1 <= seconds <= 24 * 3600 or batch < 1 or row < 64:
        raise UserError("bench data: 1 second to a day, a batch of at least 1, rows of 64 or more")
    if tokens is not None:
        return _measure(TokenShards.open(tokens), batch, seconds, seed)
    with TemporaryDirectory() as folder:
        return _measure(_made_up(Path(folder) / "train", row, seed), batch, seconds, seed)


def _made_up(folder: Path, row: int, seed: int) -> TokenShards:
    """Rows of examples as long as speech of 2 to 16 seconds."""
    rng = np.random.default_rng(seed)

    def example() -> Example:
        n = int(rng.integers(min(150, row // 2), min(900, row) + 1))
        learned = np.arange(n) >= min(60, n // 2)
        return Example(rng.integers(0, VOCABULARY, n, np.int32), learned)

    examples = (example() for _ in range(MADE_EXAMPLES))
    return write_shards(folder, examples, row=row, codec="-", vocabulary="-", about={})


def _measure(shards: TokenShards, batch: int, seconds: float, seed: int) -> dict[str, Any]:
    process = psutil.Process()
    feed = iter(packed_batches(shards, batch, seed).to_iter_dataset(READING))
    next(feed)
    start = time.perf_counter()
    batches, early = 0, 0
    while (passed := time.perf_counter() - start) < seconds:
        next(feed)
        batches += 1
        if not early and passed >= WARM_UP * seconds:
            early = process.memory_info().rss
    late = process.memory_info().rss
    return {
        "tokens_s": batches * batch * shards.row / passed,
        "memory_growth_mib": (late - (early or late)) / 2**20,
        "memory_mib": late / 2**20,
        "batches": batches,
        "rows": len(shards),
        "row": shards.row,
        "batch": batch,
        "seconds": passed,
        "used": shards.manifest["used"],
        "threads": READING.num_threads,
        "cores": os.cpu_count(),
    }


def lines(found: dict[str, Any]) -> str:
    """What `bench_data` found, to read."""
    return (
        f"{found['tokens_s'] / 1e6:.2f} million tokens a second: {found['batches']} batches of "
        f"{found['batch']} rows of {found['row']} in {found['seconds']:.0f} s, {found['threads']} "
        f"threads on {found['cores']} cores\n"
        f"memory {found['memory_mib']:.0f} MiB, {found['memory_growth_mib']:+.1f} MiB since a "
        "fifth of the time"
    )
