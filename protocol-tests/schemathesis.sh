#!/usr/bin/env bash
# Sends valid and invalid requests to all operations of docs/openapi.yaml with schemathesis; no response may
# be a 5xx.
#   protocol-tests/schemathesis.sh [SECONDS]      runs at least that long; default: one pass
# Requires `pip install schemathesis` (4.x; ST names its command) and a built settee (SETTEE_BIN names it).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${SETTEE_BIN:-target/debug/settee}
st=${ST:-st}
folder=$(mktemp -d)
port=$(node -e 'const s=require("net").createServer().listen(0,"127.0.0.1",()=>{console.log(s.address().port);s.close()})')
at=http://127.0.0.1:$port
COUCHDB_USER=admin COUCHDB_PASSWORD=secret SETTEE_CHTTPD_AUTH__ITERATIONS=1000 SETTEE_CHTTPD_AUTH_LOCKOUT__MODE=off \
  "$bin" serve --data "$folder/data" --bind "127.0.0.1:$port" --log warn >"$folder/log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
for _ in $(seq 100); do curl -sf "$at/_up" >/dev/null && break; sleep 0.2; done

# Creates the database, document and design document that the examples in openapi.yaml name.
send() { curl -sf -u admin:secret -H 'Content-Type: application/json' -X "$1" "$at$2" -d "${3:-}" >/dev/null; }
send PUT /notes
send PUT /notes/doc '{"n":1,"tags":["a"]}'
send PUT /notes/_design/app '{"views":{"by_n":{"map":"function (doc) { emit(doc.n, 1); }","reduce":"_sum"}},
  "shows":{"f":"function (doc, req) { return JSON.stringify([doc, req.query]); }"},
  "lists":{"f":"function () { var row; while (row = getRow()) send(JSON.stringify(row)); }"},
  "updates":{"f":"function (doc, req) { return [doc, req.body]; }"},
  "filters":{"f":"function (doc) { return true; }"},
  "rewrites":[{"from":"x","to":"_show/f"}]}'

# With PIN=1, schemathesis does not generate the names of databases, documents, design documents and
# functions, but uses the existing ones.
{
  printf '[parameters]\n"path.node" = "_local"\n'
  [ -z "${PIN:-}" ] || printf '"path.%s" = "%s"\n' db notes ddoc app view by_n function f
} >"$folder/schemathesis.toml"
# Excluded: the restart, deleting the database that all other operations need, and writing arbitrary settings
# (other tests cover the settings).
leave=(--exclude-path-regex '_restart$' --exclude-operation-id dbDelete --exclude-operation-id configSet)
status=0
"$st" --config-file "$folder/schemathesis.toml" run docs/openapi.yaml --url "$at" --auth admin:secret \
  --checks not_a_server_error --phases examples,coverage,fuzzing --mode all --max-examples "${EXAMPLES:-60}" \
  --request-timeout 30 --continue-on-failure --suppress-health-check all --warnings off --seed "${SEED:-1}" \
  "${leave[@]}" ${1:+--max-time "$1"} || status=$?
kill -0 "$server" || { echo "the server ended:"; tail -50 "$folder/log"; exit 1; }
if grep -E "panicked|a request failed" "$folder/log"; then status=1; fi
exit "$status"
