"""The server end to end, with the shipped voice: what its clients rely on."""

import base64
import io
import json
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import av
import numpy as np
import openai
import pytest

from llasa_jax.audio.encode import FORMATS
from llasa_jax.audio.io import decode_audio
from llasa_jax.cli import main
from llasa_jax.metrics.waves import si_sdr

TEXT = "a small bird that sings at night"
LONG = f"{TEXT}. The river was quiet, and another one answered from the other side of it."


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def post(server, path="/v1/audio/speech", timeout=290, **fields):
    """Status, headers and body."""
    data = json.dumps({"input": TEXT, "candidates": 1, "response_format": "wav"} | fields).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.address + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def metric(server, name):
    with urllib.request.urlopen(f"{server.address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_the_openai_client_speaks(client, tmp_path):
    assert [model.id for model in client.models.list()] == ["nano"]
    file = tmp_path / "speech.mp3"
    asked = {"model": "tts-1", "voice": "slt", "input": TEXT}
    with client.audio.speech.with_streaming_response.create(**asked) as answer:
        answer.stream_to_file(file)
    wave, rate = decode_audio(file.read_bytes(), "speech")
    assert rate == 16_000 and 1 < len(wave) / rate < 4
    with pytest.raises(openai.BadRequestError, match="no voice of that name, there are: .*slt"):
        client.audio.speech.create(model="nano", voice="alloy", input=TEXT)
    with pytest.raises(openai.NotFoundError, match="model"):
        client.audio.speech.create(model="other", voice="slt", input=TEXT)


def test_every_format_and_tempo_is_sound_that_says_what_it_is(server):
    lengths = {}
    for format, speed in [*((format, 1.0) for format in FORMATS), ("flac", 1.6)]:
        status, headers, data = post(server, response_format=format, speed=speed)
        assert status == 200 and headers["Content-Type"] == FORMATS[format].media_type
        if format == "pcm":
            lengths[format, speed] = len(data) / 2 / 24_000
            continue
        with av.open(io.BytesIO(data)) as found:
            stream = found.streams.audio[0]
            tags = dict(found.metadata) | dict(stream.metadata)
            assert "synthetic speech" in tags["comment"]
            samples = sum(frame.samples for frame in found.decode(audio=0))
            lengths[format, speed] = samples / stream.rate
    usual = lengths["wav", 1.0]
    assert all(abs(n - usual) < 0.2 for (_, speed), n in lengths.items() if speed == 1)
    assert abs(lengths["flac", 1.6] * 1.6 - usual) < 0.2


def test_the_same_bytes_alone_and_in_company_other_ones_of_another_seed(server):
    alone = post(server, seed=5)[2]
    with ThreadPoolExecutor(3) as threads:
        others = [
            threads.submit(post, server, input=text, seed=seed)
            for text, seed in ((LONG, 1), ("yes", 2))
        ]
        assert threads.submit(post, server, seed=5).result()[2] == alone
        assert all(other.result()[0] == 200 for other in others)
    assert post(server, seed=6)[2] != alone


def test_a_stream_is_the_same_speech_and_begins_early(server):
    whole = decode_audio(post(server, input=LONG)[2], "whole")[0]
    fields = {"input": LONG, "stream": True, "response_format": "pcm"}
    data = json.dumps(fields).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.address}/v1/audio/speech", data, headers)
    with urllib.request.urlopen(request, timeout=200) as answer:
        first = answer.read(1000)
        assert metric(server, "llasa_active_requests ") == 1  # it is still drawn
        streamed = np.frombuffer(first + answer.read(), np.int16) / 32768
    at_24 = np.frombuffer(post(server, input=LONG, response_format="pcm")[2], np.int16) / 32768
    assert len(streamed) == len(at_24) and abs(len(at_24) / 24_000 - len(whole) / 16_000) < 0.1
    assert si_sdr(at_24, streamed) > 18  # of one take; 20 is the mean's (docs/codec.md)
    events = post(server, stream_format="sse", response_format="pcm")[2].decode().split("\n\n")
    found = [json.loads(event.removeprefix("data: ")) for event in events if event]
    assert [one["type"] for one in found[-2:]] == ["speech.audio.delta", "speech.audio.done"]


