#!/usr/bin/env bash
# Fuzzes parsers of outside bytes: fuzz/run.sh SECONDS [TARGET ...]      without a target: each in turn
# Wants a nightly toolchain and `cargo install cargo-fuzz`. Ends with 1 at the first finding; its input is in fuzz/artifacts.
# An input that took long is a finding if it does when it is run alone: on a busy machine time passes without it.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?seconds for each target}
shift
# The versions that settee is built with; cargo adds what only the targets need.
cp Cargo.lock fuzz/Cargo.lock
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" "fuzz/logs"
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1)
  # A part's headers have a limit of 16 KiB.
  if [ "$target" = multipart ]; then options+=(-max_len=20000); else options+=(-max_len=4096); fi
  if [ -f "fuzz/dictionaries/$target" ]; then options+=(-dict="fuzz/dictionaries/$target"); fi
  log="fuzz/logs/$target"
  for attempt in 1 2 3; do
    ended=0
    cargo +nightly fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- "${options[@]}" \
      >"$log" 2>&1 || ended=$?
    slow=$(grep -oE 'fuzz/artifacts/[^ ]*/timeout-[0-9a-f]+$' "$log" | tail -1 || true)
    if [ "$ended" -eq 0 ] || [ -z "$slow" ]; then break; fi
    if ! cargo +nightly fuzz run --sanitizer none "$target" "$slow" -- -timeout=10 >>"$log" 2>&1; then break; fi
    echo "$target: ${slow##*/} is quick when it is run alone (attempt $attempt)"
    rm "$slow"
  done
  covered=$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -1 || true)
  runs=$(grep -oE 'number_of_executed_units: [0-9]+' "$log" | grep -oE '[0-9]+' || true)
  echo "$target: ${seconds} s, ${runs:-0} executions, ${covered:-no coverage}"
  if [ "$ended" -ne 0 ]; then
    grep -E 'panicked|^ERROR|^==.*ERROR|error(\[|:)|Test unit written' -A 3 "$log" | head -40
    exit 1
  fi
done
