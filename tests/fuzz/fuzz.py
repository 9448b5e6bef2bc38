"""Feeds a reader changed inputs until one breaks it, or enough have not.

    python tests/fuzz/fuzz.py TARGET [--inputs N] [--seconds S] [--seed K] [--out FOLDER]
    python tests/fuzz/fuzz.py TARGET --input FILE     one input again

A child process reads; this one watches it. An input is a fault when it raises anything but
`UserError`, ends the process, takes over ten seconds, or more memory than the target states. It is
kept in FOLDER, and the child goes on with the next. Prints one JSON object; status 1 with faults.
`all` for TARGET takes one after the other. It ends after N inputs or S seconds, what comes first.
"""

import argparse
import json
import mmap
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
# Where files need no disk: on a busy one the reader waits for it at each input.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
LONGEST = 10.0  # seconds of an input
LARGEST = 1 << 16  # bytes of an input
HEAD = struct.Struct("<QQQ")  # inputs done, since when the one under way is read (ns), its bytes


def changed(rng: random.Random, seeds: list[bytes], words: tuple[bytes, ...]) -> bytes:
    """A seed after one to six changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 6)):
        place = rng.randint(0, len(data))
        size = min(rng.choice((1, 1, 2, 4, 8, 64)), len(data) - place)
        match rng.randrange(8):
            case 0 if size:  # a bit
                data[place] ^= 1 << rng.randrange(8)
            case 1:  # other bytes
                data[place : place + size] = rng.randbytes(size)
            case 2:  # more bytes
                data[place:place] = rng.randbytes(rng.choice((1, 2, 4, 30)))
            case 3:  # less
                del data[place : place + size]
            case 4:  # the end is missing
                del data[place:]
            case 5:  # something twice, or in another place
                other = rng.randint(0, len(data))
                data[other:other] = data[place : place + rng.choice((4, 16, 200))]
            case 6 if words:  # what means something to the reader
                data[place : place + rng.choice((0, size))] = rng.choice(words)
            case _:  # a number at the edge
                edge = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 31, 2**32 - 1))
                width = rng.choice((1, 2, 4, 8))
                data[place : place + width] = (edge % 256**width).to_bytes(width, "little")
    return bytes(data[:LARGEST])


def grown() -> int:
    """Bytes of memory that this process has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(name: str, shared: Path, seed: int, first: int, last: int, seconds: float) -> None:
    """Reads inputs [first, last); ends with the first that is a fault, named on stdout."""
    from targets import TARGETS, accepts, folder

    from llasa_jax import console

    console.silence()
    target = TARGETS[name]
    seeds = target.seeds()
    for one in seeds:
        accepts(name, one)  # imports and caches are no input's memory
    with shared.open("r+b") as file:
        board = mmap.mmap(file.fileno(), 0)
    until, base, taken = time.monotonic() + seconds, grown(), 0
    for number in range(first, last):
        data = changed(random.Random(f"{seed}/{number}"), seeds, target.words)
        board[HEAD.size : HEAD.size + len(data)] = data
        HEAD.pack_into(board, 0, number, time.monotonic_ns(), len(data))
        fault = ""
        try:
            taken += accepts(name, data)
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"
        if grown() - base > target.mebibytes << 20:
            fault = f"took {(grown() - base) >> 20} MiB"
        if fault:
            print(json.dumps({"fault": fault[:300], "taken": taken}), flush=True)
            os._exit(1)
        if number % 64 == 0 and time.monotonic() > until:
            last = number + 1
            break
    HEAD.pack_into(board, 0, last, 0, 0)
    print(json.dumps({"taken": taken, "left": sorted(p.name for p in folder().rglob(".*"))}))


def fuzz(name: str, inputs: int, seconds: float, seed: int, out: Path) -> dict:
    """What came of it: inputs read, those taken, seconds, and each fault with its input's file."""
    began, done, taken, faults = time.monotonic(), 0, 0, []
    with tempfile.TemporaryDirectory(dir=MEMORY) as temporary:
        shared = Path(temporary) / "board"
        shared.write_bytes(bytes(HEAD.size + LARGEST))
        with shared.open("r+b") as file:
            board = mmap.mmap(file.fileno(), 0)
        while done < inputs and (left := seconds - (time.monotonic() - began)) > 0:
            HEAD.pack_into(board, 0, done, 0, 0)
            command = [sys.executable, __file__, name, "--child", str(shared), str(seed)]
            command += [str(done), str(inputs), str(left)]
            environment = os.environ | {"TMPDIR": temporary, "JAX_PLATFORMS": "cpu"}
            # What decoders say of broken files would fill screens; --input shows it of one.
            quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            with subprocess.Popen(command, env=environment, **quiet) as process:
                fault = watched(process, board)
                said = json.loads((process.stdout.read() or b"{}").splitlines()[-1:][0] or b"{}")
            done, _, size = HEAD.unpack_from(board)
            taken += said.get("taken", 0)
            fault = said.get("fault") or fault
            if fault is None:
                break
            kept = out / f"{name}-{done}.bin"
            out.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(board[HEAD.size : HEAD.size + size])
            faults.append({"fault": fault, "input": str(kept)})
            done += 1
    passed = time.monotonic() - began
    return {"target": name, "inputs": done, "taken": taken, "seconds": passed, "faults": faults}


def watched(process: subprocess.Popen, board: mmap.mmap) -> str | None:
    """Waits for the child; what went wrong beside what it says itself."""
    while process.poll() is None:
        time.sleep(0.1)
        _, since, _ = HEAD.unpack_from(board)
        if since and time.monotonic_ns() - since > LONGEST * 1e9:
            process.kill()
            process.wait()
            return f"took over {LONGEST:g} s"
    return f"the process ended with {process.returncode}" if process.returncode else None


def main() -> int:
    if sys.argv[2:3] == ["--child"]:
        name, _, shared, seed, first, last, seconds = sys.argv[1:]
        child(name, Path(shared), int(seed), int(first), int(last), float(seconds))
        return 0
    from targets import TARGETS, accepts

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-faults"))
    parser.add_argument("--input", type=Path, default=None)
    options = parser.parse_args()
    if options.input is not None:
        print(accepts(options.target, options.input.read_bytes()))
        return 0
    names = TARGETS if options.target == "all" else [options.target]
    found = []
    for name in names:
        given = (options.inputs, options.seconds, options.seed, options.out)
        found.append(fuzz(name, *given))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"runs": found}))
    return int(any(one["faults"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