def test_a_search_tells_its_candidates_and_its_curve(server):
    asked = {"path": "/v1/audio/search", "candidates": 3}
    lines = [json.loads(line) for line in post(server, **asked)[2].splitlines()]
    kinds = [line["type"] for line in lines]
    assert kinds == ["piece", *["candidate"] * 3, "choice", "speech"]
    takes = {line["candidate"]: line for line in lines if line["type"] == "candidate"}
    assert set(takes) == {0, 1, 2}
    assert all({"content", "speaker"} == set(take["scores"]) for take in takes.values())
    choice = lines[-2]
    assert choice["totals"].index(max(choice["totals"])) == choice["candidate"]
    assert [point["candidates"] for point in choice["curve"]] == [1, 2, 3]
    assert choice["curve"][-1]["kept"] == choice["candidate"]
    kept = decode_audio(base64.b64decode(takes[choice["candidate"]]["audio"]), "kept")[0]
    speech = decode_audio(base64.b64decode(lines[-1]["audio"]), "speech")[0]
    assert len(kept) == len(speech) and np.abs(kept - speech)[100:-100].max() < 1e-3


def test_one_after_another_until_one_is_accepted(server):
    asked = {"path": "/v1/audio/search", "candidates": 8, "strategy": "sequential"}
    lines = [json.loads(line) for line in post(server, **asked)[2].splitlines()]
    takes = [line for line in lines if line["type"] == "candidate"]
    accepted = [take["status"] == "ok" and take["scores"]["content"] >= -0.5 for take in takes]
    assert [take["candidate"] for take in takes] == list(range(len(takes)))
    assert not any(accepted[:-1]) and (accepted[-1] or len(takes) == 8)


def test_a_recording_speaks_if_its_speaker_agreed(server, client):
    """Its own speech serves as the recording."""
    recording = base64.b64encode(post(server)[2]).decode()
    asked = {"ref_audio": recording, "ref_text": TEXT, "consent": True}
    status, _, data = post(server, **asked | {"ref_audio": f"data:audio/wav;base64,{recording}"})
    assert status == 200 and len(data) > 20_000
    for change, param in (
        ({"consent": False}, "consent"),
        ({"ref_text": None}, "ref_text"),
        ({"ref_audio": "data:audio/wav,abc"}, "ref_audio"),
        ({"ref_audio": "http://127.0.0.1/" + "a" * 99}, "ref_audio"),
        ({"ref_audio": "/etc/passwd"}, "ref_audio"),
        ({"ref_audio": base64.b64encode(b"RIFF" + bytes(200)).decode()}, "ref_audio"),
    ):
        status, _, data = post(server, **asked | change)
        assert status == 400 and json.loads(data)["error"]["param"] == param, (change, data)
    assert post(server, ref_audio="slt")[2] == post(server, voice={"id": "slt"})[2]


def test_voices_are_added_and_removed(server):
    voice = post(server)[2]
    parts = {"name": b"mine", "ref_text": TEXT.encode(), "consent": b"true", "audio_sample": voice}

    def add(**changes):
        body = b""
        for name, value in (parts | changes).items():
            file = b'; filename="a.wav"' if name == "audio_sample" else b""
            body += b"--x\r\nContent-Disposition: form-data; name=%b%b\r\n\r\n%b\r\n" % (
                f'"{name}"'.encode(), file, value)  # fmt: skip
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        address = f"{server.address}/v1/audio/voices"
        request = urllib.request.Request(address, body + b"--x--\r\n", headers)
        try:
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            assert "error" in json.loads(error.read())
            return error.code

    assert add(consent=b"no") == add(name=b"../a") == add(audio_sample=b"no sound") == 400
    assert add() == 200 and add() == 409
    with urllib.request.urlopen(f"{server.address}/v1/audio/voices") as answer:
        found = json.load(answer)
    assert "mine" in found["voices"] and found["default"] == "slt"
    assert post(server, voice="mine")[0] == 200
    for status in (200, 404):
        address = f"{server.address}/v1/audio/voices/mine"
        request = urllib.request.Request(address, method="DELETE")
        try:
            assert urllib.request.urlopen(request).status == status
        except urllib.error.HTTPError as error:
            assert error.code == status
    assert post(server, voice="mine")[0] == 400


