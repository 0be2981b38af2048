#!/usr/bin/env bash
# Fuzzes the parsers of untrusted input: fuzz/run.sh SECONDS [TARGET ...]   default: all targets, one after the
# other. Requires `cargo install cargo-fuzz` and a nightly toolchain, or another one named by FUZZ_TOOLCHAIN.
# Builds all targets first. After a finding, runs the other targets too; leaves the input in fuzz/artifacts and
# exits with 1 at the end.
# A timeout counts as a finding only if the input is also slow when it runs alone, because a busy machine slows
# everything down.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?seconds for each target}
shift
fuzz() { cargo "+${FUZZ_TOOLCHAIN:-nightly}" fuzz "$@"; }

# Uses settee's locked dependency versions; cargo adds the dependencies of the fuzz targets.
cp Cargo.lock fuzz/Cargo.lock
mkdir -p fuzz/logs
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(fuzz list)
[ ${#targets[@]} -gt 0 ] || { echo "no targets: is cargo-fuzz installed?" >&2; exit 1; }
for target in "${targets[@]}"; do
  fuzz build --sanitizer none "$target" >fuzz/logs/build 2>&1 || { tail -40 fuzz/logs/build >&2; exit 1; }
done

found=()
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target"
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1)
  # The headers of a part may have up to 16 KiB, so inputs must be able to exceed that limit.
  if [ "$target" = multipart ]; then options+=(-max_len=20000); else options+=(-max_len=4096); fi
  if [ -f "fuzz/dictionaries/$target" ]; then options+=(-dict="fuzz/dictionaries/$target"); fi
  log="fuzz/logs/$target"
  for attempt in 1 2 3; do
    ended=0
    fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- "${options[@]}" >"$log" 2>&1 || ended=$?
    slow=$(grep -oE 'fuzz/artifacts/[^ ]*/timeout-[0-9a-f]+$' "$log" | tail -1 || true)
    if [ "$ended" -eq 0 ] || [ -z "$slow" ]; then break; fi
    if ! fuzz run --sanitizer none "$target" "$slow" -- -timeout=10 >>"$log" 2>&1; then break; fi
    echo "$target: ${slow##*/} is not slow when it runs alone (attempt $attempt)"
    rm "$slow"
  done
  covered=$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -1 || true)
  runs=$(grep -oE 'number_of_executed_units: [0-9]+' "$log" | grep -oE '[0-9]+' || true)
  echo "$target: ${seconds} s, ${runs:-0} executions, ${covered:-no coverage}"
  if [ "$ended" -ne 0 ]; then
    grep -E 'panicked|^ERROR|^==.*ERROR|error(\[|:)|Test unit written' -A 3 "$log" | head -40 || true
    found+=("$target")
  fi
done
if [ ${#found[@]} -gt 0 ]; then
  echo "findings: ${found[*]} (logs in fuzz/logs)"
  exit 1
fi
