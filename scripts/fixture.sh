#!/usr/bin/env bash
# Makes small stores with their databases as this version writes them, for tests/fixtures. Run it once for each version
# that writes something new, and commit what it made; what earlier versions made stays as it is.
#
#   scripts/fixture.sh NAME        makes tests/fixtures/NAME-clear, NAME-encrypted and NAME-postgres
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

name=${1:?usage: scripts/fixture.sh NAME, such as format-1}
need_rust
for program in curl jq python3 sha256sum; do have "$program" || die "$program is missing"; done
cargo build --locked --quiet -p cistern -p cistern-store --bin cistern --example object
cistern=$PWD/target/debug/cistern
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

# Texts that shrink, noise that does not, both by one seed, and 130 MiB in which nothing is but 2 MiB: a tree of two levels.
disks() {
  python3 - "$work" <<'PY'
import hashlib, random, sys
folder, chunk = sys.argv[1], 65536
def text(n): return b"".join(hashlib.sha256(b"%d %d" % (n, i)).hexdigest()[:9].encode() + b" the quick brown fox jumps\n" for i in range(1900))[:chunk].ljust(chunk, b".")
def noise(n): return random.Random(n).randbytes(chunk)
mbr = bytes(446) + bytes([0, 0, 2, 0, 0x83, 255, 255, 255]) + (2048).to_bytes(4, "little") + (200000).to_bytes(4, "little") + bytes(48) + b"\x55\xaa"
base = {**{i: text(i) for i in range(20)}, 20: noise(1), 21: noise(2), 1100: text(1100), 2079: noise(3)}
changed = {**base, 3: text(500), 1500: text(501)}
other = {i * 7: text(700 + i) for i in range(12)}
for name, chunks in [("base", base), ("changed", changed), ("other", other)]:
    with open(f"{folder}/{name}.raw", "wb") as file:
        file.truncate(130 << 20)
        for index, data in chunks.items():
            file.seek(index * chunk)
            file.write(data)
        file.seek(0)
        file.write(mbr)
with open(f"{folder}/blob", "wb") as file:
    file.write(b"".join(text(900 + i) for i in range(2)) + b"end")
PY
}

# serve DATA FLAG…: starts it; its address is in $url.
serve() {
  "$cistern" serve --data "$@" --listen-api 127.0.0.1:0 --listen-registry 127.0.0.1:0 >"$work/said" 2>"$work/log" &
  server=$!
  for _ in $(seq 300); do
    url=$(sed -n 's/^listening api //p' "$work/said")
    [ -z "$url" ] || return 0
    kill -0 "$server" || { cat "$work/log" >&2; die "the server did not start"; }
    sleep 0.1
  done
  die "the server did not listen"
}

stop() { kill -TERM "$server"; wait "$server"; server=; }

# upload NAME FILE: gives the image's id.
upload() {
  "$cistern" image import "$2" --name "$1" --json | jq -r .image.id
}

# fixture KIND DATABASE-URL INIT-FLAG…
fixture() {
  local kind=$1 database=$2 to=tests/fixtures/$name-$1 data=$work/$1 key=()
  shift 2
  say "making $to"
  rm -rf "$to"
  mkdir -p "$to"
  unset CISTERN_URL CISTERN_TOKEN
  export CISTERN_OBJECTS=$data/store CISTERN_DATABASE=$database
  if [ "$kind" = encrypted ]; then key=(--key-file "$work/store.key"); fi
  "$cistern" init --data "$data" "$@" "${key[@]}" --json >"$work/made"
  serve "$data" "${key[@]}"
  CISTERN_TOKEN=$(jq -r .token "$work/made") CISTERN_URL=$url
  export CISTERN_TOKEN CISTERN_URL
  local ids=() disk
  for disk in base changed other; do ids+=("$(upload "$disk" "$work/$disk.raw")"); done
  # One that can be restored.
  "$cistern" image delete "${ids[2]}" >&2
  curl -fsS -H "Authorization: Bearer $CISTERN_TOKEN" -H 'Content-Type: application/json' \
    -d '{"name":"kept"}' "$url/v2/tags" >/dev/null
  stop
  unset CISTERN_URL CISTERN_TOKEN
  local blob
  blob=$(target/debug/examples/object "$database" "$data/store" "$work/blob" fixture "${key[@]:1}")
  # A start, and the journal learns of it.
  serve "$data" "${key[@]}"
  stop
  rm -rf "$data/store/tmp" "$data/store/probe"
  cp -r "$data/store" "$to/objects"
  cp "$data/secrets.key" "$to/"
  if [ "$kind" = encrypted ]; then cp "$work/store.key" "$to/"; fi
  dump "$database" >"$to/database.sql"
  jq -n --slurpfile made "$work/made" --arg blob "$blob" --argjson bytes "$(stat -c %s "$work/blob")" \
    --argjson images "$(images "${ids[@]}")" \
    '{token_hex: $made[0].token[7:], recovery_key: $made[0].recovery_key, images: $images,
      blob: {owner: "fixture", name: $blob, bytes: $bytes}}' >"$to/content.json"
}

images() {
  local disk n=0
  for disk in base changed other; do
    jq -n --argjson id "$1" --arg name "$disk" --arg sha256 "$(sha256sum <"$work/$disk.raw" | cut -d' ' -f1)" \
      --argjson deleted "$([ $disk = other ] && echo true || echo false)" '{$id, $name, $sha256, $deleted}'
    shift
  done | jq -s .
}

dump() {
  case $1 in
    postgres:*) "$(compgen -G '/usr/lib/postgresql/*/bin/pg_dump' | sort -V | tail -n 1)" --no-owner --inserts "$1" |
      grep -v -e '^--' -e '^$' -e '^\\' ;;
    sqlite:*) python3 -c 'import sqlite3, sys; print("\n".join(sqlite3.connect(sys.argv[1]).iterdump()))' "${1#sqlite:}" ;;
  esac
}

if [ "${2:-}" = postgres ]; then
  disks
  fixture postgres "$CISTERN_TEST_POSTGRES"
  exit
fi
disks
fixture clear "sqlite:$work/clear.sqlite"
fixture encrypted "sqlite:$work/encrypted.sqlite" --encrypt
tests/clients/with-postgres-and-s3.sh "$0" "$name" postgres
du -sh tests/fixtures/"$name"-*
