#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Fuzzes each target for so many seconds, or executions if "runs" follows: ci/fuzz.sh 10, ci/fuzz.sh 10000000 runs.
amount=${1:-5}
limit=-max_total_time=$amount
[[ ${2:-} != runs ]] || limit=-runs=$amount

cargo +nightly fuzz --version >/dev/null 2>&1 || skip "no nightly toolchain with cargo-fuzz"
# The sanitizer does not see into copies in assembly; these are as ThreadSanitizer wants them.
export RUSTFLAGS="--cfg busway_tsan" CARGO_TARGET_DIR=$target_dir/fuzz
cargo +nightly fuzz build || fail "the targets do not build"

corpus=$target_dir/fuzz/corpus
mkdir -p "$corpus" "$corpus/artifacts"
RUSTFLAGS="" cargo run --quiet --manifest-path fuzz/Cargo.toml --example seeds "$corpus"
total=0
for target in link layout join; do
    log=$target_dir/fuzz/$target.log
    # It keeps what was freed long enough to tell, and no longer: memory is zeroed for each execution.
    ASAN_OPTIONS=quarantine_size_mb=16 "$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release/$target" \
        "$limit" -timeout=10 -max_len=513 -artifact_prefix="$corpus/artifacts/$target-" -print_final_stats=1 \
        "$corpus/$target" >"$log" 2>&1 || { tail -40 "$log"; fail "$target"; }
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    echo "$target: $executions executions, $rate a second"
    total=$((total + executions))
    [[ -z ${BUSWAY_FIGURES:-} ]] || printf 'G4\texecutions of the fuzz target %s\t%s\n' "$target" "$executions" >>"$BUSWAY_FIGURES"
done
[[ -z ${BUSWAY_FIGURES:-} ]] || printf 'G4\texecutions of all fuzz targets, without a crash\t%s\n' "$total" >>"$BUSWAY_FIGURES"
