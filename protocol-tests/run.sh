#!/usr/bin/env bash
# Runs all tests: the Rust tests, then the protocol tests and the PouchDB clients against the binary built
# here. Where CI=true, a skipped test that tests/allowed-skips.txt does not name fails.
#   protocol-tests/run.sh [rust|protocol]      default: both
#   protocol-tests/run.sh postgres             some of the protocol tests with the data in a PostgreSQL, several nodes on it, failovers
#   protocol-tests/run.sh spelling             only the spell checker, which needs no binary
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}

install_packages() {
  # npm writes this file at the end of an installation. No package needs its install scripts: what is native is prebuilt,
  # and the SQLite that PouchDB Server can use would be compiled for minutes.
  if [ ! node_modules/.package-lock.json -nt package-lock.json ]; then npm ci --ignore-scripts --no-audit --no-fund --loglevel=error; fi
}

if [ "$what" = spelling ]; then
  cd protocol-tests
  install_packages
  npm run --silent spelling
  exit
fi

cargo build --bin settee
bin=${CARGO_TARGET_DIR:-target}/debug/settee
export SETTEE_BIN=${SETTEE_BIN:-$(realpath "$bin")}

if [ "$what" = postgres ]; then
  cd protocol-tests
  install_packages
  ./postgres.sh node --test --test-timeout=900000 --test-reporter=spec --test-concurrency=2 postgres/*.test.js tests/documents.test.js tests/changes.test.js tests/attachments.test.js
  exit
fi

if [ "$what" != protocol ]; then
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --no-fail-fast
  else
    # A test that hangs is named in the output ("has been running for over 60 seconds"), and ends the run here.
    timeout --foreground --kill-after=60 7200 cargo test --lib --bins --tests --no-fail-fast
  fi
fi

if [ "$what" != rust ]; then
  cd protocol-tests
  install_packages
  npm test
fi
