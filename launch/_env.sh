# shellcheck shell=bash
# Shared by the launch scripts, which source it: finds Python, makes .venv, installs into it.
# Works without root, and where Debian's python3-venv (ensurepip) is missing.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore PIP_USER=0

say() { printf '%s\n' "$*" >&2; }

die() {
  say "llasa: error: $*"
  exit 2
}

# The first Python that the pinned packages are made for; else any newer one.
find_python() {
  local candidate newest
  for newest in 13 99; do
    for candidate in python3 python3.13 python3.12 python3.11; do
      if "$candidate" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $newest))" \
        >/dev/null 2>&1; then
        command -v "$candidate"
        return
      fi
    done
  done
  die "no Python 3.11 or newer on PATH; install one (python3.12, say)"
}

# Makes .venv unless a working one is there, whoever made it.
make_venv() {
  local python free
  if ! "$PYTHON" -c '' >/dev/null 2>&1; then
    python="$(find_python)"
    free="$(df -Pk "$ROOT" | awk 'NR == 2 {print $4}')"
    [ "$free" -gt 3000000 ] || die "no disk space: $ROOT has $((free / 1024)) MiB free, 3 GiB are needed"
    say "Making $VENV with $("$python" --version)"
    rm -rf "$VENV" # left over from a moved folder or a removed Python
    "$python" -m venv --without-pip "$VENV" || die "cannot make $VENV; see the message above"
  fi
  "$PYTHON" -m pip --version >/dev/null 2>&1 || bootstrap_pip
}

# Puts pip into .venv: Python's own copy, else the one in Debian's package, unpacked.
bootstrap_pip() {
  local work apt wheels
  "$PYTHON" -m ensurepip >/dev/null 2>&1 && return
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    die "this Python has no ensurepip; install your system's package for it (python3-venv)"
  fi
  say "Fetching pip from the package python3-pip-whl"
  work="$(mktemp -d)"
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  apt=(-oDir::State::Lists="$work/lists" -oDir::Cache="$work/cache" -oAPT::Sandbox::User=root)
  # apt's status after update also tells of broken sources that are not needed here.
  (
    cd "$work"
    apt-get "${apt[@]}" update || true
    apt-get "${apt[@]}" download python3-pip-whl
    dpkg-deb -x python3-pip-whl_*.deb .
  ) >"$work/log" 2>&1 || die "cannot fetch pip: $(tail -n 1 "$work/log"); check the network"
  wheels=("$work"/usr/share/python-wheels/pip-*.whl)
  "$PYTHON" "${wheels[0]}/pip" install --quiet --no-index "${wheels[0]}" ||
    die "cannot install pip into $VENV; see the message above"
  rm -rf "$work"
}

# Debian's pip reads the system's certificates; a bare system has none, but the wheel has its own.
find_certificates() {
  local bundled
  bundled="$("$PYTHON" -c 'import pip; print(pip.__path__[0])')/_vendor/certifi/cacert.pem"
  if [ -z "${PIP_CERT:-}" ] && [ ! -e /etc/ssl/certs/ca-certificates.crt ] && [ -e "$bundled" ]; then
    export PIP_CERT="$bundled"
  fi
}

# pip_install NAME TIME ARGUMENT...: runs pip once for each state of the pins, TIME said before.
pip_install() {
  local name="$1" time="$2" stamp="$VENV/.installed-$1" state count=0 line
  shift 2
  state="$ROOT $* $(cat "$ROOT"/pyproject.toml "$ROOT"/requirements*.txt | cksum)"
  [ "$(cat "$stamp" 2>/dev/null)" = "$state" ] && return
  say "Installing $name into $VENV ($time)"
  find_certificates
  # Byte code is made at first import, for what is imported only: that halves the time.
  "$PYTHON" -m pip install --no-compile --progress-bar off "$@" | while read -r line; do
    case "$line" in
    Collecting*)
      count=$((count + 1))
      [ $((count % 20)) -ne 0 ] || say "  $count packages downloaded"
      ;;
    "Installing collected"*) say "  unpacking $count packages" ;;
    esac
  done || die "cannot install $name; see pip's message above"
  printf '%s\n' "$state" >"$stamp"
}

# Everything that `llasa` needs. Resemblyzer's wheel holds weights; its dependencies are not used.
install_core() {
  make_venv
  pip_install "packages" "about 2 minutes" -r "$ROOT/requirements.txt"
  pip_install "llasa" "seconds" --no-deps -r "$ROOT/requirements-nodeps.txt" -e "$ROOT"
}

# The command that install_core makes.
llasa() { "$VENV/bin/llasa" "$@"; }

# Large pages for what glibc allocates: half the time spent in the kernel, a few more steps.
large_pages() { export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"; }
