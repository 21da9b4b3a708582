#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Algorithms take their atomics from `sync`, so that loom sees them; clippy cannot tell a re-export from the original.
named=$(grep -rnE '(core|std)::sync::atomic' src --include='*.rs' | grep -vE '^src/sync/' || true)
[[ -z $named ]] || fail "core atomics named outside sync:
$named"

cargo clippy --workspace --all-targets -- -D warnings

# The loom build swaps the atomics out, so its code is not seen by the run above.
RUSTFLAGS="--cfg busway_loom" cargo clippy --target-dir "$target_dir/loom" \
    -p busway -p busway-loom-tests --lib --tests -- -D warnings
