"""Serving: `llasa serve`."""

from pathlib import Path

from llasa_jax.cli.common import MODEL, command


def add_serve(commands) -> None:
    from llasa_jax.config.serve import ServeConfig

    usual = ServeConfig()
    text = "Speak over HTTP: OpenAI's speech API, and a page."
    parser = command(commands, "serve", _run_serve, text)
    parser.add_argument("--model", type=Path, default=None, help=MODEL)
    parser.add_argument("--host", default=usual.host, help=f"address to listen on ({usual.host})")
    help = f"0: any that is free ({usual.port})"
    parser.add_argument("--port", type=int, default=usual.port, help=help)
    help = "a name under which it is asked, beside localhost and addresses; may be repeated"
    parser.add_argument("--name", action="append", default=[], help=help)
    help = "keys, one a line, of which requests must bring one; needed beyond loopback"
    parser.add_argument("--key-file", type=Path, default=None, help=help)
    help = f"takes that are drawn together ({usual.slots})"
    parser.add_argument("--slots", type=int, default=usual.slots, help=help)
    help = f"requests that may wait beside as many as there are slots ({usual.queue})"
    parser.add_argument("--queue", type=int, default=usual.queue, help=help)
    help = f"seconds that a request may take ({usual.timeout:g})"
    parser.add_argument("--timeout", type=float, default=usual.timeout, help=help)
    help = f"takes of a request that does not say how many ({usual.candidates})"
    parser.add_argument("--candidates", type=int, default=usual.candidates, help=help)


def _run_serve(options) -> None:
    from llasa_jax.config.serve import ServeConfig
    from llasa_jax.recipes.serve import read_keys, serve
    from llasa_jax.recipes.stages import shipped_model

    config = ServeConfig(
        host=options.host,
        port=options.port,
        slots=options.slots,
        queue=options.queue,
        timeout=options.timeout,
        candidates=options.candidates,
        keys=read_keys(options.key_file) if options.key_file else (),
        names=tuple(options.name),
    )
    serve(options.model or shipped_model(), config)
