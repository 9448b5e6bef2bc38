"""How long saving a large state blocks the step loop, against one copy of it on the host.

    python tests/soak/save_time.py [--gb 1.0] [--times 5]

A save returns when the state may be changed again; it is written on while steps go on. Prints one
JSON object; status 1 where a save blocks for over twice the time of a copy (medians).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from llasa_jax.training.checkpoints import Checkpoints, Keep, fingerprints  # noqa: E402

ARRAYS = 24  # of which some are large and some small, as of a model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    shares = np.geomspace(1, 64, ARRAYS)
    rows = np.maximum(options.gb * 1e9 / 4 / 1024 * shares / shares.sum(), 1).astype(int)
    key = jax.random.key(0)
    state = {f"array {i}": jax.random.normal(key, (n, 1024)) for i, n in enumerate(rows)}
    size = sum(x.nbytes for x in state.values())
    fingerprints(state)  # compiles

    def timed(act: Callable, *given: object) -> float:
        began = time.perf_counter()
        act(*given)
        return time.perf_counter() - began

    def copied(state: dict) -> list[np.ndarray]:
        return [np.array(x, copy=True) for x in state.values()]

    copies, saves, marks, whole = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="llasa-save-") as folder:
        checkpoints = Checkpoints(folder, Keep(1))
        for step in range(1, options.times + 1):
            state = jax.block_until_ready(jax.tree.map(lambda x: x + 1, state))
            copies.append(timed(copied, state))
            marks.append(timed(fingerprints, state))
            saves.append(timed(checkpoints.save, step, state))
            whole.append(saves[-1] + timed(checkpoints.settle))
        checkpoints.close()
    copy, save = statistics.median(copies), statistics.median(saves)
    found = {
        "bytes": size,
        "copy_seconds": copy,
        "save_blocks_seconds": save,
        "of_which_fingerprints": statistics.median(marks),
        "until_whole_seconds": statistics.median(whole),
        "ratio": save / copy,
    }
    print(json.dumps(found))
    return int(found["ratio"] > 2)


if __name__ == "__main__":
    sys.exit(main())
