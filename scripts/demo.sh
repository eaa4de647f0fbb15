#!/usr/bin/env bash
# The main job, end to end, on a fresh installation: a real disk goes in by URL and by upload, a changed version shares
# what is the same, and what comes out is byte-equal. Prints what each step took.
#
#   IMAGE_URL=https://…/debian-12.qcow2 make demo     imports that disk instead
#   DEMO_DIR=FOLDER make demo                         keeps the installation there (default ./cistern-demo)
#
# On a terminal the server is left running; otherwise everything is stopped at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

here=${DEMO_DIR:-$PWD/cistern-demo}
cloud_image=https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2
server= files=

tests/clients/install.sh apt-demo
need_rust
if [ -z "${IMAGE_URL:-}" ] && curl -fsI --max-time 5 "$cloud_image" >/dev/null 2>&1; then
  IMAGE_URL=$cloud_image
fi

say "Building (the first time takes some minutes) …"
cargo build --release --locked -p cistern
cistern=$PWD/target/release/cistern

finish() {
  local code=$?
  [ -z "$files" ] || kill "$files" 2>/dev/null || true
  if [ "$code" != 0 ] || [ ! -t 1 ]; then
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    wait 2>/dev/null || true
    [ "$code" = 0 ] || say "The demo stopped with an error; the server's log is $here/server.log"
  fi
}
trap finish EXIT

# Only what an earlier demo left is removed.
if [ -e "$here" ] && [ ! -e "$here/.cistern-demo" ]; then
  die "$here is there and was not made by this demo; move it away, or name another folder with DEMO_DIR="
fi
if [ -e "$here/data/cistern.lock" ] && ! flock -n "$here/data/cistern.lock" true; then
  die "an earlier demo's server still runs on $here/data; stop it first"
fi
rm -rf "$here"
mkdir -p "$here/disks"
touch "$here/.cistern-demo"

# --- the disks -------------------------------------------------------------------------------------------------------
if [ -n "${IMAGE_URL:-}" ]; then
  say "Fetching $IMAGE_URL …"
  curl -fL --progress-bar -o "$here/disks/release-1.img" "$IMAGE_URL"
  first=release-1.img second=
  if have qemu-img && have qemu-io; then
    # A changed second version, as a disk looks after some days of use: 64 places of 1 MiB rewritten.
    qemu-img convert -O raw "$here/disks/release-1.img" "$here/disks/release-2.raw"
    for n in $(seq 64); do printf 'write -P %d %dM 1M\n' "$((n % 255))" "$((n * 20))"; done |
      qemu-io -f raw "$here/disks/release-2.raw" >/dev/null
    second=release-2.raw
  fi
else
  say "No network to fetch a cloud image from: building a bootable Debian disk, and its next release, from packages …"
  scripts/demo-disk.sh "$here/disks"
  first=release-1.raw second=release-2.raw
fi

# --- the server ------------------------------------------------------------------------------------------------------
"$cistern" serve --data "$here/data" --listen-api 127.0.0.1:0 --listen-registry 127.0.0.1:0 \
  --fetch-allow 127.0.0.0/8 >"$here/greeting" 2>"$here/server.log" &
server=$!
wait_for_line() { # FILE PATTERN
  local n
  for n in $(seq 300); do
    if grep -q "$2" "$1" 2>/dev/null; then return; fi
    kill -0 "$server" 2>/dev/null || { cat "$here/server.log" >&2; die "the server did not start"; }
    sleep 0.1
  done
  die "the server did not come up in 30 s"
}
wait_for_line "$here/greeting" '^listening registry'
CISTERN_URL=$(sed -n 's/^listening api //p' "$here/greeting")
CISTERN_TOKEN=$(grep -o 'dop_v1_[0-9a-f]*' "$here/greeting" | head -n 1)
export CISTERN_URL CISTERN_TOKEN
python3 scripts/serve-files.py "$here/disks" >"$here/files.log" 2>&1 &
files=$!
wait_for_line "$here/files.log" '^serving'
files_url=$(grep -o 'http://[^ ]*' "$here/files.log" | head -n 1)

