#!/usr/bin/env bash
# Builds two real bootable disks from Debian's packages, for the demo and the benchmarks: release 1 of a small Debian
# server and release 2, the same disk after an upgrade in place. No root, mount, loop device or chroot is needed.
#
#   demo-disk.sh OUT_DIR      writes OUT_DIR/release-1.raw and OUT_DIR/release-2.raw (2 GiB virtual each)
#   demo-disk.sh --rebuild OUT_DIR      ignores the kept result
#
# Release 1 takes Debian's packages as the last point release has them, release 2 with the security archive's updates,
# a few packages more and one less: the kernel, OpenSSL, Python, Perl and others really change. The upgrade is
# done the way dpkg does it: new blocks are written first, then the old file is freed (debugfs on the file system).
#
# The disks: MBR, a FAT partition with SYSLINUX, kernel and initrd, and an ext4 root with systemd, networkd and sshd.
# Packages are unpacked but their maintainer scripts are not run (that would need root); what a boot needs of them is
# written here. Once up, the system says `DEMO-DISK ready release=N …` on the serial port.
#
# Results are kept in $CISTERN_TEST_CACHE (default ~/.cache/cistern-tests)/demo-disk. Tools: see
# tests/clients/install.sh apt-demo, and any Debian's apt with its main archive.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

self=$(readlink -f "${BASH_SOURCE[0]}")
store=${CISTERN_TEST_CACHE:-$HOME/.cache/cistern-tests}/demo-disk
common=(linux-image-cloud-amd64 systemd-sysv udev dbus openssh-server iproute2 busybox-static python3 git vim-tiny)
only_1=(nano)
only_2=(rsync tmux)
disk_mib=2048
boot_mib=64
root_mib=$((boot_mib + 1)) # where the root starts

say() { printf '%s\n' "$*" >&2; }
die() { say "demo-disk.sh: $*"; exit 1; }

