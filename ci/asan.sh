#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

target=$(rustc -vV | sed -n 's/^host: //p')
runtime=$(rustc +nightly --print target-libdir 2>/dev/null)/librustc-nightly_rt.asan.a
[[ -e $runtime ]] || skip "no nightly toolchain with AddressSanitizer"

# Without `allocations` and `quiet`, where allocator and system calls are the test's own, `faults`, which leaves it too little address
# space, and `layout`, which only computes.
tests=(--lib)
for test in calls close deadlines death descriptors fork handshake join limits many nested pool pool_history \
    pool_stress rings sets tasks; do
    [[ ! -e tests/$test.rs ]] || tests+=(--test "$test")
done

export RUSTFLAGS=-Zsanitizer=address
export PROPTEST_CASES=${PROPTEST_CASES:-32}
cargo=(cargo +nightly test --target "$target" --target-dir "$target_dir/asan")
# Children run under it too. Those that die of a fault in a test are to die of it, not to report it.
export ASAN_OPTIONS=detect_leaks=1:handle_segv=0:handle_abort=0
"${cargo[@]}" "${tests[@]}"
# What was freed and is kept for a while is not to count as left behind.
ASAN_OPTIONS=$ASAN_OPTIONS:quarantine_size_mb=1:thread_local_quarantine_size_kb=16 "${cargo[@]}" --test leaks
# Its plugins forget what they hold, for ever: that is the violation.
ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 "${cargo[@]}" --test violations
