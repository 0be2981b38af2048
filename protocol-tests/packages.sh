#!/usr/bin/env bash
# Installs what `scripts/release.sh` has built as a user would, on a Debian 12 that has no compiler:
#   protocol-tests/packages.sh FOLDER [binary] [package] [image] [emulated]      default: all four
#   FOLDER    the release files (target/release-files)
# Runs as root on Debian, with debootstrap, systemd-container and node; `emulated` needs qemu-user-static. The packages are
# installed in a container of systemd-nspawn with systemd as PID 1 and a network of its own. The Debian it starts from is
# kept in $ROOTS (default: target/package-roots).
set -euo pipefail
cd "$(dirname "$0")/.."
files=$(realpath "${1:?protocol-tests/packages.sh FOLDER [binary] [package] [image] [emulated]}"); shift
parts=("$@"); [ ${#parts[@]} -gt 0 ] || parts=(binary package image emulated)
roots=${ROOTS:-${CARGO_TARGET_DIR:-target}/package-roots}
mkdir -p "$roots"; roots=$(realpath "$roots")
work=$(mktemp -d "$roots/run.XXXXXX")
leader=
server=
binfmt=/proc/sys/fs/binfmt_misc

say() { echo "== $*"; }
die() {
  echo "FAILED: $*" >&2
  [ ! -e "$work/live" ] || tail -5 "$work/live" >&2
  [ -z "$leader" ] || inside journalctl --no-pager --lines 12 --unit 'settee*' >&2 || true
  exit 1
}
# until WHAT SECONDS COMMAND...: polls until the command succeeds.
until_ok() {
  local what=$1 end=$((SECONDS + $2)); shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || die "waited in vain: $what"
    sleep 0.2
  done
}
power_off() {
  [ -z "$leader" ] || { kill -s RTMIN+4 "$leader" 2>/dev/null || true; until_ok "the container ends" 60 gone "$nspawn"; leader=; }
  if mountpoint -q "$work/root"; then umount "$work/root"; fi
}
gone() { ! kill -0 "$1" 2>/dev/null; }
clean() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  power_off
  [ ! -e "$binfmt/settee-test" ] || echo -1 >"$binfmt/settee-test"
  rm -rf "$work"
}
trap clean EXIT

# --- the static binary, in an empty folder ------------------------------------------------------------------------------

# serves COMMAND...: starts a server in an empty folder with an empty environment, writes, restarts, reads, stops.
serves() {
  local folder=$work/empty url
  rm -rf "$folder"; mkdir "$folder"
  start_server "$folder" "$@"
  grep -q 'password  ' "$folder/out" || die "the first start prints no password"
  local password; password=$(sed -n 's/^ *password *//p' "$folder/out")
  curl -sSf -u "admin:$password" -X PUT "$url/notes" >/dev/null
  curl -sSf -u "admin:$password" -X PUT "$url/notes/a" -d '{"text":"kept"}' >/dev/null
  curl -sSf -u "admin:$password" -X PUT "$url/notes/_design/d" -d '{"views":{"v":{"map":"function (doc) { emit(doc.text); }"}}}' >/dev/null
  curl -sSf -u "admin:$password" "$url/notes/_design/d/_view/v" | grep -q '"key":"kept"' || die "a view does not work"
  stop_server
  start_server "$folder" "$@"
  curl -sSf -u "admin:$password" "$url/notes/a" | grep -q kept || die "the document is gone after a restart"
  stop_server
}
start_server() {
  local folder=$1; shift
  (cd "$folder" && exec env -i "$@" serve --bind 127.0.0.1:0 >out 2>log) & server=$!
  until_ok "the server starts" 60 grep -q 'http://localhost:[0-9]' "$folder/log"
  url=$(grep -o 'http://localhost:[0-9]*' "$folder/log" | tail -1)
}
stop_server() {
  kill "$server"; wait "$server" || die "the server exits with $?"
  server=
}
part_binary() {
  local binary; binary=$(echo "$files"/settee-*-linux-x86_64)
  say "binary: $(basename "$binary") in an empty folder"
  serves "$binary"
}
# The server starts script workers from its own binary, so the kernel must know the emulator.
part_emulated() {
  local binary magic mask; binary=$(echo "$files"/settee-*-linux-aarch64)
  say "emulated: $(basename "$binary") under qemu-aarch64"
  magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  [ -e "$binfmt/register" ] || mount -t binfmt_misc binfmt_misc "$binfmt"
  echo ":settee-test:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >"$binfmt/register"
  serves "$binary"
}

# --- the package, on a fresh Debian with systemd ---------------------------------------------------------------------------

base() {
  [ -d "$roots/bookworm" ] && return
  say "a Debian 12 (once)"
  debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,curl bookworm "$roots/bookworm.new" >"$roots/debootstrap.log"
  rm -f "$roots/bookworm.new"/var/cache/apt/archives/*.deb
  mv "$roots/bookworm.new" "$roots/bookworm"
}
boot() {
  base
  rm -rf "$work/changes" "$work/overlay"
  mkdir -p "$work/changes" "$work/overlay" "$work/root"
  mount -t overlay overlay -o "lowerdir=$roots/bookworm,upperdir=$work/changes,workdir=$work/overlay" "$work/root"
  systemd-nspawn --quiet --directory "$work/root" --boot --register=no --keep-unit --private-network --console=pipe \
    >"$work/console" 2>&1 </dev/null & nspawn=$!
  until_ok "systemd starts" 60 find_leader
  until_ok "the system is up" 120 is_up
}
find_leader() { leader=$(pgrep -P "$nspawn" | head -1); [ -n "$leader" ]; }
is_up() { inside systemctl is-system-running | grep -qE 'running|degraded'; }
inside() { nsenter -t "$leader" -m -u -i -n -p -C env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"; }
# The tests' node, in the container's network.
client() { nsenter -t "$leader" -n "$@"; }
answers() { inside curl -sSf http://localhost:5984/_up; }
state() { inside systemctl is-active "$1" || true; }
expect() { [ "$2" = "$3" ] || die "$1 is $2, not $3"; }
# repack PACKAGE VERSION NEW [LINE]: the same package with another version, and one more line in its settings.
repack() {
  rm -rf "$work/repack"; dpkg-deb -R "$1" "$work/repack"
  sed -i "s/^Version: .*/Version: $2/" "$work/repack/DEBIAN/control"
  [ -z "${4:-}" ] || echo "$4" >>"$work/repack/etc/settee/settee.toml"
  dpkg-deb --root-owner-group -Znone -b "$work/repack" "$3" >/dev/null
}
# upgrade PACKAGE: upgrades while two PouchDBs sync; sets $seen to what they report.
upgrade() {
  local url=http://admin:secret@127.0.0.1:5984/notes
  rm -f "$work/end"; mkfifo "$work/end"
  client node protocol-tests/packages/live.mjs "$url" <"$work/end" >"$work/live" 2>&1 & local live=$!
  exec 7>"$work/end"
  until_ok "the devices sync" 60 grep -q ready "$work/live"
  local before; before=$(inside systemctl show -p MainPID --value settee)
  inside dpkg -i "/root/$1" >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; die "the upgrade fails"; }
  until_ok "the new server answers" 60 answers
  [ "$before" != "$(inside systemctl show -p MainPID --value settee)" ] || die "the upgrade has not restarted the server"
  exec 7>&-
  wait "$live" || { cat "$work/live"; die "a device lacks documents after the upgrade"; }
  seen=$(tail -1 "$work/live")
}
part_package() {
  local package; package=$(echo "$files"/settee_*_amd64.deb)
  say "package: $(basename "$package") on a Debian 12 with systemd"
  boot
  repack "$package" 0.0.1 "$work/root/root/old.deb"
  cp "$package" "$work/root/root/new.deb"
  repack "$package" 99.0 "$work/root/root/newer.deb" '# a new default'

  say "  install and start"
  inside apt-get install -y /root/old.deb >"$work/apt" 2>&1 || { cat "$work/apt"; die "apt install fails"; }
  until_ok "the server answers" 60 answers
  expect settee.service "$(state settee.service)" active
  expect settee-backup.timer "$(state settee-backup.timer)" active
  expect settee-http.socket "$(state settee-http.socket)" inactive
  [ -z "$(inside ls /var/backups/settee)" ] || die "the installation made a backup"
  expect "the user of the server" "$(inside stat -c %U "/proc/$(inside systemctl show -p MainPID --value settee)")" settee
  expect "the mode of the data folder" "$(inside stat -c '%U %a' /var/lib/settee)" "settee 700"
  expect "the mode of the settings" "$(inside stat -c '%U:%G %a' /etc/settee/settee.toml)" "root:settee 640"
  inside journalctl -u settee | grep -q 'password  ' || die "the first start shows no password in the log"
  inside systemd-analyze verify settee.service settee-http.socket settee-backup.service settee-backup.timer
  inside systemd-analyze security --no-pager settee.service | tail -1

  say "  an admin, a view in a confined script worker, a backup and its restore"
  inside sh -c 'echo secret | runuser -u settee -- settee admin --data /var/lib/settee --password-file - admin' >/dev/null
  local url=http://admin:secret@localhost:5984
  inside curl -sSf -X PUT $url/notes >/dev/null
  inside curl -sSf -X PUT $url/notes/_design/d -d '{"views":{"v":{"map":"function (doc) { emit(doc.text); }"}}}' >/dev/null
  inside curl -sSf "$url/notes/_design/d/_view/v?key=\"none\"" >/dev/null || die "a view does not work under the unit"
  inside systemctl start settee-backup.service || die "the backup fails: $(inside journalctl -u settee-backup)"
  inside sh -c 'settee restore /var/backups/settee/settee-*.backup --data /root/rehearsal && settee check --data /root/rehearsal' >/dev/null

  say "  an upgrade while two PouchDBs sync"
  inside sh -c 'echo "# my own line" >>/etc/settee/settee.toml'
  upgrade new.deb; echo "     without the socket: $seen"
  inside grep -q 'my own line' /etc/settee/settee.toml || die "the upgrade has lost a change of the settings"

  say "  an upgrade with settee-http.socket, and with settings that the package has changed, too"
  inside sh -c 'systemctl stop settee && systemctl enable --now settee-http.socket && systemctl start settee' 2>/dev/null
  echo 'force-confold' >"$work/root/etc/dpkg/dpkg.cfg.d/keep"
  upgrade newer.deb; echo "     with the socket: $seen"
  echo "$seen" | grep -q '"refused":0' || die "connections were refused"
  inside grep -q 'my own line' /etc/settee/settee.toml || die "the upgrade has lost a change of the settings"
  inside test -e /etc/settee/settee.toml.dpkg-dist || die "the new settings are not beside the old ones"

  say "  remove: data, settings and backups stay"
  inside apt-get remove -y settee >"$work/apt" 2>&1 || { cat "$work/apt"; die "apt remove fails"; }
  for unit in settee.service settee-http.socket settee-backup.timer; do expect $unit "$(state $unit)" inactive; done
  if answers; then die "something still listens"; fi
  inside test -e /var/lib/settee/format.toml -a -e /etc/settee/settee.toml || die "remove has deleted data"
  say "  install again: the data is there"
  inside apt-get install -y /root/new.deb >"$work/apt" 2>&1 || { cat "$work/apt"; die "apt install fails"; }
  until_ok "the server answers" 60 answers
  inside curl -sSf $url/notes | grep -q '"doc_count"' || die "the data is gone"
  say "  purge: data, settings and user go, backups stay"
  inside apt-get purge -y settee >"$work/apt" 2>&1 || { cat "$work/apt"; die "apt purge fails"; }
  inside test ! -e /var/lib/settee -a ! -e /etc/settee || die "purge leaves data or settings: $(inside ls -R /var/lib/settee /etc/settee)"
  if inside getent passwd settee; then die "purge leaves the user"; fi
  inside sh -c 'ls /var/backups/settee/settee-*.backup' >/dev/null || die "purge has deleted the backups"
  expect "what is left in systemd" "$(inside find /etc/systemd /var/lib/systemd/deb-systemd-helper-enabled -name '*settee*')" ""
  power_off
}

