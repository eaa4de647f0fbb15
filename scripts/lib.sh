# Shared by the scripts of this folder: where things are, and how to say what is missing. To be sourced.

CACHE="${CISTERN_TEST_CACHE:-$HOME/.cache/cistern-tests}"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# have PROGRAM: is it here, or in the cache of tests/clients/install.sh?
have() { command -v "$1" >/dev/null 2>&1 || [ -x "$CACHE/bin/$1" ] || [ -x "/usr/lib/postgresql/15/bin/$1" ]; }

need_rust() {
  have cargo || die "Rust is missing: install it with rustup (the version is in rust-toolchain.toml)"
  have cc || die "a C compiler is missing: on Debian, apt-get install -y --no-install-recommends build-essential"
}

# missing_for REASON PROGRAM…: prints what will be skipped where a program is not here.
missing_for() {
  local reason=$1 program; shift
  for program in "$@"; do
    have "$program" || say "skipped: $reason ($program is not installed; \`make test-all\` installs it)"
  done
}
