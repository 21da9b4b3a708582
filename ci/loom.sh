#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Unoptimised, the models take many times as long.
RUSTFLAGS="--cfg busway_loom" cargo test --release -p busway-loom-tests \
    --target-dir "$target_dir/loom" -- --nocapture
