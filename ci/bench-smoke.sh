#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

have python3 || skip "python3 is not installed"

reports=()
for bench in rtt rings pool tasks; do
    report=$target_dir/$bench.json
    rm -f "$report"
    cargo bench --bench "$bench" -- --quick --json "$report"
    [[ -s $report ]] || fail "the benchmark wrote no $report"
    reports+=("$report")
done

python3 - "${reports[@]}" <<'PYTHON'
import json
import sys


def impls(node):
    if isinstance(node, dict):
        if "impl" in node:
            yield node["impl"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from impls(child)


for name in sys.argv[1:]:
    with open(name) as report:
        found = sorted(map(str, impls(json.load(report))))
    print(name, "rows:", ", ".join(found))
    missing = {"floor", "busway"} - set(found)
    if missing:
        sys.exit("no row for impl " + ", ".join(sorted(missing)))
PYTHON
