#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

target=aarch64-unknown-linux-gnu
[[ $(uname -m) != aarch64 ]] || skip "this machine is aarch64: cargo test covers it"
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    have "$tool" || skip "$tool is not installed"
done
[[ -d $(rustc --print target-libdir --target "$target") ]] || skip "no Rust target $target"

runner="qemu-aarch64 -L /usr/aarch64-linux-gnu"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$runner
# The tests put this before every child they spawn: the kernel cannot start aarch64 programs itself.
export BUSWAY_TEST_RUNNER=$runner
# Emulation is slow.
export PROPTEST_CASES=${PROPTEST_CASES:-16}
cargo test --target "$target" --tests
