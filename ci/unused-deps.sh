#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

have cargo-machete || skip "cargo-machete is not installed"
cargo machete
