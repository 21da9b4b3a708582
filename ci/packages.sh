#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Nothing here is fatal: the check that misses its tool reports SKIPPED.
missing() {
    echo "not installed: $*"
}

has_package() {
    [[ $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) == "install ok installed" ]]
}

apt() {
    DEBIAN_FRONTEND=noninteractive timeout 240 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=30 "$@"
}

wanted=()
for package in gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user valgrind \
    g++ clang pkg-config groff-base libssl-dev; do
    has_package "$package" || wanted+=("$package")
done
if ((${#wanted[@]})); then
    if ((EUID == 0)) && have apt-get; then
        apt update || echo "apt-get update failed; going on with the lists at hand"
        for package in "${wanted[@]}"; do
            apt install -y --no-install-recommends "$package" >/dev/null || missing "$package"
        done
    else
        missing "${wanted[*]} (needs root and apt-get)"
    fi
fi

if have rustup; then
    components=$(rustup component list --toolchain nightly --installed 2>/dev/null || true)
    for component in miri rust-src; do
        grep -q "^$component" <<<"$components" ||
            timeout 180 rustup component add --toolchain nightly "$component" || missing "nightly $component"
    done
    grep -qx aarch64-unknown-linux-gnu <<<"$(rustup target list --installed 2>/dev/null || true)" ||
        timeout 180 rustup target add aarch64-unknown-linux-gnu || missing "target aarch64-unknown-linux-gnu"
else
    missing "miri, target aarch64-unknown-linux-gnu (needs rustup)"
fi

# --debug halves the build time, and none of them has much to do itself.
have cargo-machete || timeout 300 cargo install cargo-machete --locked --debug || missing cargo-machete
# The newest one that this rustc builds.
have cargo-cbuild || timeout 700 cargo install cargo-c@0.10.24+cargo-0.98.0 --locked --debug || missing cargo-c
have cargo-fuzz || timeout 300 cargo install cargo-fuzz --locked --debug || missing cargo-fuzz
