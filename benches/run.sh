#!/usr/bin/env bash
# Measures all numbers of docs/performance.md in one run: benches/run.sh > tables.md
# BENCHES=queries runs only that benchmark. PouchDB and pouchdb-server need node and npm; without them, the
# table omits them.
set -euo pipefail
cd "$(dirname "$0")/.."
# 10,000 longpolls need 10,000 sockets in this process and as many in each server.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
if [ "$(ulimit -n)" != unlimited ] && [ "$(ulimit -n)" -lt 11000 ]; then
  export BENCH_WAITING=${BENCH_WAITING:-$(($(ulimit -n) - 500))}
  echo "only $(ulimit -n) open files are allowed: $BENCH_WAITING longpolls" >&2
fi
if command -v npm >/dev/null; then
  (cd protocol-tests && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) >&2
  (cd benches && npm ci --no-audit --no-fund --loglevel=error) >&2 || echo "pouchdb-server could not be installed" >&2
fi
for bench in ${BENCHES:-ratios queries}; do
  cargo bench --bench "$bench" "$@"
  echo
done
