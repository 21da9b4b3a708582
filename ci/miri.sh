#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cargo +nightly miri --version >/dev/null 2>&1 || skip "no nightly toolchain with miri"

# Isolation would forbid the clock, and proptest its regression files.
export MIRIFLAGS=${MIRIFLAGS:--Zmiri-disable-isolation}
# Interpreted code is some hundred times slower.
export PROPTEST_CASES=${PROPTEST_CASES:-8}
cargo +nightly miri test --lib --target-dir "$target_dir/miri"
