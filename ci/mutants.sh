#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ $(uname -m) == x86_64 ]] || skip "the sweep steps through x86-64 only"

# One wrong step each, and the test of the sweep that must find it.
mutants=(
    "plugins: intake: position told one late"
    "members: mpmc: entry cleared before the slot is taken"
    "members: owned: ext not freed by recovery"
    "members: owned: executing slot freed by recovery"
    "members: owned: queued slot freed"
    "members_of_rings: mpmc: pushed slot freed"
)

# Optimised, so that an operation has few instructions.
sweep() {
    RUSTFLAGS="--cfg busway_mutants" CARGO_PROFILE_RELEASE_LTO=off cargo test --release --target-dir "$target_dir/mutants" \
        --test crash_points "$@"
}
sweep --no-run

unset BUSWAY_FIGURES # these are no figures of the library
log=$target_dir/mutants/sweep.log
for mutant in "${mutants[@]}"; do
    test=${mutant%%: *} mutant=${mutant#*: }
    ! BUSWAY_MUTANT=$mutant sweep -- --exact "$test" >"$log" 2>&1 || fail "$test does not find \"$mutant\""
    # By a check of its own, and not because it did not run.
    grep -q '^failed:' "$log" || fail "$test does not tell of \"$mutant\": $(tail -n 20 "$log")"
    echo "$test finds \"$mutant\": $(grep -m 1 -A 1 '^failed:' "$log" | tail -n 1)"
done
sweep -- --exact plugins members members_of_rings >"$log" 2>&1 || fail "without a mutant: $(tail -n 20 "$log")"
