"""Who may ask, and how much a request may hold."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse

from llasa_jax.serve import gate
from llasa_jax.serve.gate import MOST_BYTES, Gate

KEYS = ("a-key-of-many-letters", "another-key-of-many")


async def echo(scope, receive, send):
    message = await receive()
    await PlainTextResponse(str(len(message["body"])))(scope, receive, send)


def ask(headers=(), body=(b"",), path="/v1/models", keys=(), names=("voice.example",), rest=None):
    """Status, and what came back."""
    counted, sent = [], []
    app = Gate(echo, names, keys, lambda *one: counted.append(one))
    pieces = [
        {"type": "http.request", "body": piece, "more_body": i + 1 < len(body)}
        for i, piece in enumerate(body)
    ]

    async def receive():
        if pieces:
            return pieces.pop(0)
        return await rest() if rest else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    given = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": "POST", "path": path, "headers": given}
    asyncio.run(app(scope, receive, send))
    if not sent:
        return None, None
    assert counted == [("none", sent[0]["status"])]
    assert (b"x-content-type-options", b"nosniff") in sent[0]["headers"]
    return sent[0]["status"], sent[1]["body"].decode()


def error(found):
    return json.loads(found[1])["error"]["code"]


LOCAL = ("Host", "127.0.0.1:8000")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "192.168.1.2:1", "Voice.example:99"],
)
def test_own_names_and_addresses_are_served(host):
    assert ask([("Host", host)]) == (200, "0")


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[::1", "["]
)
def test_names_that_point_here_are_refused(host):
    found = ask([("Host", host)])
    assert found[0] == 403 and error(found) == "host"


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=40))
def test_no_host_or_origin_raises(text):
    assert ask([("Host", text)])[0] in (200, 403)
    assert ask([LOCAL, ("Origin", text)])[0] in (200, 403)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8000", 200),
        ("https://127.0.0.1:8000", 200),
        ("http://127.0.0.1:8001", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("file://127.0.0.1:8000", 403),
    ],
)
def test_pages_of_other_sites_may_not_ask(origin, status):
    assert ask([LOCAL, ("Origin", origin)])[0] == status


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {KEYS[0]}", 200),
        (f"bearer {KEYS[1]} ", 200),
        (f"Basic {KEYS[0]}", 401),
        ("Bearer wrong", 401),
        ("Bearer ", 401),
        ("Bearer \xff\xfe", 401),
        ("", 401),
    ],
)
def test_a_key_opens(given, status):
    found = ask([LOCAL, ("Authorization", given)], keys=KEYS)
    assert found[0] == status
    assert status == 200 or error(found) == "invalid_api_key"
    assert ask([LOCAL, ("Authorization", given)], keys=KEYS, path="/health")[0] == 200


def test_bodies_are_bounded(monkeypatch):
    assert ask([LOCAL], body=(b"abc", b"de")) == (200, "5")
    for headers, body in (
        ([LOCAL, ("Content-Length", str(MOST_BYTES + 1))], (b"",)),
        ([LOCAL, ("Content-Length", "9" * 50)], (b"",)),
        ([LOCAL, ("Content-Length", "-1")], (b"",)),
        ([LOCAL], (b"x" * MOST_BYTES, b"x")),  # in chunks, with no length said
    ):
        found = ask(headers, body=body)
        assert found[0] == 413 and error(found) == "too_large"
    assert ask([LOCAL], body=()) == (None, None)  # gone

    async def never():
        await asyncio.sleep(1000)

    monkeypatch.setattr(gate, "BODY_SECONDS", 0.01)
    assert ask([LOCAL], body=(), rest=never)[0] == 408
