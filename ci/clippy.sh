#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cargo clippy --workspace --all-targets -- -D warnings

# The loom build swaps the atomics out, so its code is not seen by the run above.
RUSTFLAGS="--cfg busway_loom" cargo clippy --target-dir "$target_dir/loom" \
    -p busway -p busway-loom-tests --all-targets -- -D warnings
