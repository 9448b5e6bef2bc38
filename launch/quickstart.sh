#!/usr/bin/env bash
# Sets everything up in .venv and runs `llasa quickstart`. Arguments are passed on to it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

install_core
large_pages
exec "$VENV/bin/llasa" quickstart "$@"
