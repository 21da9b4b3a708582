#!/usr/bin/env bash
# What docs/guarantees.md rests on, and the table of its figures. Short without an argument; with one as long as it says:
# see ci/soak.sh. What sanitizers, loom and Miri show is in scripts of their own.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

minutes=${1:-}
export BUSWAY_FIGURES=$target_dir/figures.tsv
rm -f "$BUSWAY_FIGURES"

failed=()
# step NAME COMMAND...
step() {
    local code=0
    echo "--- $1"
    "${@:2}" || code=$?
    ((code == 0 || code == 77)) || failed+=("$1")
}

# What is drawn by chance goes on for so long in a long run; the rest takes what it takes.
bench=(--quick)
if [[ -n $minutes ]]; then
    export BUSWAY_SECONDS=$((minutes * 60 / 8))
    bench=()
fi

tests=(crash_points pool_stress link_stress pool_history hostile stalls violations handshake confined seals identity death fork
    leaks faults quiet many)
step tests cargo test --release --no-fail-fast --features shm-name "${tests[@]/#/--test=}" -- --test-threads=1
step death cargo bench --bench death -- "${bench[@]}"
step fuzz bash ci/fuzz.sh "${BUSWAY_SECONDS:-5}"
step mutants bash ci/mutants.sh

echo
echo "guarantee  figure"
sort -s -k1,1 "$BUSWAY_FIGURES" | awk -F '\t' '{ printf "%-9s  %s: %s\n", $1, $2, $3 }'
((${#failed[@]} == 0)) || fail "${failed[*]}"
