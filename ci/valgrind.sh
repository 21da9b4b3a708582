#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

have valgrind || skip "valgrind is not installed"

report=$target_dir/valgrind.log
# What is still reachable at the end belongs to the test harness and to caches of threads.
memcheck=(valgrind --tool=memcheck --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite
    --track-fds=yes --error-exitcode=9 --quiet)

check() {
    local what=$1
    shift
    timeout 120 "${memcheck[@]}" "$@" </dev/null >"$report" 2>&1 || { cat "$report"; fail "$what"; }
    # Each descriptor that is open at the end is followed by where it was opened, unless it is not ours.
    if grep -A1 'Open \(file descriptor\|AF_UNIX socket\)' "$report" | grep -q ' at 0x'; then
        cat "$report"
        fail "$what: descriptors are left open"
    fi
    echo "$what: no error, nothing lost, nothing left open"
}

tests=$(cargo test --lib --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
check "whole links and pools in one process, memory files" \
    "$tests" --test-threads=1 link::tests::batches link::tests::what_is pool::tests::recovery region::memory

cargo build --example quickstart
quickstart=$target_dir/debug/examples/quickstart
timeout 60 "${memcheck[@]}" "$quickstart" </dev/null >"$report" 2>&1 || true
if grep -q 'unhandled .* syscall' "$report"; then
    echo "no process joins another here: $(valgrind --version) does not know their system calls"
else
    check "a host and its plugin" --trace-children=yes "$quickstart"
fi
