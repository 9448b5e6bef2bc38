"""Settings of the server."""

from dataclasses import dataclass

from llasa_jax.config.checks import require


@dataclass(frozen=True)
class ServeConfig:
    """How `llasa serve` listens, and what it takes on at once.

    `slots`: takes that are drawn together. `queue`: requests that may wait beside as many as there
    are slots; further ones are told to come again. `timeout`: seconds that a request may take,
    waiting included. `candidates`: takes of a request that does not say how many.
    `chunk_seconds`: of a stream's pieces. `keys`: one must come with a request, if there are any.
    `names`: under which the server is asked, beside addresses and localhost.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    slots: int = 32
    queue: int = 64
    timeout: float = 300.0
    candidates: int = 4
    chunk_seconds: float = 0.5
    keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self):
        require(0 <= self.port < 65536, "serve.port: from 0 (any that is free) to 65535")
        require(0 < self.slots <= 4096, "serve.slots: from 1 to 4096")
        require(0 <= self.queue <= 100_000, "serve.queue: from 0 to 100000")
        require(self.timeout > 0, "serve.timeout: must be positive")
        require(1 <= self.candidates <= MOST_CANDIDATES, f"serve.candidates: to {MOST_CANDIDATES}")
        require(0.2 <= self.chunk_seconds <= 10, "serve.chunk_seconds: from 0.2 to 10")
        require(all(key.isascii() for key in self.keys), "serve.keys: must be ASCII")


MOST_CANDIDATES = 64
