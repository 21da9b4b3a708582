#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

have python3 || skip "python3 is not installed"

# A workspace of its own, which the checks of the root do not see.
manifest=(--manifest-path benches/peers/Cargo.toml)
export CARGO_TARGET_DIR=$target_dir/peers
# A smoke run needs no figures, and optimising is most of the build.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
cargo fmt "${manifest[@]}" --check
cargo clippy --release --locked "${manifest[@]}" -- -D warnings

report=$target_dir/peers.json
rm -f "$report"
cargo run --release --locked "${manifest[@]}" -- --quick --json "$report"
[[ -s $report ]] || fail "the benchmark wrote no $report"
cargo run --release --locked "${manifest[@]}" -- plot "$report" -o "$target_dir/peers.svg"

python3 - "$report" "$target_dir/peers.svg" <<'PYTHON'
import json
import sys
from xml.etree import ElementTree

WANTED = "floor busway busway-pool iceoryx2 ipc-channel uds pipe tokio-uds shmipc zeromq grpc".split()
# These cannot poll.
ASLEEP = "tokio-uds shmipc zeromq grpc".split()
CASES = {("hot", 1): 5, ("hot", 64): 3, ("parked-cross", 1): 5, ("parked-cross", 64): 3, ("parked-same", 1): 2}

with open(sys.argv[1]) as report:
    rows = json.load(report)
for (regime, inflight), sizes in CASES.items():
    for impl in WANTED:
        if impl in ASLEEP and regime == "hot" or impl == "floor" and inflight > 1:
            continue
        found = [r for r in rows if (r["impl"], r["regime"], r["inflight"]) == (impl, regime, inflight)]
        if len(found) != sizes:
            sys.exit(f"{impl} has {len(found)} rows of {regime} with {inflight} in flight, not {sizes}")
print(len(rows), "rows by", ", ".join(WANTED))
ElementTree.parse(sys.argv[2])
PYTHON
