#!/usr/bin/env bash
# Licences, bans and sources of every dependency, by cargo-deny.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
if [ -x "$CACHE/bin/cargo-deny" ]; then
  PATH="$CACHE/bin:$PATH" cargo deny --log-level error check licenses bans sources
elif [ -n "${CISTERN_REQUIRE_CLIENTS:-}" ]; then
  die "cargo-deny is not installed: tests/clients/install.sh cargo-deny"
else
  say "skipped: licences of dependencies (cargo-deny is not installed; tests/clients/install.sh cargo-deny)"
fi
