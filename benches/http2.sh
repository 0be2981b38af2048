#!/usr/bin/env bash
# Measures settee over HTTP/1.1 and over HTTP/2, without TLS, on one machine: benches/http2.sh > table.md
# Needs h2load (Debian: nghttp2-client) and node. SETTEE_BIN names the binary; the default is built here.
#   N          requests of each row (20000)
#   WAITING    longpolls that wait (2000)
#   STORE      the engine (sled)
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${SETTEE_BIN:-}" ]; then
  cargo build --profile dist --bin settee >&2
  SETTEE_BIN=${CARGO_TARGET_DIR:-target}/dist/settee
fi
requests=${N:-20000} waiting=${WAITING:-2000}
ulimit -n 65536 2>/dev/null || true
folder=$(mktemp -d)
server=
stop() { kill "$server"; wait "$server" 2>/dev/null || true; rm -rf "$folder/data" "$folder/log"; }
trap 'stop; rm -rf "$folder"' EXIT
start() { # sets server and url
  COUCHDB_USER=admin COUCHDB_PASSWORD=secret "$SETTEE_BIN" serve --store "${STORE:-sled}" --data "$folder/data" \
    --bind 127.0.0.1:0 --log info --log-format json --set settee/max_streams=1000 2> "$folder/log" &
  server=$!
  local address=
  for _ in $(seq 100); do
    address=$(sed -n 's/.*"address":"\([^"]*\)".*/\1/p' "$folder/log" | head -1)
    [ -n "$address" ] && break
    sleep 0.1
  done
  url=http://$address
}
start
basic="authorization: Basic $(printf admin:secret | base64)"
ask() { curl -sf -H "$basic" -H 'Content-Type: application/json' "$@" >/dev/null; }
ask -X PUT "$url/db"
text=$(head -c 500 /dev/zero | tr '\0' x)
printf '{"text":"%s"}' "$text" > "$folder/doc.json"
ask -X PUT "$url/db/doc" -d @"$folder/doc.json"
# The log at `info` has a line for each request; it is the same for both.

ticks() { awk '{ print $14 + $15 }' "/proc/$server/stat"; } # CPU time of the server
per_second=$(getconf CLK_TCK)
load() { # load OPTION... : requests a second, and microseconds of CPU for each
  local before after
  before=$(ticks)
  h2load "$@" > "$folder/result" 2>/dev/null
  after=$(ticks)
  awk -v ticks="$((after - before))" -v hertz="$per_second" '
    /^finished in/ { rate = $4 } /^requests:/ { done = $8; bad = $10 + $12 }
    END { if (bad > 0) rate = "failed"; printf "%s %.0f\n", rate, ticks / hertz * 1e6 / done }' "$folder/result"
}
row() { # row NAME REQUESTS CONNECTIONS CONNECTIONS,STREAMS OPTION... : of HTTP/1.1, then of HTTP/2
  local name=$1 requests=$2 of_one=$3 of_two=$4
  shift 4
  local one two
  one=($(load --h1 -n "$requests" -c "$of_one" "$@"))
  two=($(load -n "$requests" -c "${of_two%,*}" -m "${of_two#*,}" "$@"))
  awk -v name="$name" -v a="${one[0]}" -v b="${two[0]}" -v ca="${one[1]}" -v cb="${two[1]}" \
    'BEGIN { printf "| %s | %.0f | %.0f | %.2f | %d | %d |\n", name, a, b, b / a, ca, cb }'
}
echo "| what | HTTP/1.1, requests/s | HTTP/2, requests/s | HTTP/2 ÷ HTTP/1.1 | µs of CPU, HTTP/1.1 | µs of CPU, HTTP/2 |"
echo "|---|---:|---:|---:|---:|---:|"
get=(-H "$basic" "$url/db/doc")
post=(-H "$basic" -H 'content-type: application/json' -d "$folder/doc.json" "$url/db")
load --h1 -n "$requests" -c 8 "${get[@]}" > /dev/null # to warm up
row "GET of a document, one at a time" "$requests" 1 1,1 "${get[@]}"
row "GET, 32 at a time, on 1 connection with HTTP/2" "$requests" 32 1,32 "${get[@]}"
row "GET, 32 at a time, on 32 connections" "$requests" 32 32,1 "${get[@]}"
row "new document, one at a time" $((requests / 10)) 1 1,1 "${post[@]}"
row "new document, 32 at a time, on 1 connection with HTTP/2" "$requests" 32 1,32 "${post[@]}"
echo
echo "| $waiting longpolls | memory of one, KiB | all told after, ms |"
echo "|---|---:|---:|"
for version in 1.1 2; do
  # A server without a past: what it has once allocated it keeps for a while.
  stop
  start
  node benches/longpolls.mjs "$url" "$server" "$version" "$waiting"
done
