#!/usr/bin/env bash
# Fuzzes the parsers: run.sh SECONDS [TARGET…] (all targets where none is named, as many at once as there are cores).
#
# Runs on the pinned stable toolchain: RUSTC_BOOTSTRAP=1 allows the instrumentation. Needs a C++ compiler (g++ will
# do) for libFuzzer's runtime, and crates.io the first time. What is found goes to crates/fuzz/artifacts/TARGET; the
# growing corpus stays in crates/fuzz/corpus and is not committed, the seeds are (`cargo run --example seeds`).
set -euo pipefail
version=0.13.1
if [ $# -lt 1 ]; then
    echo "usage: $0 SECONDS [TARGET…]" >&2
    exit 2
fi
seconds=$1
shift
cd "$(dirname "$0")/../.."
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(sed -n 's/^name = "\(.*\)"$/\1/p' crates/fuzz/Cargo.toml | grep -v '^cistern-fuzz$')
fi
if ! cargo fuzz --version 2>/dev/null | grep -qF "$version"; then
    cargo install --locked --quiet cargo-fuzz --version "$version"
fi
export RUSTC_BOOTSTRAP=1
for target in "${targets[@]}"; do
    cargo fuzz build --fuzz-dir crates/fuzz "$target"
done
# What one target said is printed when it ends, so that the targets' lines do not mix.
fuzz() {
    local target=$1 seconds=$2 corpus=crates/fuzz/corpus/$1 said
    mkdir -p "$corpus"
    if said=$(cargo fuzz run --fuzz-dir crates/fuzz "$target" "$corpus" "crates/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=0 2>&1); then
        printf '== %s for %s s\n%s\n' "$target" "$seconds" "$(grep -E '^(Done|stat::)' <<<"$said")"
    else
        printf '== %s FAILED\n%s\n' "$target" "$said"
        return 1
    fi
}
export -f fuzz
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I '{}' bash -c "fuzz {} $seconds"