# --- steps -----------------------------------------------------------------------------------------------------------
number() { python3 -c 'import json,sys; print(eval(sys.argv[1], {}, json.load(sys.stdin)))' "$1"; }
stat_of() { "$cistern" store stats --data "$here/data" --json | number "$1"; }
row() { printf '  %-44s %8s %11s %11s\n' "$@"; }
mib() { awk -v b="$1" 'BEGIN { printf "%.1f MiB", b / 1048576 }'; }
# step NAME BYTES COMMAND…: runs it and prints time, size and rate; $added is what the store grew by.
step() {
  local name=$1 bytes=$2 before start end; shift 2
  before=$(stat_of stored_bytes)
  start=$EPOCHREALTIME
  "$@" >"$here/last.json" 2>>"$here/cli.log" || { tail -n 5 "$here/cli.log" >&2; die "$name failed"; }
  end=$EPOCHREALTIME
  added=$(($(stat_of stored_bytes) - before))
  row "$name" "$(awk -v a="$start" -v b="$end" 'BEGIN { printf "%.2f s", b - a }')" "$(mib "$bytes")" \
    "$(awk -v a="$start" -v b="$end" -v n="$bytes" 'BEGIN { printf "%.0f MiB/s", n / 1048576 / (b - a) }')"
}
import_id() { number 'image["id"]' <"$here/last.json"; }
added_line() { row "    the store grew by" "" "$(mib "$added")" ""; }

size=$(stat -c %s "$here/disks/$first")
echo
row "step" "time" "size" "rate"
row "----" "----" "----" "----"
step "import by URL" "$size" "$cistern" image import "$files_url$first" --name demo-by-url --region nyc3 --json
one=$(import_id); added_line
step "the same disk again, by upload" "$size" \
  "$cistern" image import "$here/disks/$first" --upload --name demo-by-upload --json
two=$(import_id); added_line
third=
if [ -n "$second" ]; then
  step "its next release, as an open file" "$(stat -c %s "$here/disks/$second")" \
    "$cistern" image import "$here/disks/$second" --name demo-next-release --json
  third=$(import_id); added_line
fi
step "export as raw" "$size" "$cistern" image export "$one" --format raw -o "$here/out.raw"
step "export as qcow2" "$size" "$cistern" image export "$one" --format qcow2 -o "$here/out.qcow2"
[ -z "$third" ] || step "export of the next release" "$size" "$cistern" image export "$third" --format raw -o "$here/out2.raw"
echo

# --- proof -----------------------------------------------------------------------------------------------------------
proved() { printf '  equal: %s\n' "$1"; }
case $first in
  *.raw) cmp "$here/disks/$first" "$here/out.raw"; proved "the raw export and the disk that went in, byte for byte" ;;
  *) qemu-img compare -q "$here/disks/$first" "$here/out.raw"; proved "the raw export and the disk that went in (qemu-img compare)" ;;
esac
if [ -n "$third" ]; then
  cmp "$here/disks/$second" "$here/out2.raw"; proved "the next release, byte for byte"
fi
if have qemu-img; then
  qemu-img check -q "$here/out.qcow2"
  qemu-img compare -q "$here/out.raw" "$here/out.qcow2"; proved "the qcow2 export (qemu-img check and compare)"
fi
"$cistern" store verify --read-data --data "$here/data" >/dev/null 2>>"$here/cli.log"
printf '  verified: every chunk of every image was read and hashed again\n\n'

logical=$(stat_of virtual_bytes) stored=$(stat_of stored_bytes)
printf '  %s of disks are kept in %s: %s of what they would take as they are.\n\n' "$(mib "$logical")" "$(mib "$stored")" \
  "$(awk -v a="$stored" -v b="$logical" 'BEGIN { printf "%.1f %%", 100 * a / b }')"
rm -f "$here"/out*.raw "$here"/out.qcow2

if [ ! -t 1 ]; then
  say "The server was stopped, as this is no terminal; start it again with: $cistern serve --data $here/data"
  exit 0
fi
cat <<TXT
Try next:

  export CISTERN_URL=$CISTERN_URL CISTERN_TOKEN=$CISTERN_TOKEN
  $cistern image list
  doctl --api-url \$CISTERN_URL --access-token \$CISTERN_TOKEN compute image list-user

TXT
printf 'The server goes on (process %s); stop it with: kill %s\n' "$server" "$server"
grep -o 'http[^ ]*/sign-in/[^ ]*' "$here/greeting" | sed 's/^/The console, once: /'
disown "$server"
