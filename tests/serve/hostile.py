"""Sends a server what nobody should, and counts what comes back.

    python tests/serve/hostile.py http://127.0.0.1:8000 [--count 10000] [--seed 0]

Prints one JSON object: requests by kind, answers by status, and what is wrong: answers of 500,
tracebacks in them, answers that take over a minute, and a server that does not speak afterwards.
Exit status 1 if anything is.
"""

import argparse
import base64
import collections
import io
import json
import random
import socket
import sys
import time
from urllib.parse import urlsplit

import numpy as np
import soundfile

HANG = 60.0  # seconds
FIELDS = (
    "input model voice response_format speed seed ref_audio ref_text consent candidates strategy "
    "stream stream_format instructions language __proto__ id"
).split()
PATHS = (
    "/ /health /metrics /openapi.json /v1/models /v1/models/nano /v1/models/%00 /v1/audio/voices "
    "/v1/audio/voices/slt /v1/audio/voices/..%2f..%2fetc /v1/audio/speech /v1/audio/search "
    "//v1/audio/speech /v1/../../etc/passwd /v1/audio/speech?x=%ff /%ff /docs /redoc"
).split()
METHODS = "GET POST PUT PATCH DELETE HEAD OPTIONS TRACE CONNECT BREW".split()
STRANGE = (
    "", " ", "\0", "\ud800", "\u202e", "...", "a" * 4097, "é" * 300, "\U0001f600" * 50, "'; --",
    "../../etc/passwd", "http://127.0.0.1:22/", "file:///etc/passwd", "{{7*7}}", "%s%n", "NaN",
    "<script>alert(1)</script>", "\r\nX-A: b", "data:audio/wav;base64,", "data:,", "a\u0300" * 500,
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**32, 2**63, -(2**70), 10**400, 1e308, -0.0, 0.1, 5, 64, 65)


