#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Other checks and users build without the feature.
cargo clippy --all-targets --features shm-name -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --features shm-name
cargo test --features shm-name --lib --test pool_named --test identity
cargo test --features shm-name --doc pool::
