#!/usr/bin/env bash
# Every test, nothing skipped: installs what the suites need, then runs them on both ends of the storage choice
# (SQLite + folder, PostgreSQL + S3) and lets the real clients loose on a fresh server.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

need_rust
tests/clients/install.sh
export CISTERN_REQUIRE_CLIENTS=1
threads="${CISTERN_TEST_THREADS:-4}"

step() { say; say "== $* ($(date +%T))"; }

step "all tests on SQLite + folder"
cargo test --workspace --locked --no-fail-fast -- --test-threads="$threads"

step "the black-box suite on PostgreSQL + S3"
CISTERN_TEST_WORLD=postgres+s3 cargo test --locked -p cistern --test it -- --test-threads="$threads"

step "the store's own suite on PostgreSQL + S3"
tests/clients/with-postgres-and-s3.sh cargo test --locked -p cistern-store -- --test-threads="$threads"

step "doctl, godo and pydo"
tests/clients/run.sh

step "all passed"
