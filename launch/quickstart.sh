#!/usr/bin/env bash
# Sets everything up in .venv and runs `llasa quickstart`. Arguments are passed on to it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

install_core
# Large pages for what glibc allocates: half the time spent in the kernel, a few more steps.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
exec "$VENV/bin/llasa" quickstart "$@"
