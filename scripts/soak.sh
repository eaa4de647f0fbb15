#!/usr/bin/env bash
# The long rounds, run before a release: all four storage worlds, kill -9, two servers with the usual leases, power loss, long
# fuzzing. Takes two hours on two cores; PARTS="worlds kills two simulation power fuzz" names those that are wanted.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

for part in ${PARTS:-}; do
  case $part in
    worlds | kills | two | simulation | power | fuzz) ;;
    *) say "there is no part \`$part\`: worlds, kills, two, simulation, power, fuzz" >&2; exit 2 ;;
  esac
done
need_rust
tests/clients/install.sh
export CISTERN_REQUIRE_CLIENTS=1
rounds="${CISTERN_ROUNDS:-1000}"
fuzz_seconds="${CISTERN_FUZZ_SECONDS:-1800}"
parts="${PARTS:-worlds kills two simulation power fuzz}"

worlds() {
  for world in sqlite+folder postgres+s3 postgres+folder sqlite+s3; do
    say "== black-box suite on $world"
    CISTERN_TEST_WORLD=$world cargo test --locked -p cistern --test it -- --test-threads=4
  done
}

kills() {
  for world in sqlite+folder postgres+s3; do
    say "== $rounds rounds of kill -9 on $world"
    CISTERN_TEST_WORLD=$world CISTERN_ROUNDS=$rounds cargo test --locked -p cistern --test it kill:: -- --nocapture
  done
}

two() {
  say "== two servers, one killed, cut off or asleep for minutes"
  CISTERN_TEST_WORLD=postgres+s3 CISTERN_TWO_MINUTES=1 cargo test --locked -p cistern --test it two:: -- --nocapture
}

simulation() {
  say "== 20,000 seeds of the store's simulation"
  cargo run --locked --release -p cistern-store --example simulate -- 2000..22000
}

power() {
  local seed
  for seed in 11 12 13 14 15; do
    say "== states after a power loss, seed $seed, and every call to the database's file that can fail"
    CISTERN_CRASH_SEED=$seed CISTERN_CRASH_SINGLE=24 CISTERN_CRASH_DRAWN=8 CISTERN_CRASH_ONE_IN=4 CISTERN_CRASH_STEP=0 \
      cargo test --locked -p cistern-store --test crash -- --nocapture
  done
}

fuzz() {
  say "== fuzzing, $fuzz_seconds seconds a target"
  crates/fuzz/run.sh "$fuzz_seconds"
}

for part in $parts; do "$part"; done
say "== soak passed: $parts"
