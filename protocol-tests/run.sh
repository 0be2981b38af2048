#!/usr/bin/env bash
# Runs all tests: the Rust tests, then the protocol tests and the PouchDB clients against the binary built
# here.
#   protocol-tests/run.sh [rust|protocol]      default: both
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}

cargo build --bin settee
bin=${CARGO_TARGET_DIR:-target}/debug/settee
export SETTEE_BIN=${SETTEE_BIN:-$(realpath "$bin")}

if [ "$what" != protocol ]; then
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --no-fail-fast
  else
    cargo test --lib --bins --tests --no-fail-fast
  fi
fi

if [ "$what" != rust ]; then
  cd protocol-tests
  npm ci --no-audit --no-fund --loglevel=error
  npm test
fi
