#!/usr/bin/env bash
# Fuzzes parsers of outside bytes: fuzz/run.sh SECONDS [TARGET ...]      without a target: each in turn
# Wants a nightly toolchain and `cargo install cargo-fuzz`. Ends with 1 at the first finding; its input is in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?seconds for each target}
shift
# The versions that settee is built with.
cp Cargo.lock fuzz/Cargo.lock
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" "fuzz/seeds/$target"
  cargo +nightly fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 2>&1 |
    tee "fuzz/corpus/$target.log" | grep -E "^(==|SUMMARY|stat::number_of_executed|stat::peak|thread|Test unit)|panicked|ERROR" |
    sed "s/^/$target: /"
done
