#!/usr/bin/env bash
# Runs DigitalOcean's own clients against fresh servers: doctl over http, godo and pydo over TLS; and tus uploads.
#
#   run.sh                 all of them
#   run.sh doctl godo…     only these
#   CISTERN_BIN=FILE       the executable to judge (default: builds target/debug/cistern)
#
# The servers listen on loopback and live in a folder that is removed afterwards; with KEEP=1 it is kept and named.
# Exit code 1 when a check failed, 2 when a server or a client is missing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${CISTERN_TEST_CACHE:-$HOME/.cache/cistern-tests}
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# What a person has set for a server of their own must not decide anything here.
# Nor do the variables of these suites concern the server, which refuses those that it does not know.
bin=${CISTERN_BIN:-}
for name in $(compgen -e CISTERN_); do
  [[ $name == CISTERN_TEST_* ]] || unset "$name"
done

suites=("$@")
((${#suites[@]})) || suites=(doctl godo pydo tus)
say() { printf '%s\n' "$*" >&2; }

work=$(mktemp -d)
children=()
clean_up() {
  local child
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  wait
  if [[ -n ${KEEP:-} ]]; then say "kept: $work"; else rm -rf "$work"; fi
}
trap clean_up EXIT

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# A disk with a partition table and a file system: the least that is no refusal.
make_files() {
  mkdir "$work/files"
  truncate -s 64M "$work/files/disk.raw"
  printf 'label: dos\nstart=2048,type=83,bootable\n' | sfdisk -q "$work/files/disk.raw"
  mke2fs -q -t ext4 -d "$here" -E offset=1048576 "$work/files/disk.raw" 60M
  printf 'This is a letter, not a disk.\n' >"$work/files/letter.txt"
  python3 "$root/scripts/serve-files.py" "$work/files" >"$work/files.log" &
  children+=($!)
  wait_for 'the file server' grep -q '^serving' "$work/files.log"
  files=$(grep -o 'http://[^ ]*' "$work/files.log")
}

wait_for() { # WHAT COMMAND…
  local what=$1 deadline=$((SECONDS + 30))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { say "$what did not come up"; tail -n 20 "$work"/*.log >&2; exit 2; }
    sleep 0.1
  done
}

# server NAME SCHEME FLAG… : sets $url and $token.
server() {
  local name=$1 scheme=$2 data=$work/$1
  shift 2
  url=$scheme://127.0.0.1:$(free_port)
  "$bin" serve --data "$data" --listen-api "${url#*://}" --listen-registry "127.0.0.1:$(free_port)" \
    --fetch-allow 127.0.0.0/8 "$@" >"$work/$name.log" 2>&1 &
  children+=($!)
  wait_for "the $name server" curl -fsSk "$url/readyz"
  token=$("$bin" token create --data "$data" --name clients)
}

wanted() { [[ " ${suites[*]} " == *" $1 "* ]]; }

run_suite() { # NAME COMMAND… : against $url with $token
  local name=$1 start=$SECONDS code=0
  shift
  say "== $name against $url"
  env CISTERN_URL="$url" CISTERN_TOKEN="$token" "${subject[@]}" "$@" >"$work/$name.out" || code=$?
  grep -v '^ok ' "$work/$name.out" || true
  say "== $name: $((SECONDS - start)) s"
  if ((code)); then failed+=("$name"); fi
}

"$here/install.sh" "${suites[@]}"
if [[ -z $bin ]]; then
  (cd "$root" && cargo build --quiet --locked -p cistern)
  bin=$root/target/debug/cistern
fi
[[ -x $bin ]] || { say "no executable at \`$bin\`"; exit 2; }
failed=()
make_files
subject=(CISTERN_IMAGE_URL="${files}disk.raw" CISTERN_BAD_IMAGE_URL="${files}letter.txt")

if wanted doctl; then
  server http http
  run_suite doctl "$here/doctl/run.sh"
fi
if wanted tus; then
  server tus http
  run_suite tus "$cache/bin/tus" -B "$here/tus/run.py"
fi
if wanted godo || wanted pydo; then
  server tls https --tls-self-signed
  subject+=(CISTERN_CA="$work/tls/tls/ca.pem")
  if wanted godo; then run_suite godo "$cache/bin/godo-suite"; fi
  if wanted pydo; then run_suite pydo "$cache/bin/pydo" -B "$here/pydo/run.py"; fi
fi
if ((${#failed[@]})); then
  say "failed: ${failed[*]}"
  tail -n 20 "$work"/{http,tus,tls}.log >&2 2>/dev/null || true
  exit 1
fi
