#!/usr/bin/env bash
# Every test that this machine can run. What needs a program that is not here is skipped, with the reason printed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

need_rust
say "Building the tests: some minutes the first time."
cargo test --workspace --locked --no-run
say "Running them."
cargo test --workspace --locked --quiet --no-fail-fast -- --nocapture --test-threads="${CISTERN_TEST_THREADS:-4}" \
  2>&1 | grep -v -E '^(running 0 tests|test result: ok\. 0 passed.*)?$'

missing_for "exports checked by qemu-img" qemu-img
missing_for "doctl, godo and pydo against a server" doctl pydo
missing_for "the suite on PostgreSQL and S3" postgres versitygw
say "Everything this machine can run has passed."