need_tools() {
  local tool missing=()
  for tool in apt-get dpkg-deb sfdisk mke2fs debugfs mkfs.fat mcopy syslinux cpio zstd; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  [[ -r /usr/lib/syslinux/mbr/mbr.bin ]] || missing+=(syslinux-common)
  [[ $(id -u) == 0 ]] || command -v fakeroot >/dev/null || missing+=(fakeroot)
  ((${#missing[@]} == 0)) || die "missing: ${missing[*]}; \`tests/clients/install.sh apt-demo\` says how to get them"
}

# apt with its state in a folder of our own: it asks the machine's sources, but sees no installed package, so that it
# answers with a whole system. Only packages from Debian itself are taken.
apt_own() {
  local options=() option
  for option in State="$work/apt" State::lists="$store/lists" State::status="$work/apt/status" \
    Cache="$work/apt" Cache::archives="$store/debs" Etc::preferences="$work/apt/preferences" \
    Etc::preferencesparts=/dev/null; do
    options+=(-o "Dir::$option")
  done
  apt-get -qq "${options[@]}" -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User= \
    -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

apt_prepare() {
  mkdir -p "$work/apt/none/partial" "$store/lists/partial" "$store/debs/partial"
  : >"$work/apt/status"
  if [[ -z $(find "$store/lists" -name '*_Packages*' -mmin -720 -print -quit) ]]; then
    : >"$work/apt/preferences"
    # Its complaints matter only on failure: hooks of the machine's own apt complain about folders that are not ours.
    apt_own update 2>"$work/update.log" || { cat "$work/update.log" >&2; die "apt could not read the package lists"; }
    # Unchanged lists keep their server's date.
    find "$store/lists" -maxdepth 1 -type f -exec touch {} +
  fi
}

pin() { printf 'Package: *\nPin: release %s\nPin-Priority: %s\n\n' "$1" "$2" >>"$work/apt/preferences"; }

# Which packages make up release N, as file names in $work/debs-N; downloads what is not there.
resolve() { # N
  local release=$1 extra=("${only_1[@]}")
  # The first record that matches a source decides.
  : >"$work/apt/preferences"
  if ((release == 1)); then pin l=Debian-Security -1; else extra=("${only_2[@]}"); fi
  pin o=Debian 500
  pin 'o=*' -1
  # With an archive folder that stays empty, for apt leaves out what it has.
  apt_own --no-install-recommends --print-uris --yes -o Dir::Cache::archives="$work/apt/none" \
    install '?essential' "${common[@]}" "${extra[@]}" >"$work/uris-all" ||
    die "apt finds no complete system; is Debian's main archive among the sources?"
  awk '/^\x27/ {print $2}' "$work/uris-all" | sort >"$work/debs-$release"
  apt_own --no-install-recommends --download-only --yes install '?essential' "${common[@]}" "${extra[@]}" >/dev/null ||
    die "the packages could not be downloaded"
}

# Unpacks packages into a tree and keeps the list of what each brought in $lists/PACKAGE.
unpack_one() { # TREE LISTS DEB
  local name=${3##*/}
  dpkg-deb --fsys-tarfile "$3" |
    tar -x --numeric-owner --keep-directory-symlink --verbose -C "$1" >"$2/${name%%_*}"
}
export -f unpack_one

unpack() { # TREE LISTS, file names on standard input
  mkdir -p "$2"
  xargs -P "$(nproc)" -I '{}' bash -c 'set -euo pipefail; unpack_one "$@"' _ "$1" "$2" "$store/debs/{}"
}

# What dpkg knows of the system, honestly: unpacked, not configured.
write_package_database() { # TREE DEBS LISTS
  local deb package
  install -d "$1/var/lib/dpkg/info" "$1/var/lib/dpkg/updates"
  mkdir -p "$work/control"
  xargs -P "$(nproc)" -I '{}' sh -c 'test -e "$3/$1" || dpkg-deb -f "$2/$1" >"$3/$1"' _ '{}' "$store/debs" "$work/control" <"$2"
  while read -r deb; do
    sed '1a Status: install ok unpacked' "$work/control/$deb"
    echo
  done <"$2" >"$1/var/lib/dpkg/status"
  while read -r deb; do
    package=${deb%%_*}
    sed -E 's#^\./#/#; s#(.)/$#\1#' "$3/$package" >"$1/var/lib/dpkg/info/$package.list"
  done <"$2"
}

# The part of the maintainer scripts' work that a boot needs.
write_settings() { # TREE RELEASE
  local t=$1 name
  cp "$t/usr/share/base-passwd/passwd.master" "$t/etc/passwd"
  cp "$t/usr/share/base-passwd/group.master" "$t/etc/group"
  printf 'messagebus:x:101:101::/nonexistent:/usr/sbin/nologin\nsshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n' >>"$t/etc/passwd"
  printf 'messagebus:x:101:\n' >>"$t/etc/group"
  sed -E 's/^([^:]*):.*/\1:*:19000:0:99999:7:::/' "$t/etc/passwd" >"$t/etc/shadow"
  chmod 640 "$t/etc/shadow"
  for name in auth account password session; do
    printf '%s required pam_unix.so\n' "$name" >"$t/etc/pam.d/common-$name"
  done
  cp "$t/etc/pam.d/common-session" "$t/etc/pam.d/common-session-noninteractive"
  printf 'LABEL=demoroot / ext4 errors=remount-ro 0 1\n' >"$t/etc/fstab"
  printf 'demo\n' >"$t/etc/hostname"
  printf '127.0.0.1 localhost\n127.0.1.1 demo\n' >"$t/etc/hosts"
  : >"$t/etc/machine-id"
  printf 'Demo system release %s\n' "$2" >"$t/etc/issue"
  ln -sf mawk "$t/usr/bin/awk"
  ln -sf vim.tiny "$t/usr/bin/vi"
  printf '[Match]\nType=ether\n[Network]\nDHCP=yes\n' >"$t/etc/systemd/network/80-dhcp.network"
  install -d "$t/etc/systemd/system/multi-user.target.wants" "$t/etc/systemd/system/getty.target.wants" \
    "$t/etc/systemd/system/ssh.service.d"
  printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' \
    >"$t/etc/systemd/system/ssh.service.d/keys.conf"
  cp "$t/usr/share/openssh/sshd_config" "$t/etc/ssh/sshd_config"
  write_demo_unit "$t" "$2"
  local wants=$t/etc/systemd/system/multi-user.target.wants
  ln -sf /etc/systemd/system/demo-disk.service "$wants/"
  ln -sf /lib/systemd/system/ssh.service "$wants/"
  ln -sf /lib/systemd/system/systemd-networkd.service "$wants/"
  ln -sf /lib/systemd/system/serial-getty@.service "$t/etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"
}

write_demo_unit() { # TREE RELEASE
  cat >"$1/etc/systemd/system/demo-disk.service" <<UNIT
[Unit]
Description=Say on the serial port that the system is up
After=ssh.service systemd-networkd.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "DEMO-DISK ready release=$2 kernel=\$(uname -r) ssh=\$(systemctl is-active ssh)" >/dev/ttyS0'
[Install]
WantedBy=multi-user.target
UNIT
}

# depmod(8) of the tree itself, so that it need not be installed here.
index_modules() { # TREE KERNEL
  local t=$1
  LD_PRELOAD='' "$t/lib64/ld-linux-x86-64.so.2" --argv0 depmod \
    --library-path "$t/usr/lib/x86_64-linux-gnu:$t/lib/x86_64-linux-gnu" "$t/bin/kmod" -b "$t" "$2"
}

# An initrd of busybox and the few modules that find the root: virtio disks and SCSI. ext4 is in the kernel.
write_initrd() { # TREE KERNEL FILE
  local root=$work/initrd modules=$1/lib/modules/$2/kernel module
  rm -rf "$root"
  mkdir -p "$root"/{bin,mod,dev,proc,sys,newroot}
  cp "$1/bin/busybox" "$root/bin/"
  ln -s busybox "$root/bin/sh"
  for module in drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev \
    drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci drivers/block/virtio_blk \
    drivers/scsi/scsi_common drivers/scsi/scsi_mod lib/crc-t10dif crypto/crct10dif_common crypto/crct10dif_generic \
    drivers/scsi/sd_mod drivers/scsi/virtio_scsi; do
    [[ -f $modules/$module.ko ]] || continue # built in
    cp "$modules/$module.ko" "$root/mod/"
    printf '%s.ko\n' "${module##*/}" >>"$root/mod/order"
  done
  cat >"$root/init" <<'INIT'
#!/bin/sh
export PATH=/bin
b=busybox
$b mount -t devtmpfs dev /dev; $b mount -t proc proc /proc; $b mount -t sysfs sys /sys
while read m; do $b insmod /mod/$m; done < /mod/order
n=0
until root=$($b findfs LABEL=demoroot 2>/dev/null); do
  n=$((n+1)); [ $n -gt 100 ] && { echo "DEMO-DISK no root file system" >/dev/ttyS0; $b poweroff -f; }
  $b sleep 0.1
done
$b mount -t ext4 -o ro $root /newroot
$b umount /proc; $b umount /sys; $b mount --move /dev /newroot/dev
exec $b switch_root /newroot /sbin/init
INIT
  chmod +x "$root/init"
  (cd "$root" && find . | sort | cpio -o -H newc --quiet --owner 0:0 | zstd -q -10) >"$3"
}

# Everything that depends on the packages but is in none of them.
finish_tree() { # TREE RELEASE LISTS
  local kernel
  kernel=$(newest_kernel "$1")
  write_settings "$1" "$2"
  write_package_database "$1" "$work/debs-$2" "$3"
  index_modules "$1" "$kernel"
  write_initrd "$1" "$kernel" "$work/initrd-$2.zst"
  cp "$1/boot/vmlinuz-$kernel" "$work/vmlinuz-$2"
}

newest_kernel() { # TREE
  local all
  all=$(cd "$1/lib/modules" && printf '%s\n' * | sort -V)
  printf '%s' "${all##*$'\n'}"
}

new_tree() { # TREE: with /bin, /sbin and /lib as links into /usr, as Debian installs itself
  local name
  mkdir -p "$1"/{usr/{bin,sbin,lib,lib32,lib64,libx32},dev,proc,sys,run,tmp,root,var/log,etc/{pam.d,systemd/network}}
  for name in bin sbin lib lib32 lib64 libx32; do ln -s "usr/$name" "$1/$name"; done
  chmod 1777 "$1/tmp"
  chmod 700 "$1/root"
}

# Release 2's tree shares every untouched file with release 1's (hard links).
upgrade_tree() { # OLD NEW
  local deb path
  cp -al "$1" "$2"
  # What settings and scripts wrote is written anew, never through a link.
  rm -rf "$2"/var/lib/dpkg "$2"/etc/{passwd,group,shadow,fstab,hostname,hosts,machine-id,issue} "$2"/lib/modules/*/modules.*
  rm -f "$2"/etc/pam.d/common-* "$2"/etc/systemd/network/80-dhcp.network "$2"/etc/systemd/system/demo-disk.service \
    "$2"/etc/systemd/system/ssh.service.d/keys.conf "$2"/etc/ssh/sshd_config
  comm -23 "$work/debs-1" "$work/debs-2" | while read -r deb; do
    grep -v '/$' "$work/lists-1/${deb%%_*}" | (cd "$2" && xargs -d '\n' rm -f)
  done
  comm -13 "$work/debs-1" "$work/debs-2" | unpack "$2" "$work/lists-2"
  for path in "$work"/lists-1/*; do [[ -e $work/lists-2/${path##*/} ]] || cp "$path" "$work/lists-2/"; done
  find "$2/lib/modules" -mindepth 1 -maxdepth 1 ! -name "$(newest_kernel "$2")" -exec rm -rf {} +
}

# Prints the commands for debugfs(8) that make the file system of OLD into that of NEW: files are written beside the old
# ones and then take their names.
upgrade_script() { # OLD NEW
  local tree
  for tree in "$1" "$2"; do
    (cd "$tree" && find . -mindepth 1 -printf '%y\t%i\t%G\t%P\t%l\n') | sort -t $'\t' -k4
    printf 'end\n'
  done | awk -F '\t' -v tree="$2" '
    function folder(path) { path = "/" path; sub("/[^/]*$", "", path); return path "/" }
    $1 == "end" { second = 1; next }
    !second { was[$4] = $1; inode[$4] = $2; target[$4] = $5; order[++count] = $4; next }
    { is[$4] = $1; changed = was[$4] != $1 }
    $1 == "d" && changed { printf "mkdir \"/%s\"\n", $4 }
    $1 == "f" && (changed || inode[$4] != $2) {
      printf "cd \"%s\"\nwrite \"%s/%s\" \"demo-new\"\n", folder($4), tree, $4
      if (was[$4] != "") printf "rm \"/%s\"\n", $4
      printf "ln \"demo-new\" \"/%s\"\nunlink \"demo-new\"\n", $4
      if ($3 != 0) printf "sif \"/%s\" gid %s\n", $4, $3
    }
    $1 == "l" && (changed || target[$4] != $5) {
      if (was[$4] != "") printf "rm \"/%s\"\n", $4
      printf "symlink \"/%s\" \"%s\"\n", $4, $5
    }
    END { # children before their parents
      for (n = count; n > 0; n--) if (!(order[n] in is)) printf "%s \"/%s\"\n", was[order[n]] == "d" ? "rmdir" : "rm", order[n]
    }'
}

write_boot() { # RELEASE FILE
  truncate -s "${boot_mib}M" "$2"
  mkfs.fat -F 16 -n BOOT -i C157E121 "$2" >/dev/null
  printf 'SERIAL 0 115200\nDEFAULT demo\nPROMPT 0\nTIMEOUT 1\nLABEL demo\n KERNEL vmlinuz\n INITRD initrd.zst\n APPEND console=tty0 console=ttyS0 quiet net.ifnames=0\n' \
    >"$work/syslinux.cfg"
  mcopy -i "$2" "$work/syslinux.cfg" ::/
  syslinux --install "$2"
  copy_kernel "$1" "$2"
}

copy_kernel() { # RELEASE FILE
  mcopy -o -i "$2" "$work/vmlinuz-$1" ::/vmlinuz
  mcopy -o -i "$2" "$work/initrd-$1.zst" ::/initrd.zst
}

new_disk() { # DISK
  truncate -s "${disk_mib}M" "$1"
  printf 'label: dos\nlabel-id: 0xc157e121\nstart=2048,size=%d,type=e,bootable\nstart=%d,type=83\n' \
    $((boot_mib * 2048)) $((root_mib * 2048)) | sfdisk -q "$1"
  dd if=/usr/lib/syslinux/mbr/mbr.bin of="$1" bs=440 count=1 conv=notrunc status=none
}

put_boot() { # BOOT DISK
  dd if="$1" of="$2" bs=1M seek=1 conv=notrunc,sparse status=none
}

# The part that sets owners, and so runs as root or under fakeroot(1).
build() {
  local one=$work/tree-1 two=$work/tree-2
  new_tree "$one"
  unpack "$one" "$work/lists-1" <"$work/debs-1"
  finish_tree "$one" 1 "$work/lists-1"
  say "release 1: $(wc -l <"$work/debs-1") packages, $(du -sm "$one" | cut -f1) MiB, kernel $(newest_kernel "$one")"
  write_boot 1 "$work/boot"
  new_disk "$work/out/release-1.raw"
  put_boot "$work/boot" "$work/out/release-1.raw"
  mke2fs -q -t ext4 -L demoroot -U c157e121-0000-4000-8000-000000000002 \
    -E root_owner=0:0,offset=$((root_mib << 20)) -d "$one" "$work/out/release-1.raw" "$((disk_mib - root_mib))M"

  upgrade_tree "$one" "$two"
  finish_tree "$two" 2 "$work/lists-2"
  say "release 2: $(comm -13 "$work/debs-1" "$work/debs-2" | wc -l) packages new or changed, kernel $(newest_kernel "$two")"
  upgrade_script "$one" "$two" >"$work/upgrade"
  cp --sparse=always "$work/out/release-1.raw" "$work/out/release-2.raw"
  local root="$work/out/release-2.raw?offset=$((root_mib << 20))"
  debugfs -w -f "$work/upgrade" "$root" >"$work/upgrade.log" 2>&1
  ! grep -vE '^(debugfs( |:).*|Allocated inode.*|)$' "$work/upgrade.log" >&2 || die "the upgrade of the file system failed"
  e2fsck -fn "$root" >"$work/fsck.log" 2>&1 || { cat "$work/fsck.log" >&2; die "the upgraded file system is damaged"; }
  copy_kernel 2 "$work/boot"
  put_boot "$work/boot" "$work/out/release-2.raw"
}

deliver() { # FROM TO
  mkdir -p "$2"
  local n
  for n in 1 2; do cp --sparse=always "$1/release-$n.raw" "$2/"; done
  say "$2/release-1.raw and release-2.raw: $disk_mib MiB each, $(du -m "$2/release-1.raw" | cut -f1) and $(du -m "$2/release-2.raw" | cut -f1) MiB used"
}

main() {
  if [[ ${1:-} == --build-inside ]]; then work=$2; build; return; fi
  local rebuild=0 kept
  if [[ ${1:-} == --rebuild ]]; then rebuild=1; shift; fi
  [[ $# == 1 && $1 != -* ]] || { say 'usage: demo-disk.sh [--rebuild] OUT_DIR'; exit 2; }
  kept=$store/built-$(sha256sum "$self" | cut -c1-16)
  if ((rebuild == 0)) && [[ -f $kept/release-2.raw ]]; then deliver "$kept" "$1"; return; fi
  need_tools
  mkdir -p "$store"
  work=$(mktemp -d "$store/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work/out"
  apt_prepare
  resolve 1
  resolve 2
  if [[ $(id -u) == 0 ]]; then build; else fakeroot -- "$self" --build-inside "$work"; fi
  rm -rf "$store"/built-*
  mv "$work/out" "$kept"
  deliver "$kept" "$1"
}

main "$@"