# --- the image -------------------------------------------------------------------------------------------------------------

# Docker and Podman need an engine. This runs the image's files as they would: a read-only root, no other program, the
# user of the image, /proc, /dev/null and volumes.
part_image() {
  local image; image=$(echo "$files"/settee-*-image-amd64.tar)
  say "image: $(basename "$image"), read-only and without another program"
  mkdir -p "$work/image" "$work/files" "$work/volume"
  tar -xf "$image" -C "$work/image"
  local layer
  for layer in $(node -p 'JSON.parse(require("fs").readFileSync(process.argv[1]))[0].Layers.join("\n")' "$work/image/manifest.json"); do
    tar -xf "$work/image/$layer" -C "$work/files"
  done
  local config; config=$work/image/$(node -p 'JSON.parse(require("fs").readFileSync(process.argv[1]))[0].Config' "$work/image/manifest.json")
  expect "the user" "$(node -p 'JSON.parse(require("fs").readFileSync(process.argv[1])).config.User' "$config")" 5984:5984
  expect "the number of files" "$(find "$work/files" -type f | wc -l)" 1
  mkdir -p "$work/files/proc" "$work/files/dev" "$work/files/backups" "$work/backups"
  : >"$work/files/dev/null"
  chown 5984:5984 "$work/volume" "$work/backups"
  # shellcheck disable=SC2016 # expanded by the shell in the new namespace
  unshare --mount --pid --net --fork --kill-child sh -ec '
    ip link set lo up 2>/dev/null || ifconfig lo up
    mount --bind "$1" "$1"; mount --bind "$2" "$1/data"; mount --bind "$3" "$1/backups"; mount -t proc proc "$1/proc"
    mount --bind /dev/null "$1/dev/null"
    mount -o remount,bind,ro "$1"
    root=$1
    set -- env -i PATH=/bin SETTEE_DATA=/data SETTEE_BIND=0.0.0.0:5984 COUCHDB_USER=admin COUCHDB_PASSWORD=secret \
      "$(command -v chroot)" --userspec=5984:5984 --groups=5984 "$root" settee
    "$@" serve & server=$!
    for _ in $(seq 300); do "$@" health >/dev/null 2>&1 && break; sleep 0.2; done
    "$@" health
    curl -sSf -u admin:secret -X PUT http://127.0.0.1:5984/notes
    curl -sSf -u admin:secret -X PUT http://127.0.0.1:5984/notes/_design/d -d "{\"views\":{\"v\":{\"map\":\"function (doc) { emit(1); }\"}}}"
    curl -sSf -u admin:secret http://127.0.0.1:5984/notes/_design/d/_view/v
    "$@" livesync --user ann --url https://sync.example.com | grep "^obsidian:" >/dev/null
    "$@" admin alice
    [ "$("$@" backup - | wc -c)" -gt 1000 ]
    "$@" backup --data /data /backups
    "$@" restore "/backups/$(ls "$root/backups")" --data /backups/restored
    kill $server; wait $server' sh "$work/files" "$work/volume" "$work/backups" >"$work/image.log" 2>&1 || { cat "$work/image.log"; die "the image does not work"; }
}

(cd "$files" && sha256sum --quiet --check SHA256SUMS) || die "SHA256SUMS"
for part in "${parts[@]}"; do "part_$part"; done
say "all passed"
