#!/usr/bin/env bash
# Installs the outside programs that Cistern's tests, benchmarks and demo use, each at a pinned version.
#
#   install.sh                 everything
#   install.sh NAME…           only these (see --list)
#   install.sh --list          the names, with what each is for and whether it is there
#   install.sh --times NAME…   also prints a table of how long each took
#
# Programs go to $CISTERN_TEST_CACHE/bin (default ~/.cache/cistern-tests/bin); nothing is written into the
# repository. A name whose pins have not changed since its last install costs milliseconds. Debian packages need
# root: as an ordinary user the one line to run is printed and the exit code is 1.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CISTERN_TEST_CACHE:-$HOME/.cache/cistern-tests}
bin=$cache/bin
stamps=$cache/stamps

# name|kind|argument|what for
tools=(
  "apt-demo|apt|demo|Debian packages of scripts/demo-disk.sh"
  "apt|apt|all|Debian packages of the tests, the benchmarks and the demo"
  "versitygw|go|github.com/versity/versitygw/cmd/versitygw|S3 server 1.0.14 for the black-box tests"
  "doctl|go|github.com/digitalocean/doctl/cmd/doctl|DigitalOcean's command 1.166.0, acceptance"
  "godo|godo|.|DigitalOcean's Go library 1.202.0, acceptance (builds tests/clients/godo)"
  "pydo|pip|pydo|DigitalOcean's Python library 0.44.0, acceptance over TLS"
  "tus|pip|tuspy|the tus project's Python client 1.1.0, acceptance of uploads"
  "restic|go|github.com/restic/restic/cmd/restic|backup program 0.18.0, peer of make bench"
  "kopia|go|github.com/kopia/kopia|backup program 0.21.1, peer of make bench"
  "cargo-deny|cargo|0.20.2|licences, bans and sources of the Rust dependencies, make lint"
)
# What "everything" is: apt holds apt-demo.
everything=(apt versitygw doctl godo pydo tus restic cargo-deny)

# One package a line, with the programs that are looked for instead of asking dpkg (so that another distribution's
# packages do as well). A program in a sbin folder is found although an ordinary user's PATH lacks it.
packages_demo="build-essential:cc cpio:cpio curl:curl dosfstools:mkfs.fat e2fsprogs:mke2fs,debugfs fakeroot:fakeroot fdisk:sfdisk mtools:mcopy
 python3:python3 qemu-utils:qemu-img syslinux:syslinux syslinux-common:/usr/lib/syslinux/mbr/mbr.bin zstd:zstd"
