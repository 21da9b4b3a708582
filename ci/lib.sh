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

# The way of a request to http://127.0.0.1:$port over bash's own sockets: a check has no need of curl. http TARGET [HEADER]
http() {
    local target=$1 header=${2:-x: y} answer
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf '%s HTTP/1.1\r\nhost: test\r\nconnection: close\r\n%s\r\n\r\n' "GET $target" "$header" >&3
    answer=$(timeout 30 tr -d '\r' <&3)
    exec 3<&- 3>&-
    printf '%s' "$answer"
}

# expect TEXT TARGET [HEADER]: the server, whose name is $serving, says TEXT.
expect() {
    local answer
    answer=$(http "${@:2}")
    [[ $answer == *"$1"* ]] || fail "$serving: ${*:2} has no '$1': $answer"
}
