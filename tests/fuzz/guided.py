"""Coverage-guided fuzzing of one reader, where `atheris` is installed (pip install atheris).

    python tests/fuzz/guided.py TARGET [libFuzzer's options, as -max_total_time=600]

Starts from the target's own seeds, in a folder of their own.
"""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]


def main() -> None:
    import atheris

    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["llasa_jax"]):
        from targets import TARGETS, accepts
    corpus = Path(tempfile.mkdtemp(prefix=f"llasa-{name}-"))
    for number, seed in enumerate(TARGETS[name].seeds()):
        (corpus / str(number)).write_bytes(seed)
        accepts(name, seed)  # imports the reader
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: accepts(name, data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
