#!/usr/bin/env bash
# soak.sh MINUTES: the long run behind docs/guarantees.md. Prints the table of its figures, and fails if anything did.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || fail "how many minutes?"
exec bash ci/guarantees.sh "$1"