def test_too_many_are_told_to_come_again(server):
    most = server.most
    with ThreadPoolExecutor(most + 6) as threads:
        found = list(threads.map(lambda seed: post(server, input=LONG, seed=seed), range(most + 6)))
    refused = [one for one in found if one[0] == 429]
    assert 1 <= len(refused) <= 6 and len(found) - len(refused) == sum(s == 200 for s, *_ in found)
    for _, headers, data in refused:
        assert int(headers["Retry-After"]) >= 1
        assert json.loads(data)["error"]["type"] == "rate_limit_error"


def test_who_goes_away_is_not_spoken_for(server):
    before = metric(server, "llasa_cancelled_total")
    for fields in ({"candidates": 4, "input": LONG * 3}, {"stream": True, "input": LONG * 3}):
        with pytest.raises(TimeoutError):
            post(server, timeout=0.3, **fields)
    deadline = time.monotonic() + 60
    while metric(server, "llasa_active_requests ") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert metric(server, "llasa_active_requests ") == 0
    assert metric(server, "llasa_cancelled_total") == before + 2
    assert metric(server, "llasa_takes ") == 0


BAD = [
    {"input": ""},
    {"input": "..."},
    {"input": "x" * 5000},
    {"input": None},
    {"input": "\ud800"},
    {"input": TEXT, "speed": 0},
    {"input": TEXT, "speed": "fast"},
    {"input": TEXT, "seed": -1},
    {"input": TEXT, "seed": 1.5},
    {"input": TEXT, "candidates": 0},
    {"input": TEXT, "candidates": 4, "stream": True},
    {"input": TEXT, "response_format": "wma"},
    {"input": TEXT, "strategy": "magic"},
    {"input": TEXT, "voice": {"id": 5}},
    {"input": TEXT, "instructions": "sing"},
    {"input": TEXT, "voice": "\x00"},
]


@pytest.mark.parametrize("fields", BAD, ids=range(len(BAD)))
def test_bad_fields_are_named(server, fields):
    status, _, data = post(server, **fields)
    error = json.loads(data)["error"]
    assert status == 400 and error["type"] == "invalid_request_error" and error["param"], error


def test_bodies_that_are_no_requests(server):
    for body in (b"", b"[", b"[" * 100_000, b"null", b"\xff", b'{"input": 1e999}', b"{}" * 99):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{server.address}/v1/audio/speech", body, headers)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=60)
        assert error.value.code == 400 and "message" in json.loads(error.value.read())["error"]


def test_the_page_may_run_nothing_but_its_own_script(server):
    with urllib.request.urlopen(server.address) as answer:
        policy, html = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert 'src="http' not in html and "url(" not in html


def test_what_cannot_be_served_is_one_line(tmp_path, capsys):
    keys = tmp_path / "keys"
    keys.write_text("short\n")
    for arguments, message in (
        (["--host", "0.0.0.0"], "anybody could ask; give keys with --key-file"),
        (["--key-file", str(keys)], "of 16 characters or more"),
        (["--key-file", str(tmp_path / "none")], "no readable key file"),
        (["--slots", "0"], "serve.slots"),
        (["--host", "256.0.0.1", "--key-file", str(keys)], "16 characters"),
    ):
        old = signal.getsignal(signal.SIGTERM)
        assert main(["serve", *arguments]) == 2
        signal.signal(signal.SIGTERM, old)
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_what_runs_is_finished_before_the_end(start):
    process, address, lines = start("--slots", 2)
    server = SimpleNamespace(address=address)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(post, server, input=LONG * 2, stream=s) for s in (False, True)]
        while metric(server, "llasa_takes ") < 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        found = [one.result() for one in asked]
    assert process.wait(timeout=100) == 0
    assert [status for status, *_ in found] == [200, 200]
    lengths = [len(decode_audio(data, "speech")[0]) for *_, data in found]
    assert lengths[0] == lengths[1] > 100_000
    assert lines[-1] == "served what was asked; ended\n"
