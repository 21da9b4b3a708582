#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Members kill themselves before steps of the algorithms, which a signal from outside seldom hits.
RUSTFLAGS="--cfg busway_crash" cargo test --test pool_stress --test pool_history --target-dir "$target_dir/crash" -- --nocapture
