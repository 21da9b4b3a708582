# Sourced by every script here: go to the repository root, so each works from any directory.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=$(basename "$0" .sh)
export target_dir=${CARGO_TARGET_DIR:-$PWD/target}
# Scratch files and the JSON report may come before the first build.
mkdir -p "$target_dir"

# 77 is the exit code by which .ci/run tells "could not run" from "failed".
skip() {
    echo "SKIPPED: $name: $*"
    exit 77
}

fail() {
    echo "FAILED: $name: $*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}
