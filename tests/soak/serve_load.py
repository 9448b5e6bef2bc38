"""Many clients at once on a server, for minutes: what is served, refused, lost, and how fast.

    python tests/soak/serve_load.py [--minutes 10] [--clients 32] [--out FILE]

Starts `llasa serve` with the shipped voice and its defaults (or takes --address and --pid of one
that runs). Each client asks again and again: half for a whole file of one take or the best of 4,
half for a stream of six sentences. Every wave must decode to sound of a length that fits its text.

Prints one JSON object; exit status 1 if a bound of docs/serve.md is not kept.
"""

import argparse
import http.client
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from llasa_jax.audio.io import decode_audio

SENTENCES = (
    "The river was quiet until the rain began.",
    "She put the letter on the table and went out.",
    "Nobody had seen the old man since the winter.",
    "A small bird sings at night in the garden.",
    "They walked along the shore without a word.",
    "The door was open, but there was no light.",
    "He asked for bread, and for a glass of water.",
    "In the morning the snow had covered the road.",
)
PATIENCE = 900.0  # seconds
FASTEST, SLOWEST = 25.0, 6.0  # characters a second that speech has


class Load:
    def __init__(self, address: str, until: float):
        parts = urlsplit(address)
        self.place = parts.hostname, parts.port
        self.until = until
        self.lock = threading.Lock()
        self.counts = {"served": 0, "refused": 0, "failed": 0}
        self.failures: list[str] = []
        self.seconds: list[float] = []
        self.shares: list[float] = []  # of a stream's time before its first byte
        self.audio = 0.0

    def client(self, number: int) -> None:
        choose = random.Random(number)
        while time.monotonic() < self.until:
            streamed = choose.random() < 0.5
            text = " ".join(choose.sample(SENTENCES, 6 if streamed else 1))
            asked = {"input": text, "seed": choose.randrange(2**32), "response_format": "wav"}
            asked |= {"stream": True} if streamed else {"candidates": choose.choice([1, 4])}
            try:
                waits = self.one(asked, text, streamed)
            except Exception as error:
                waits = 1.0
                with self.lock:
                    self.counts["failed"] += 1
                    self.failures.append(f"{type(error).__name__}: {error}"[:200])
            time.sleep(waits)

    def one(self, asked: dict, text: str, streamed: bool) -> float:
        """Asks once; returns the seconds to wait before the next time."""
        start = time.monotonic()
        connection = http.client.HTTPConnection(*self.place, timeout=PATIENCE)
        try:
            body, headers = json.dumps(asked), {"Content-Type": "application/json"}
            connection.request("POST", "/v1/audio/speech", body, headers)
            answer = connection.getresponse()
            first = answer.read(1)
            early = time.monotonic() - start
            data = first + answer.read()
        finally:
            connection.close()
        whole = time.monotonic() - start
        if answer.status == 429:
            waits = float(answer.headers["Retry-After"])
            assert json.loads(data)["error"]["message"]
            with self.lock:
                self.counts["refused"] += 1
            return waits
        assert answer.status == 200, f"{answer.status} {data[:120]!r}"
        wave, rate = decode_audio(data, "answer")
        seconds = len(wave) / rate
        assert len(text) / FASTEST < seconds < len(text) / SLOWEST, f"{seconds:.1f} s: {text}"
        assert np.sqrt(np.mean(np.square(wave))) > 1e-3, "silence"
        with self.lock:
            self.counts["served"] += 1
            self.audio += seconds
            self.seconds.append(whole)
            if streamed:
                self.shares.append(early / whole)
        return 0.0


def start() -> tuple[subprocess.Popen, str]:
    command = [sys.executable, "-m", "llasa_jax", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r"http://\S+", line):
            threading.Thread(
                target=lambda: sys.stderr.writelines(process.stderr), daemon=True
            ).start()
            return process, found[0]
    raise SystemExit("the server did not start")


def measure(address: str, pid: int, clients: int, minutes: float) -> dict:
    begun = time.monotonic()
    load = Load(address, begun + 60 * minutes)
    threads = [threading.Thread(target=load.client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    process, memory = psutil.Process(pid), []
    while any(thread.is_alive() for thread in threads):
        memory.append(process.memory_info().rss / 2**20)
        time.sleep(1)
    seconds, quarter = time.monotonic() - begun, max(1, len(memory) // 4)
    total = max(1, sum(load.counts.values()))
    third = memory[len(memory) // 3 :]  # by then all programs are compiled
    return {
        "clients": clients,
        "seconds": round(seconds, 1),
        **load.counts,
        "served_share": load.counts["served"] / total,
        "failures": load.failures[:10],
        "audio_seconds": round(load.audio, 1),
        "audio_seconds_a_second": load.audio / seconds,
        "request_seconds_median": statistics.median(load.seconds or [0]),
        "request_seconds_longest": max(load.seconds or [0]),
        "streams": len(load.shares),
        "first_byte_share_median": statistics.median(load.shares or [1]),
        "first_byte_share_longest": max(load.shares or [1]),
        "memory_mib": {
            "first_quarter": round(statistics.median(memory[:quarter])),
            "after_a_third": round(statistics.median(third[:quarter] or memory)),
            "last_quarter": round(statistics.median(memory[-quarter:])),
            "most": round(max(memory)),
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--address")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    server, address, pid = None, options.address, options.pid
    if address is None:
        server, address = start()
        pid = server.pid
    found = measure(address, pid, options.clients, options.minutes)
    if server is not None:
        server.terminate()
        found["exit_status"] = server.wait(timeout=600)
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    memory = found["memory_mib"]
    flat = memory["last_quarter"] <= 1.1 * memory["after_a_third"]
    kept = found["served_share"] >= 0.95 and found["failed"] == 0 and flat
    return not (kept and found["first_byte_share_median"] < 0.25)


if __name__ == "__main__":
    sys.exit(main())
