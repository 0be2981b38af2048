#!/usr/bin/env bash
# Fuzzes the parsers of untrusted input: fuzz/run.sh SECONDS [TARGET ...]   default: all targets, one after the
# other. Requires `cargo install cargo-fuzz` and a nightly toolchain, or another one named by FUZZ_TOOLCHAIN.
# Builds all targets first. After a finding, runs the other targets too; leaves the input in fuzz/artifacts.
# The last line says how many targets ran and which had findings. Exits with 1 if any had one.
# A timeout counts as a finding only if the input is also slow when it runs alone, because a busy machine slows
# everything down.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: fuzz/run.sh SECONDS [TARGET ...]" >&2
  exit 2
fi
seconds=$1
shift
fuzz() { cargo "+${FUZZ_TOOLCHAIN:-nightly}" fuzz "$@"; }

# Uses settee's locked dependency versions; cargo adds the dependencies of the fuzz targets.
cp Cargo.lock fuzz/Cargo.lock
mkdir -p fuzz/logs
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(fuzz list)
[ ${#targets[@]} -gt 0 ] || { echo "no targets: is cargo-fuzz installed?" >&2; exit 1; }
echo "building ${#targets[@]} targets; the first build takes minutes (fuzz/logs/build)"
for target in "${targets[@]}"; do
  fuzz build --sanitizer none "$target" >fuzz/logs/build 2>&1 || { tail -40 fuzz/logs/build >&2; exit 1; }
done

found=()
cut_short=()
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target"
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1)
  # The headers of a part may have up to 16 KiB, so inputs must be able to exceed that limit.
  if [ "$target" = multipart ]; then options+=(-max_len=20000); else options+=(-max_len=4096); fi
  if [ -f "fuzz/dictionaries/$target" ]; then options+=(-dict="fuzz/dictionaries/$target"); fi
  log="fuzz/logs/$target"
  for attempt in 1 2 3; do
    result=ended
    fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- "${options[@]}" >"$log" 2>&1 || result=found
    slow=$(grep -oE 'fuzz/artifacts/[^ ]*/timeout-[0-9a-f]+$' "$log" | tail -1 || true)
    if [ "$result" = ended ] || [ -z "$slow" ]; then break; fi
    if ! fuzz run --sanitizer none "$target" "$slow" -- -timeout=10 >>"$log" 2>&1; then break; fi
    echo "$target: ${slow##*/} is not slow when it runs alone (attempt $attempt)"
    rm "$slow"
    result=cut_short
  done
  covered=$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -1 || true)
  runs=$(grep -oE 'number_of_executed_units: [0-9]+' "$log" | grep -oE '[0-9]+' | head -1 || true)
  echo "$target: ${seconds} s, ${runs:-0} executions, ${covered:-no coverage}"
  case $result in
    found)
      grep -E 'panicked|^ERROR|^==.*ERROR|^error(\[|:)|Test unit written' -A 3 "$log" | head -40 || true
      found+=("$target")
      ;;
    cut_short) cut_short+=("$target") ;;
  esac
done
echo "${#targets[@]} targets ran, ${#found[@]} with findings${found:+: ${found[*]} (logs in fuzz/logs, inputs in fuzz/artifacts)}"
if [ ${#cut_short[@]} -gt 0 ]; then
  echo "stopped early, because the machine is too busy; run again: ${cut_short[*]}"
fi
[ ${#found[@]} -eq 0 ] && [ ${#cut_short[@]} -eq 0 ]
