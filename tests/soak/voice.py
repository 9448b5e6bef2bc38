"""Stops the trainings of the shipped voice, each of its four parts, and compares what they leave.

    python tests/soak/voice.py --store runs/voice/corpus --tokens runs/voice/tokens \\
        --model runs/voice/model [--steps 60] [--stops 4]

The recipe's own commands, cut to so many steps: once undisturbed, once with SIGTERM and SIGKILL in
turns at random moments, the same command again each time. Prints one JSON object; status 1 if a
part's file is not the same to the byte.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trainee import HERE

ROOT = HERE.parents[1]
SAVED = 75  # what a run that was asked to stop ends with


def commands(options: argparse.Namespace) -> dict[str, list]:
    """By part, the command that trains it, but for its folder."""
    store = ["--store", options.store]
    rows = ["--tokens", options.tokens]
    return {
        "recogniser": ["train", "voice_recogniser", *store],
        "speaker": ["train", "voice_speaker", *store],
        "codec": ["codec", "train", "voice_codec", *store, "--init", ROOT / "llasa_jax" / "nano"],
        "lm": ["train", "voice_lm", *rows],
    }


def train(command: list, folder: Path, log: Path, after: float | None, number: int) -> int:
    """Runs it to its end, or sends it SIGTERM or SIGKILL after so many seconds; its status."""
    words = [sys.executable, "-m", "llasa_jax", *command, "--out", folder]
    with log.open("ab") as file:
        process = subprocess.Popen([str(word) for word in words], stderr=file, cwd=ROOT)
        try:
            return process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal((signal.SIGTERM, signal.SIGKILL)[number % 2])
            return process.wait()


def broken(command: list, folder: Path, log: Path, length: float, stops: int, rng) -> list[int]:
    """The statuses of the run's lives; the last one is left alone."""
    found = []
    for number in range(stops):
        after = rng.uniform(0.4, 1.0) * length
        found.append(train(command, folder, log, after, number))
        if found[-1] not in (SAVED, -signal.SIGKILL):
            return found
    return [*found, train(command, folder, log, None, 0)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("store", "tokens", "model"):
        parser.add_argument(f"--{name}", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--stops", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, found = random.Random(options.seed), {}
    short = [f"train.steps={options.steps}", f"train.save_every={options.steps // 6}"]
    more = [word for setting in (*short, "train.keep_every=0") for word in ("--set", setting)]
    with tempfile.TemporaryDirectory(prefix="llasa-soak-") as work:
        for part, command in commands(options).items():
            statuses, files, log = [], [], Path(work) / f"{part}.log"
            for way in ("whole", "broken"):
                folder = Path(work) / part / way
                (folder / "model").mkdir(parents=True)
                for name in ("codec.safetensors", "tokenizer.json") if part == "lm" else ():
                    shutil.copy(options.model / name, folder / "model")
                given = [*command, *more]
                given += ["--model", folder / "model"] if part == "lm" else []
                if way == "whole":
                    train(given, folder / "first", log, None, 0)  # compiles
                    shutil.rmtree(folder / "first")
                    began = time.monotonic()
                    statuses.append(train(given, folder, log, None, 0))
                    length = time.monotonic() - began
                else:
                    statuses += broken(given, folder, log, length, options.stops, rng)
                files.append(folder / "model" / f"{part}.safetensors")
            made = all(file.is_file() for file in files)
            same = made and files[0].read_bytes() == files[1].read_bytes()
            stopped = any(status != 0 for status in statuses)
            found[part] = {"statuses": statuses, "equal": same, "seconds": length}
            found[part]["ok"] = same and stopped and statuses[0] == statuses[-1] == 0
            if not same:
                print(log.read_text()[-3000:], file=sys.stderr)
    ok = all(one["ok"] for one in found.values())
    print(json.dumps({"what": "voice", "steps": options.steps, "parts": found, "ok": ok}))
    return int(not ok)


if __name__ == "__main__":
    sys.exit(main())
