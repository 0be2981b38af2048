#!/usr/bin/env bash
# Runs PouchDB's own test suite against a settee that this script starts and stops.
#
#   protocol-tests/pouchdb-suite.sh CHECKOUT [integration|mapreduce|find|fuzzy|all] [GREP]
#
# CHECKOUT is a clone of apache/pouchdb; the script installs its npm packages and builds it if necessary. The
# default suite is integration. Prints for each suite the number of passed, pending and failed tests, and the
# titles of the failed ones; exits with 1 if any failed. Environment:
#   SETTEE_BIN      the binary (default: a release build, built by this script)
#   TIMEOUT         timeout of a test in milliseconds (5000, as in PouchDB's own script)
#   SUITE_TIMEOUT   timeout of a suite in seconds (1800)
#   VERBOSE=1       also prints the tests that pass
#   SETTEE_TEST_STORE  the address of a PostgreSQL that keeps the data (postgres.sh starts one)
#   COUCH_HOST      http://admin:password@host:port of a running server; the script then starts none
set -euo pipefail

usage() { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2; }
[ $# -ge 1 ] || usage
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$1" && pwd) || usage
suite=${2:-integration}
grep=${3:-}
case $suite in
  all) suites="integration mapreduce find fuzzy" ;;
  integration | mapreduce | find | fuzzy) suites=$suite ;;
  *) usage ;;
esac

cd "$checkout"
[ -f tests/integration/node.setup.js ] || { echo "$checkout is no checkout of apache/pouchdb"; exit 2; }
if [ ! -x node_modules/.bin/mocha ]; then npm ci --no-audit --no-fund --ignore-scripts 2>/dev/null || npm install --no-audit --no-fund --no-save --ignore-scripts; fi
[ -f packages/node_modules/pouchdb/lib/index.js ] || BUILD_NODE=1 npm run build-modules

server= down= scratch=$(mktemp -d)
finish() {
  for pid in $down $server; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
  rm -rf "$scratch" "$checkout"/tmp-settee-*
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ -z "${COUCH_HOST:-}" ]; then
  if [ -z "${SETTEE_BIN:-}" ]; then
    (cd "$here/.." && cargo build --release --bin settee)
    SETTEE_BIN=${CARGO_TARGET_DIR:-$here/../target}/release/settee
  fi
  port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })')
  COUCHDB_USER=admin COUCHDB_PASSWORD=secret "$SETTEE_BIN" serve --data "$scratch/data" --bind "127.0.0.1:$port" \
    ${SETTEE_TEST_STORE:+--store "$SETTEE_TEST_STORE?keep_unused=0"} >"$scratch/log" 2>&1 &
  server=$!
  export COUCH_HOST=http://admin:secret@127.0.0.1:$port
  for _ in $(seq 600); do
    kill -0 "$server" 2>/dev/null || { echo "settee did not start:"; cat "$scratch/log"; exit 1; }
    if node -e 'fetch(process.argv[1]).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))' "http://127.0.0.1:$port/_up"; then break; fi
    sleep 0.1
  done
fi

# Does the same as PouchDB's bin/run-test.sh and bin/test-node.sh with SERVER=couchdb-master, but continues
# after failures.
./node_modules/.bin/add-cors-to-couchdb "$COUCH_HOST" >/dev/null 2>&1 || echo "(add-cors-to-couchdb failed)"
export SERVER=couchdb-master CLIENT=node VIEW_ADAPTERS=memory
status=0
for one in $suites; do
  unset ADAPTERS PLUGINS
  export TESTS_DIR=./tmp-settee-$one COUNTS=$scratch/counts-$one
  case $one in
    integration)
      tests="tests/integration/test.*.js"
      if ! (: </dev/tcp/127.0.0.1/3010) 2>/dev/null; then
        node bin/down-server.js 3010 >/dev/null 2>&1 &
        down=$!
      fi
      ;;
    mapreduce) tests="tests/mapreduce/test.*.js"; export ADAPTERS=http ;;
    find) tests="tests/find/*/test.*.js"; export ADAPTERS=http PLUGINS=pouchdb-find ;;
    fuzzy) tests="tests/fuzzy/test.*.js" ;;
  esac
  echo "== $one"
  timeout -k 5 "${SUITE_TIMEOUT:-1800}" ./node_modules/.bin/mocha --exit --timeout "${TIMEOUT:-5000}" \
    --require=./tests/integration/node.setup.js --reporter="$here/mocha-counts.cjs" --grep="$grep" "$tests" || status=1
  if [ -n "$down" ]; then kill "$down"; wait "$down" 2>/dev/null || true; down=; fi
done

echo
for one in $suites; do
  echo "== $one: $(cat "$scratch/counts-$one" 2>/dev/null || echo "did not end within ${SUITE_TIMEOUT:-1800} s")"
done
if [ -n "$server" ]; then
  kill -0 "$server" 2>/dev/null || { echo "settee ended on its own:"; tail -40 "$scratch/log"; status=1; }
  kill "$server" 2>/dev/null || true
  code=0; wait "$server" || code=$?
  server=
  [ "$code" = 0 ] || { echo "settee exited with $code"; status=1; }
  ! grep -q 'panicked at' "$scratch/log" || { grep -A2 'panicked at' "$scratch/log"; status=1; }
fi
exit $status
