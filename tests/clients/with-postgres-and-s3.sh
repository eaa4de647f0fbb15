#!/usr/bin/env bash
# Runs a command with a PostgreSQL server and an S3 server (versitygw) of its own on loopback, then removes them.
#
#   with-postgres-and-s3.sh COMMAND…
#
# The command finds:
#   CISTERN_TEST_POSTGRES       postgres://postgres@127.0.0.1:PORT/postgres, an empty cluster of one's own
#   CISTERN_TEST_S3             s3://cistern-test?endpoint=http://127.0.0.1:PORT&region=us-east-1, an empty bucket
#   CISTERN_TEST_S3_FOLDER      the folder behind it: a folder made there is a bucket more
#   CISTERN_OBJECTS_ACCESS_KEY, CISTERN_OBJECTS_SECRET_KEY    the key to it
# Its exit code is the command's; 2 when a server could not be started.
set -euo pipefail
(($#)) || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CISTERN_TEST_CACHE:-$HOME/.cache/cistern-tests}
"$here/install.sh" versitygw
initdb=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1) ||
  { echo 'PostgreSQL is not installed: tests/clients/install.sh apt' >&2; exit 2; }
postgres=${initdb%/*}

work=$(mktemp -d)
children=()
clean_up() {
  local child
  for child in "${children[@]}"; do kill -INT "$child" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap clean_up EXIT

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

wait_for() { # WHAT COMMAND…
  local what=$1 deadline=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { echo "$what did not come up" >&2; tail -n 20 "$work"/*.log >&2; exit 2; }
    sleep 0.1
  done
}

# PostgreSQL refuses to run as root: it gets the user that its package made.
as_postgres=()
mkdir "$work/pg"
if [[ $(id -u) == 0 ]]; then
  as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups --)
  chmod 711 "$work"
  chown postgres "$work/pg"
fi
port=$(free_port)
"${as_postgres[@]}" "$initdb" -D "$work/pg/data" -A trust -U postgres --no-sync -E UTF8 --locale=C >"$work/initdb.log"
"${as_postgres[@]}" "$postgres/postgres" -D "$work/pg/data" -p "$port" -c listen_addresses=127.0.0.1 \
  -c unix_socket_directories="$work/pg" -c max_connections=300 >"$work/postgres.log" 2>&1 &
children+=($!)
wait_for PostgreSQL "$postgres/pg_isready" -q -h 127.0.0.1 -p "$port"
export CISTERN_TEST_POSTGRES=postgres://postgres@127.0.0.1:$port/postgres

port=$(free_port)
mkdir -p "$work/s3/cistern-test" "$work/side"
export CISTERN_OBJECTS_ACCESS_KEY=cistern-tests CISTERN_OBJECTS_SECRET_KEY=cistern-tests-secret
ROOT_ACCESS_KEY=$CISTERN_OBJECTS_ACCESS_KEY ROOT_SECRET_KEY=$CISTERN_OBJECTS_SECRET_KEY \
  "$cache/bin/versitygw" --port "127.0.0.1:$port" posix --sidecar "$work/side" "$work/s3" >"$work/s3.log" 2>&1 &
children+=($!)
wait_for 'the S3 server' bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
export CISTERN_TEST_S3_KEY=$CISTERN_OBJECTS_ACCESS_KEY CISTERN_TEST_S3_SECRET=$CISTERN_OBJECTS_SECRET_KEY
export CISTERN_TEST_S3="s3://cistern-test?endpoint=http://127.0.0.1:$port&region=us-east-1" CISTERN_TEST_S3_FOLDER=$work/s3

code=0
"$@" || code=$?
exit "$code"