class Sender:
    def __init__(self, address: str, seed: int):
        parts = urlsplit(address)
        self.place = parts.hostname, parts.port
        self.random = random.Random(seed)
        wave = np.sin(np.arange(32_000) / 20).astype(np.float32)
        self.sounds = []
        for kind in ("WAV", "FLAC", "OGG"):
            file = io.BytesIO()
            soundfile.write(file, wave, 16_000, format=kind)
            self.sounds.append(file.getvalue())

    # What is sent

    def value(self, depth: int = 0) -> object:
        pick = self.random.random()
        if pick < 0.35:
            return self.random.choice(STRANGE)
        if pick < 0.6:
            return self.random.choice(NUMBERS)
        if pick < 0.75 or depth > 3:
            return self.random.choice([None, True, False, [], {}])
        if pick < 0.87:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return {self.random.choice(FIELDS): self.value(depth + 1) for _ in range(3)}

    def wrong_fields(self) -> bytes:
        """Never a request that could be spoken: its text is no text."""
        names = self.random.sample(FIELDS, self.random.randrange(1, 6))
        found = {name: self.value() for name in names}
        found["input"] = self.random.choice(
            [None, 5, [], {}, "", "...", "\0", "x" * 5000, "\ud800"]
        )
        return self.json(found)

    def json(self, found: object) -> bytes:
        return json.dumps(found, allow_nan=True).encode()

    def broken_json(self) -> bytes:
        data = bytearray(self.json({"input": "hello", "seed": 1, "voice": "slt"}))
        for _ in range(self.random.randrange(1, 6)):
            place = self.random.randrange(len(data))
            action = self.random.random()
            if action < 0.4:
                data[place] = self.random.randrange(256)
            elif action < 0.7:
                del data[place:]
                data += b"{"
            else:
                data[place:place] = self.random.choice(
                    [b"[" * 5000, b'{"a":' * 900, b"\xff", b"\0"]
                )
        return bytes(data) + b"]"

    def broken_sound(self) -> bytes:
        data = bytearray(self.random.choice(self.sounds))
        for _ in range(self.random.randrange(1, 30)):
            data[self.random.randrange(min(len(data), 400))] = self.random.randrange(256)
        if self.random.random() < 0.3:
            del data[self.random.randrange(len(data)) :]
        return bytes(data)

    def reference(self) -> bytes:
        text = base64.b64encode(self.broken_sound()).decode()
        if self.random.random() < 0.3:
            text = "data:audio/wav;base64," + text
        if self.random.random() < 0.2:
            text = text[:-1] + "!"
        found = {"input": "hello there", "ref_audio": text, "ref_text": "some other words"}
        return self.json(found | {"consent": self.random.random() < 0.8})

    def multipart(self) -> bytes:
        data = b""
        for name in self.random.choices(["name", "audio_sample", "consent", "ref_text", "x"], k=4):
            value = self.random.choice(
                [self.broken_sound(), b"true", b"../a", b"\xff\0", b"a" * 500]
            )
            data += b'--x\r\nContent-Disposition: form-data; name="%b"' % name.encode()
            data += self.random.choice([b"", b'; filename="../../a"', b'; filename="\r\n"'])
            data += b"\r\n\r\n" + value + b"\r\n"
        return data + self.random.choice([b"--x--\r\n", b"", b"--x"])

    def head(self, method: str, path: str, body: bytes, kind: str = "application/json") -> bytes:
        headers = {"Host": f"{self.place[0]}:{self.place[1]}", "Content-Type": kind}
        headers |= {"Content-Length": str(len(body)), "Connection": "close"}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {v}" for name, v in headers.items())]
        return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body

    def request(self) -> tuple[str, bytes]:
        """A kind, and bytes."""
        one = self.random
        kind = one.choices(
            ["fields", "json", "reference", "multipart", "route", "host", "headers", "raw", "gone"],
            [30, 15, 12, 10, 12, 6, 8, 5, 2],
        )[0]
        speak = one.choice(["/v1/audio/speech", "/v1/audio/search"])
        if kind == "fields":
            return kind, self.head("POST", speak, self.wrong_fields())
        if kind == "json":
            return kind, self.head("POST", speak, self.broken_json())
        if kind == "reference":
            return kind, self.head("POST", speak, self.reference())
        if kind == "multipart":
            media = one.choice(["multipart/form-data; boundary=x", "multipart/form-data", "text/x"])
            return kind, self.head("POST", "/v1/audio/voices", self.multipart(), media)
        if kind == "route":
            body = one.choice([b"", b"null", b"{}", b"x" * 1000])
            return kind, self.head(one.choice(METHODS), one.choice(PATHS), body)
        if kind == "host":
            data = self.head("POST", speak, self.json({"input": "hello"}))
            name = one.choice(
                ["evil.example", "localhost.evil.example", "[", "", "\xff", "a" * 9000]
            )
            if one.random() < 0.5:
                return kind, data.replace(b"\r\n", b"\r\nOrigin: http://evil.example\r\n", 1)
            own = f"Host: {self.place[0]}:{self.place[1]}".encode()
            return kind, data.replace(own, b"Host: " + name.encode("latin-1"))
        if kind == "headers":
            body = self.wrong_fields()
            length = f"Content-Length: {len(body)}".encode()
            other = one.choice(
                [
                    b"Content-Length: 99999999999",
                    b"Content-Length: -5",
                    b"Content-Length: 1e3",
                    b"Transfer-Encoding: chunked",
                    b"X: " + b"y" * 70_000,
                    b"Expect: 100-continue\r\n" + length,
                    length + b"\r\n" + length + b"0",
                    b"Content-Encoding: gzip\r\n" + length,
                ]
            )
            return kind, self.head("POST", speak, body).replace(length, other)
        if kind == "raw":
            return kind, one.randbytes(one.randrange(1, 3000)) + b"\r\n\r\n"
        fields = {"input": "hello there", "stream": one.random() < 0.5}
        return kind, self.head("POST", speak, self.json(fields))  # to be left alone

    # What comes back

    def send(self, kind: str, data: bytes) -> tuple[str, bytes, float]:
        """Status, or how it ended; the answer; seconds."""
        start = time.monotonic()
        answer = b""
        try:
            with socket.create_connection(self.place, timeout=HANG) as connection:
                connection.sendall(data)
                if kind == "gone":
                    return "left", b"", 0.0
                if kind in ("headers", "raw"):  # may promise more than comes
                    connection.shutdown(socket.SHUT_WR)
                while more := connection.recv(65536):
                    answer += more
        except TimeoutError:
            return "hang", answer, time.monotonic() - start
        except OSError:
            if not answer:
                return "closed", answer, time.monotonic() - start
        parts = answer.split(b" ", 2)
        status = parts[1].decode("latin-1") if answer.startswith(b"HTTP/") else "closed"
        return status, answer, time.monotonic() - start


def assault(address: str, count: int, seed: int) -> dict:
    sender = Sender(address, seed)
    kinds, statuses, wrong = collections.Counter(), collections.Counter(), []
    slowest = 0.0
    for number in range(count):
        kind, data = sender.request()
        try:
            status, answer, seconds = sender.send(kind, data)
        except KeyboardInterrupt:  # what was done counts
            count = number
            break
        kinds[kind] += 1
        statuses[status] += 1
        slowest = max(slowest, seconds)
        if (
            status == "hang"
            or status.startswith("50")
            and status != "503"
            or b"Traceback" in answer
        ):
            wrong.append(
                {"number": number, "kind": kind, "status": status, "sent": repr(data[:400])}
            )
            print(json.dumps(wrong[-1]), file=sys.stderr)
        if number % 1000 == 999:
            print(f"{number + 1} of {count}, {len(wrong)} wrong", file=sys.stderr)
    spoken = {"input": "it still speaks", "candidates": 1, "response_format": "wav"}
    status, answer, _ = sender.send(
        "last", sender.head("POST", "/v1/audio/speech", sender.json(spoken))
    )
    if status != "200" or b"RIFF" not in answer:
        wrong.append({"number": count, "kind": "last", "status": status})
    found = {"requests": count, "kinds": dict(kinds), "statuses": dict(statuses)}
    return found | {"slowest_seconds": round(slowest, 2), "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = assault(options.address, options.count, options.seed)
    print(json.dumps(found))
    return bool(found["wrong"])


if __name__ == "__main__":
    sys.exit(main())
