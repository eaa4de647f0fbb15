#!/usr/bin/env bash
# Every test, nothing skipped: installs what the suites need, runs `make test` (SQLite + folder) with it, then what needs
# more: the other end of the storage choice (PostgreSQL + S3), and the real clients against fresh servers.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

need_rust
tests/clients/install.sh
export CISTERN_REQUIRE_CLIENTS=1
threads="${CISTERN_TEST_THREADS:-4}"

step() { say; say "== $* ($(date +%T))"; }

step "make test, with everything here that it can use"
scripts/test.sh

step "the black-box suite on PostgreSQL + S3"
CISTERN_TEST_WORLD=postgres+s3 cargo test --locked -p cistern --test it -- --test-threads="$threads"

step "the store's own suite on PostgreSQL + S3"
# The model and the simulation need neither, and have run.
tests/clients/with-postgres-and-s3.sh cargo test --locked -p cistern-store --lib --test store -- --test-threads="$threads"
tests/clients/with-postgres-and-s3.sh cargo test --locked -p cistern --lib journal -- --test-threads="$threads"

step "doctl, godo and pydo"
tests/clients/run.sh

step "all passed"