packages_test="borgbackup:borg bzip2:bzip2 gdisk:sgdisk jq:jq nginx-light:nginx
 iproute2:ip linux-perf:perf openssh-client:ssh-keygen postgresql:/usr/lib/postgresql/*/bin/initdb python3-venv:python3 qemu-system-x86:qemu-system-x86_64 strace:strace xz-utils:xz"

export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }
die() { say "install.sh: $*"; exit 1; }
needs() { command -v "$1" >/dev/null || { say "$2 needs \`$1\` in the PATH"; return 1; }; }

tool_line() {
  local line
  for line in "${tools[@]}"; do [[ ${line%%|*} == "$1" ]] && { printf '%s' "$line"; return; }; done
  die "no tool is named \`$1\`; \`install.sh --list\` names them"
}

# The hash of everything that decides what NAME's install makes.
pin_of() {
  local name=$1 kind=$2 argument=$3
  {
    printf '%s\n' "$kind $argument"
    case $kind in
      go) go version; cat "$here/$name/go.mod" "$here/$name/go.sum" ;;
      godo) go version; cat "$here/$name"/*.go "$here/$name/go.mod" "$here/$name/go.sum" ;;
      pip) python3 --version; cat "$here/$name/requirements.txt" ;;
    esac
  } | sha256sum | cut -d' ' -f1
}

made_by() { # what an install leaves behind
  case $2 in godo) printf '%s' "$bin/godo-suite" ;; *) printf '%s' "$bin/$1" ;; esac
}

current() {
  local name=$1 kind=$2 argument=$3
  if [[ $kind == apt ]]; then [[ -z $(apt_missing "$argument") ]]; return; fi
  [[ -x $(made_by "$name" "$kind") && -f $stamps/$name && $(<"$stamps/$name") == "$(pin_of "$name" "$kind" "$argument")" ]]
}

program_found() { # a program's name, or a path that may hold a *
  case $1 in /*) compgen -G "$1" >/dev/null ;; *) command -v "$1" >/dev/null ;; esac
}

apt_missing() {
  local entry programs program list=$packages_demo
  [[ $1 == all ]] && list="$packages_demo $packages_test"
  for entry in $list; do
    IFS=, read -ra programs <<<"${entry#*:}"
    for program in "${programs[@]}"; do
      program_found "$program" || { printf '%s ' "${entry%%:*}"; break; }
    done
  done
  # Python is there without its venv module on a bare Debian.
  [[ $1 != all ]] || python3 -c 'import ensurepip' 2>/dev/null || printf 'python3-venv '
}

# Daemons of the packages must not start: the tests start their own, on loopback. The file that says so is Debian's
# own way (policy-rc.d(8)); one that was there before is left alone.
install_apt() {
  local missing policy=/usr/sbin/policy-rc.d ours=0 code=0
  read -ra missing <<<"$(apt_missing "$1")"
  ((${#missing[@]})) || return 0
  if [[ $(id -u) != 0 ]]; then
    say "packages are missing; as root, run:"
    say "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    return 1
  fi
  command -v apt-get >/dev/null || die "this is not Debian; install by hand: ${missing[*]}"
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    ours=1
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt_run update && apt_run install -y --no-install-recommends "${missing[@]}" || code=$?
  if ((ours)); then rm -f "$policy"; trap - EXIT; fi
  return "$code"
}

apt_run() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >&2
}

# GOTOOLCHAIN=local: never fetch another Go. -trimpath: the same binary from any folder.
go_install() {
  (cd "$here/$1" && GOBIN=$bin GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS='-buildvcs=false -mod=readonly -trimpath' \
    go install -ldflags='-s -w' "$2") 2>&1 | sed -u '/^go: downloading/d' >&2
}

install_go() {
  needs go "$1" && go_install "$1" "$2"
}

install_godo() {
  needs go "$1" && go_install "$1" .
}

# The library in an environment of its own; bin/NAME is its interpreter.
install_pip() {
  local venv=$cache/$1
  needs python3 "$1" || return 1
  rm -rf "$venv"
  python3 -m venv "$venv" >&2 || { say "$1 needs Python's venv module: apt-get install python3-venv"; return 1; }
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
    -r "$here/$1/requirements.txt" >&2 || return 1
  printf '#!/bin/sh\nexec "%s/bin/python" "$@"\n' "$venv" >"$bin/$1"
  chmod +x "$bin/$1"
}

# Built for a quick build, not for a quick program: it runs for a second. From this folder, so that the repository's
# own toolchain is used.
install_cargo() {
  needs cargo "$1" || return 1
  local build=$cache/cargo-build code=0
  (cd "$here" && CARGO_TARGET_DIR=$build cargo install "$1" --version "$2" --locked --quiet --root "$cache" \
    --config profile.release.lto=false --config profile.release.opt-level=0 \
    --config profile.release.codegen-units=16 --config profile.release.debug=false) >&2 || code=$?
  rm -rf "$build"
  return "$code"
}

install_tool() {
  local name kind argument
  IFS='|' read -r name kind argument _ <<<"$(tool_line "$1")"
  mkdir -p "$bin" "$stamps"
  if current "$name" "$kind" "$argument"; then return 0; fi
  say "installing $name"
  rm -f "$stamps/$name"
  "install_$kind" "$([[ $kind == apt ]] && printf '%s' "$argument" || printf '%s' "$name")" "$argument" || return 1
  [[ $kind == apt ]] || pin_of "$name" "$kind" "$argument" >"$stamps/$name"
}

list() {
  local line name kind argument what state
  for line in "${tools[@]}"; do
    IFS='|' read -r name kind argument what <<<"$line"
    if current "$name" "$kind" "$argument" 2>/dev/null; then state=there; else state=missing; fi
    printf '%-11s %-8s %s\n' "$name" "$state" "$what"
  done
}

main() {
  local times=0 names=() failed=() table=() name start
  while (($#)); do
    case $1 in
      --list) list; return ;;
      --times) times=1 ;;
      -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; return ;;
      -*) say "install.sh: no option \`$1\`; see --help"; return 2 ;;
      *) tool_line "$1" >/dev/null; names+=("$1") ;;
    esac
    shift
  done
  ((${#names[@]})) || names=("${everything[@]}")
  for name in "${names[@]}"; do
    start=$(date +%s%N)
    install_tool "$name" || failed+=("$name")
    table+=("$(printf '%-11s %6d.%01d s' "$name" $((($(date +%s%N) - start) / 1000000000)) $((($(date +%s%N) - start) / 100000000 % 10)))")
  done
  if ((times)); then printf '%s\n' "${table[@]}"; fi
  if ((${#failed[@]})); then say "install.sh: not installed: ${failed[*]}"; return 1; fi
}

main "$@"
