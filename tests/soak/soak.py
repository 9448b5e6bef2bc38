"""Disturbs a run again and again, and compares it with the undisturbed one.

    python tests/soak/soak.py kills  [--times 50]     SIGKILL at random moments, saves included
    python tests/soak/soak.py stops  [--times 20]     SIGTERM to one of two processes
    python tests/soak/soak.py meshes [--times 12]     each leg on another mesh or process count

Prints one JSON object; status 1 if a promise was broken. --steps is the run's length.
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from trainee import RUN, MeshConfig, cached, ended, fork, jax, live

LONGEST = 900.0  # seconds of a life


def child(
    work: Path, folder: Path, mesh: MeshConfig, steps: int, *, stop: int = 0, of: tuple = ()
) -> int:
    """A life of the run in a fork; it leaves what it came to in `work`.

    Args:
        stop: sends itself SIGTERM when it has laid so many batches.
        of: (port, number) as one of two processes, of four devices each; alone it has eight.
    """

    def act() -> None:
        jax.config.update("jax_num_cpu_devices", 4 if of else 8)
        cached(work / "compiled")
        if of:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            os.environ["JAX_COORDINATOR_ADDRESS"] = f"localhost:{of[0]}"
            os.environ |= {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(of[1])}
            from llasa_jax.parallel.distributed import connect

            connect()
        number = of[1] if of else 0

        def on_step(laid: int) -> None:
            (work / f"laid-{number}").write_text(str(laid))
            if laid == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        found = live(folder, mesh, steps, on_step)
        (work / f"result-{number}").write_text(json.dumps(found))
        if of:
            jax.distributed.shutdown()  # waits for the other

    for old in (*work.glob("result-*"), *work.glob("laid-*")):
        if not of or of[1] == 0:
            old.unlink()
    return fork(act)


def pair(work: Path, folder: Path, mesh: MeshConfig, steps: int, stop: int = 0) -> list[int]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [child(work, folder, mesh, steps, stop=stop, of=(port, number)) for number in range(2)]


def result(work: Path, number: int = 0) -> dict:
    return json.loads((work / f"result-{number}").read_text())


def finish(children: list[int]) -> None:
    statuses = [ended(one, LONGEST) for one in children]
    for one, status in zip(children, statuses, strict=True):
        if status is None:  # it hangs
            os.kill(one, signal.SIGKILL)
    if any(status != 0 for status in statuses):
        raise SystemExit(f"lives of the run ended with {statuses}")


def begun(work: Path, one: int) -> None:
    """Waits until a life has laid its first batch, or is over."""
    until = time.monotonic() + LONGEST
    while not (work / "laid-0").exists() and time.monotonic() < until:
        if ended(one, 0.002) is not None:
            return


def saving(folder: Path, one: int) -> bool:
    """Waits until a life has a checkpoint half-written; whether it was over first."""
    until = time.monotonic() + LONGEST
    while not halves(folder) and time.monotonic() < until:
        if ended(one, 0) is not None:
            return True
    return False


def halves(folder: Path) -> list[Path]:
    return list((folder / "checkpoints").glob("*tmp*"))


def newest(folder: Path) -> int:
    names = [p.name for p in (folder / "checkpoints").glob("[0-9]*") if p.name.isdecimal()]
    return max(map(int, names), default=0)


def kills(work: Path, times: int, steps: int, rng: random.Random) -> dict:
    """Kills every life but the last; in the mean it has come a little further."""
    began = time.monotonic()
    finish([child(work, work / "whole", MeshConfig(), steps)])  # compiles
    one = child(work, work / "again", MeshConfig(), steps)
    begun(work, one)
    started = time.monotonic()
    finish([one])
    length = time.monotonic() - started  # of the steps
    whole, folder = result(work), work / "killed"
    done = in_saves = before_steps = lost = 0
    while done < times:
        before = newest(folder)
        one = child(work, folder, MeshConfig(), steps)
        if rng.random() < 0.85:  # the others may die while they start or restore
            begun(work, one)
        over = ended(one, rng.uniform(0, 1.8 * length / times)) is not None
        if rng.random() < 0.3:  # few moments lie in a save by chance
            over = over or saving(folder, one)
        if over:
            raise SystemExit("the run ended before it was killed so often: more --steps")
        os.kill(one, signal.SIGKILL)
        ended(one, LONGEST)
        done += 1
        before_steps += not (work / "laid-0").exists()
        in_saves += bool(halves(folder))
        lost += newest(folder) < before  # a whole checkpoint may never go
    finish([child(work, folder, MeshConfig(), steps)])
    found = result(work)
    return {
        "kills": done,
        "in_saves": in_saves,
        "before_the_first_step": before_steps,
        "checkpoints_lost": lost,
        "parameters_equal": found["digest"] == whole["digest"],
        "curves_equal": found["curve"] == whole["curve"],
        "left_half_written": len(halves(folder)),
        "undisturbed_seconds": length,
        "seconds": time.monotonic() - began,
        "ok": in_saves > 0 and not lost and found == whole,
    }


def stops(work: Path, times: int, steps: int, rng: random.Random) -> dict:
    mesh, folder = MeshConfig(data=2, fsdp=4), work / "stopped"
    finish(pair(work, work / "whole", mesh, steps))
    whole, same, at, statuses = result(work), 0, [], 0
    for number in range(times):
        children = pair(work, folder, mesh, steps)
        target = rng.randrange(2)
        laid = work / f"laid-{target}"
        until = time.monotonic() + LONGEST
        wanted = rng.randint(1, max(1, 2 * (steps - newest(folder)) // (times - number + 1) - 8))
        while time.monotonic() < until:
            if laid.exists() and int(laid.read_text() or 0) >= wanted:
                break
            if (status := ended(children[target], 0.002)) is not None:
                raise SystemExit(f"a life of the run ended with {status} before it was asked to")
        os.kill(children[target], signal.SIGTERM)
        statuses += [ended(one, LONGEST) for one in children] == [0, 0]
        steps_of = [result(work, n).get("stopped") for n in range(2)]
        same += steps_of[0] == steps_of[1] == newest(folder)
        at.append(steps_of)
    finish(pair(work, folder, mesh, steps))
    found = result(work)
    return {
        "signals": times,
        "both_ended": statuses,
        "same_step_and_saved": same,
        "steps": at,
        "parameters_equal": found["digest"] == whole["digest"],
        "curves_equal": found["curve"] == whole["curve"],
        "ok": same == statuses == times and found == whole,
    }


LEGS = [
    (1, MeshConfig()),
    (1, MeshConfig(fsdp=8)),
    (2, MeshConfig(data=2, fsdp=4)),
    (1, MeshConfig(data=8)),
    (1, MeshConfig(fsdp=2, tensor=4)),
    (2, MeshConfig(fsdp=8)),
    (1, MeshConfig(fsdp=4)),
    (1, MeshConfig(fsdp=2, sequence=4)),
    (2, MeshConfig(data=8)),
    (1, MeshConfig(data=2, fsdp=2, tensor=2)),
    (2, MeshConfig(fsdp=2, tensor=4)),
    (1, MeshConfig(tensor=4)),
    (1, MeshConfig(data=4, fsdp=2)),
]


def meshes(work: Path, times: int, steps: int, rng: random.Random) -> dict:
    """Every restore compares all arrays, on the new mesh, with what was saved on the old one."""
    finish([child(work, work / "whole", MeshConfig(), steps)])
    whole, folder, changes, reached = result(work), work / "moved", 0, [0]
    for number in range(times + 1):
        processes, mesh = LEGS[number % len(LEGS)]
        last = number == times
        stop = 0 if last else max(2, steps // (times + 1) - 4)
        if processes == 1:
            finish([child(work, folder, mesh, steps, stop=stop)])
        else:
            finish(pair(work, folder, mesh, steps, stop))
        found = result(work)
        if not last:
            reached.append(found["stopped"])
            changes += reached[-1] > reached[-2]
    told = (folder / "events.jsonl").exists()  # a state that was not what was saved
    rows = zip(found["curve"], whole["curve"], strict=True)
    errors = [abs(a["loss"] / b["loss"] - 1) for a, b in rows if a["step"] == b["step"]]
    return {
        "changes": changes,
        "at_steps": reached[1:],
        "states_equal_at_handover": changes if not told else 0,
        "largest_relative_difference_of_a_loss": max(errors),
        "ok": changes == times and not told and max(errors) < 1e-4,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["kills", "stops", "meshes"])
    parser.add_argument("--times", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    what, times = {"kills": (kills, 50), "stops": (stops, 20), "meshes": (meshes, 12)}[options.what]
    times = options.times or times
    steps = options.steps or RUN.train.steps
    with tempfile.TemporaryDirectory(prefix="llasa-soak-") as work:
        found = what(Path(work), times, steps, random.Random(options.seed))
    print(json.dumps({"what": options.what} | found))
    return int(not found["ok"])


if __name__ == "__main__":
    sys.exit(main())
