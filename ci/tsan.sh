#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The standard library is built too: what it does unseen would count as no order at all.
source=$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/Cargo.lock
[[ -e $source ]] || skip "no nightly toolchain with rust-src"

# ThreadSanitizer tells memory by its address, so both ends run as threads over one mapping: the unit tests.
export RUSTFLAGS="-Zsanitizer=thread --cfg busway_tsan"
export PROPTEST_CASES=${PROPTEST_CASES:-16}
tests=(cargo +nightly test -Zbuild-std --target "$(rustc -vV | sed -n 's/^host: //p')" --target-dir "$target_dir/tsan" --lib)
TSAN_OPTIONS=halt_on_error=1 "${tests[@]}"

# One ordering weakened, each a race that has to be reported. Those that are not here are ordered some other way in every run on
# this kind of processor; loom has them.
races=0
while read -r theme mutant; do
    report=$target_dir/tsan-mutant.log
    if BUSWAY_MUTANT=$mutant TSAN_OPTIONS=halt_on_error=1 timeout 60 "${tests[@]}" "$theme" >"$report" 2>&1 ||
        ! grep -q 'WARNING: ThreadSanitizer: data race' "$report"; then
        cat "$report"
        fail "no race is reported with the mutant '$mutant'"
    fi
    echo "a race, as it should be: $mutant"
    races=$((races + 1))
done <<'MUTANTS'
link::tests call: reply without release
link::tests call: reply without acquire
link::tests spsc: publish without release
link::tests spsc: take without acquire
link::tests spsc: pos without acquire
pool::tests owned: word without acquire
pool::tests owned: store without release
pool::tests owned: swap without release
ring::mpmc mpmc: slot without release
ring::mpmc mpmc: entry without release
MUTANTS
echo "no race in the library; a race in each of $races mutants"
