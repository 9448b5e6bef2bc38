#!/usr/bin/env bash
# Sets everything up in .venv, checks style and runs the tests.
#   --parity   also installs torch and transformers and compares with them, and libtpu, with which
#              the tests compile for TPUs that are not there
# Other arguments are passed on to pytest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

install_core
pip_install "test tools" "seconds" -r "$ROOT/requirements-test.txt"
for argument in "$@"; do
  if [ "$argument" = --parity ]; then
    # torch goes first: where a CPU build of it is at hand, the rest must not choose another.
    torch="$(grep '^torch==' "$ROOT/requirements-parity.txt")"
    pip_install "torch" "minutes, depending on its build" "$torch"
    pip_install "transformers" "about a minute" -r "$ROOT/requirements-parity.txt"
    pip_install "libtpu" "213 MB" -r "$ROOT/requirements-plan.txt"
  fi
done

cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# Compiling keeps one core busy at a time: one worker a core, at most four for memory's sake.
workers="$(nproc)"
exec "$PYTHON" -m pytest -n "$((workers < 4 ? workers : 4))" --dist loadfile "$@"
