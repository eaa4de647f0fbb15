#!/usr/bin/env bash
# Cistern beside restic, borg, kopia and qemu-img in one run, into docs/benchmarks.md: import, the same again, a changed
# version, export, memory; reading, gc, growth and sizes of chunks; lists at a million images. Takes about half an hour; nothing else
# should run.
#
#   scripts/bench.sh                    everything
#   scripts/bench.sh --rounds 1         quicker, and no median
#   scripts/bench.sh --only PART    one of disks, fsyncs, reads, gc, sizes, chunks, lists, profile, to standard output alone
#
# The disks (two releases of a Debian server, and a half-random one) are kept in the cache of tests/clients/install.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

need_rust
have python3 || die "python3 is missing: apt-get install -y --no-install-recommends python3"
tests/clients/install.sh apt restic kopia versitygw
say "Building (the first time takes some minutes) …"
# With symbols, for the profile; they take no time.
cargo rustc --release --locked --quiet -p cistern --bin cistern -- -C strip=none
cargo build --release --locked --quiet -p cistern-store --example measure
(cd crates/bench && cargo build --release --locked --quiet)
mkdir -p "$CACHE/bench-disks"
scripts/demo-disk.sh "$CACHE/bench-disks"
PATH=$CACHE/bin:$PATH exec python3 scripts/bench.py --disks "$CACHE/bench-disks" "$@"
