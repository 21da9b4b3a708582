#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ $(uname -m) == x86_64 ]] || skip "the sweep steps through x86-64 only"

# One wrong step each. The sweep must find every one of them, and nothing without.
mutants=(
    "intake: position told one late"
    "mpmc: entry cleared before the slot is taken"
    "mpmc: pushed slot freed"
    "owned: ext not freed by recovery"
    "owned: executing slot freed by recovery"
    "owned: queued slot freed"
)

# Optimised, so that an operation has few instructions.
build=(env RUSTFLAGS="--cfg busway_mutants" CARGO_PROFILE_RELEASE_LTO=off cargo test --release
    --target-dir "$target_dir/mutants" --test crash_points)
"${build[@]}" --no-run

log=$target_dir/mutants/sweep.log
"${build[@]}" >"$log" 2>&1 || fail "the sweep fails without a mutant: $(tail -n 20 "$log")"
for mutant in "${mutants[@]}"; do
    if BUSWAY_MUTANT=$mutant timeout 120 "${build[@]}" >"$log" 2>&1; then
        fail "the sweep does not find the mutant \"$mutant\""
    fi
    # By an assertion, not because it did not run.
    grep -q '^failed:\|hung' "$log" || fail "the sweep does not tell of \"$mutant\": $(tail -n 20 "$log")"
    echo "found: $mutant, $(grep -c ', Killed(\|, Paused(\|, Walks' "$log") times"
done
