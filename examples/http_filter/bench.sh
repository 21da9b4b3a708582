#!/usr/bin/env bash
# Measures http_filter with wrk: no filter, the filter in process, over Busway, over a Unix socket, taking turns, with
# 1, 64 and 1,000 connections. Prints medians as a table.
#
# ROUNDS (5) and SECONDS_EACH (3) set how long that takes; CONNECTIONS and MODES what is measured.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export LC_ALL=C

rounds=${ROUNDS:-5}
seconds=${SECONDS_EACH:-3}
read -ra connections <<<"${CONNECTIONS:-1 64 1000}"
read -ra modes <<<"${MODES:-none inline busway uds}"
bin=${CARGO_TARGET_DIR:-target}/release/http_filter

if ! command -v wrk >/dev/null; then
    echo "SKIPPED: http_filter/bench.sh: wrk is not installed (apt-get install wrk)"
    exit 77
fi
# wrk and the servers need a descriptor for each connection.
if ! ulimit -n 8192; then
    echo "SKIPPED: http_filter/bench.sh: no more than $(ulimit -n) descriptors are allowed (ulimit -n)"
    exit 77
fi
cargo build --release -p http_filter

dir=$(mktemp -d)
declare -A server url
stop() {
    for mode in "${!server[@]}"; do
        kill "${server[$mode]}" 2>/dev/null || true
    done
    wait
    rm -rf "$dir"
}
trap stop EXIT

for mode in "${modes[@]}"; do
    "$bin" --filter "$mode" --listen 127.0.0.1:0 </dev/null >"$dir/$mode.out" 2>"$dir/$mode.err" &
    server[$mode]=$!
done
for mode in "${modes[@]}"; do
    for _ in {1..100}; do
        url[$mode]=$(sed -n 's/^listening on //p' "$dir/$mode.out")
        [[ -z ${url[$mode]} ]] || break
        sleep 0.1
    done
    if [[ -z ${url[$mode]} ]]; then
        cat "$dir/$mode.err" >&2
        exit 1
    fi
done

# CPU time that a server and its filter have used, in clock ticks.
ticks() {
    local pid sum=0 stat
    for pid in "$1" $(cat /proc/"$1"/task/*/children); do
        read -r stat <"/proc/$pid/stat"
        read -ra stat <<<"${stat##*) }"
        sum=$((sum + stat[11] + stat[12]))
    done
    echo "$sum"
}

# Requests a second, p50 and p99 in microseconds, requests that failed.
digest() {
    awk 'function us(t) { return t ~ /us$/ ? t + 0 : t ~ /ms$/ ? t * 1e3 : t * 1e6 }
        $1 == "50%" { p50 = us($2) }
        $1 == "99%" { p99 = us($2) }
        /requests in/ { requests = $1 }
        /Requests\/sec/ { rate = $2 }
        /Non-2xx/ { bad += $NF }
        /Socket errors/ { gsub(",", ""); bad += $4 + $6 + $8 + $10 }
        END { print rate, p50, p99, requests, bad + 0 }'
}

for ((round = 0; round < rounds; round++)); do
    for count in "${connections[@]}"; do
        # Who follows whom changes from round to round.
        for ((turn = 0; turn < ${#modes[@]}; turn++)); do
            mode=${modes[(round + turn) % ${#modes[@]}]}
            before=$(ticks "${server[$mode]}")
            wrk -t1 -c"$count" -d"${seconds}s" --latency "${url[$mode]}/" >"$dir/wrk"
            after=$(ticks "${server[$mode]}")
            read -r rate p50 p99 requests bad < <(digest <"$dir/wrk")
            cpu=$(awk -v t=$((after - before)) -v n="$requests" -v hz="$(getconf CLK_TCK)" \
                'BEGIN { print t / hz / n * 1e6 }')
            echo "$rate $p50 $p99 $cpu $bad" >>"$dir/$mode.$count"
            [[ -z ${VERBOSE:-} ]] || echo "$count $mode: $rate $p50 $p99 $cpu $bad" >&2
        done
    done
done

# Median of a column.
median() {
    cut -d' ' -f"$2" "$1" | sort -g | awk '{ a[NR] = $1 } END { print (a[int((NR + 1) / 2)] + a[int(NR / 2) + 1]) / 2 }'
}
# Median of the ratio of a column to another mode's, taken in each round.
ratio() {
    if [[ -e $2 ]]; then
        paste -d' ' "$1" "$2" | awk -v c="$3" '{ print $c / $(c + 5) }' >"$dir/ratios"
        printf '%.2f' "$(median "$dir/ratios" 1)"
    else
        printf -- '-'
    fi
}

echo "$(nproc) CPUs ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)), Linux $(uname -r), wrk with one thread," \
    "$rounds rounds of $seconds s, medians"
echo
echo "| connections | filter | requests/s | p50 | p99 | CPU a request | requests/s: to none | to uds |"
echo "|---|---|---|---|---|---|---|---|"
for count in "${connections[@]}"; do
    for mode in "${modes[@]}"; do
        file=$dir/$mode.$count
        printf '| %s | %s | %.0f | %.0f us | %.0f us | %.1f us | %s | %s |\n' "$count" "$mode" \
            "$(median "$file" 1)" "$(median "$file" 2)" "$(median "$file" 3)" "$(median "$file" 4)" \
            "$(ratio "$file" "$dir/none.$count" 1)" "$(ratio "$file" "$dir/uds.$count" 1)"
    done
done
failed=$(cat "$dir"/*.[0-9]* | awk '{ bad += $5 } END { print bad }')
if ((failed)); then
    echo "$failed requests failed" >&2
    exit 1
fi
