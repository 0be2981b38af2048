#!/usr/bin/env bash
# Runs a command with a PostgreSQL of its own, which lives in a temporary folder as long as the command runs:
#
#   protocol-tests/postgres.sh npm test
#   protocol-tests/postgres.sh protocol-tests/pouchdb-suite.sh CHECKOUT all
#
# The command finds the address in SETTEE_TEST_STORE; every server that the tests start makes a schema of its own there.
# PostgreSQL is Debian's package, or the one in PATH. FSYNC=off makes it faster on a slow disk.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -n | tail -1)
bin=${bin:-$(dirname "$(command -v initdb)" 2>/dev/null || true)}
[ -x "$bin/initdb" ] || { echo "PostgreSQL is not installed (apt install postgresql)"; exit 1; }
folder=$(mktemp -d)
own=()
if [ "$(id -u)" = 0 ]; then
  user=$(id -u postgres >/dev/null 2>&1 && echo postgres || echo nobody)
  chown "$user" "$folder"
  own=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups)
fi
finish() {
  [ -z "${server:-}" ] || { kill -QUIT "$server" 2>/dev/null; wait "$server" 2>/dev/null; } || true
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM
cd "$folder"
"${own[@]}" "$bin/initdb" --no-sync --auth=trust --username=settee --encoding=UTF8 --locale=C -D "$folder/data" >"$folder/made" 2>&1 ||
  { cat "$folder/made"; exit 1; }
# Directly, and not below another process: it is to be stopped by its number.
"${own[@]}" "$bin/postgres" -D "$folder/data" -k "$folder" -c listen_addresses= -c max_connections=400 \
  -c "fsync=${FSYNC:-on}" -c shared_buffers=64MB >"$folder/log" 2>&1 &
server=$!
for _ in $(seq 300); do
  if "$bin/pg_isready" -q -h "$folder" -U settee; then break; fi
  kill -0 "$server" 2>/dev/null || { cat "$folder/log"; exit 1; }
  sleep 0.1
done
cd "$OLDPWD"
export SETTEE_TEST_STORE="postgres://settee@${folder//\//%2F}/postgres"
code=0
"$@" || code=$?
exit $code
