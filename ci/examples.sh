#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export LC_ALL=C
mib=1048576
bin=$target_dir/release/examples
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

cargo build --release --examples
cargo build --release -p worker_pool -p http_filter
cargo test --release -p http_filter

# setsid: without it the program could still reach the terminal of whoever runs this by hand.
for example in quickstart ring_spsc ring_mpmc; do
    setsid --wait timeout 60 "$bin/$example" </dev/null >"$dir/$example" 2>&1 ||
        { cat "$dir/$example"; fail "$example exits with an error"; }
    cat "$dir/$example"
done

line_of() {
    head -c "$1" /dev/zero | tr '\0' q
}

# Compares line_filter with tr, byte for byte, from a file and from standard input.
same_as_tr() {
    local input=$1 start=$SECONDS
    # shellcheck disable=SC2018,SC2019 # ASCII letters are all that line_filter changes
    tr a-z A-Z <"$input" >"$dir/want"
    timeout 120 "$bin/line_filter" "$input" </dev/null >"$dir/got" || fail "line_filter $input: exit code $?"
    cmp "$dir/want" "$dir/got" || fail "line_filter $input differs from tr"
    timeout 120 "$bin/line_filter" <"$input" >"$dir/got" || fail "line_filter < $input: exit code $?"
    cmp "$dir/want" "$dir/got" || fail "line_filter < $input differs from tr"
    echo "line_filter = tr: $(basename "$input"), $(stat -c %s "$input") bytes, $((SECONDS - start)) s"
}

git grep -zIl -e '' | xargs -0r cat >"$dir/tracked-text"
[[ -s $dir/tracked-text ]] || fail "no tracked text files"

: >"$dir/empty"
printf '\n' >"$dir/one-empty-line"
printf 'no newline at the end' >"$dir/no-newline"
{
    printf '\n\n\nabc\n\n \n\t\ncr lf\r\n\r\nnul \0 byte\nnot utf-8 \377\376 z\n\303\244 \303\237 \357\254\201\n'
    for length in 1 63 64 65 4095 4096 4097 65535 65536 65537 $((mib - 1)) $mib; do
        line_of "$length"
        printf '\n\n'
    done
    printf 'last'
} >"$dir/edge-cases"
line_of $mib >"$dir/longest-line-no-newline"

# Lines of 0 to 199 bytes; a fixed seed, so that a failure can be repeated.
awk -v size=$((64 * mib)) 'BEGIN {
    srand(1)
    while (length(text) < 400) text = text sprintf("%c", 32 + int(rand() * 95))
    while (done < size) {
        line = substr(text, 1 + int(rand() * 200), int(rand() * 200))
        print line
        done += length(line) + 1
    }
}' >"$dir/generated"

for input in tracked-text empty one-empty-line no-newline edge-cases longest-line-no-newline generated; do
    same_as_tr "$dir/$input"
done

# One byte too long: an error that says so, not a panic, a signal or a hang.
too_long() {
    local code=0
    timeout 60 "$bin/line_filter" "$@" >/dev/null 2>"$dir/error" || code=$?
    cat "$dir/error"
    ((code > 0 && code < 101)) || fail "line over 1 MiB: exit code $code"
    grep -Eq "$mib|$((mib + 1))|1 MiB" "$dir/error" || fail "line over 1 MiB: the error does not mention the length"
}
{ echo first; line_of $((mib + 1)); echo; echo last; } >"$dir/too-long"
too_long "$dir/too-long" </dev/null
too_long <"$dir/too-long"

# Compares worker_pool --list with sha256sum, which escapes names in the same way.
same_as_sha256sum() {
    local want=$2 code=0
    find "$1" -type f -print0 | sort -z | xargs -0r sha256sum >"$dir/want"
    setsid --wait timeout 120 "$bin/../worker_pool" --list "$1" </dev/null >"$dir/got" 2>"$dir/report" || code=$?
    cat "$dir/report"
    ((code == 0)) || fail "worker_pool $1: exit code $code"
    cmp "$dir/want" "$dir/got" || fail "worker_pool $1 differs from sha256sum"
    grep -q "$want" "$dir/report" || fail "worker_pool $1: its report says nothing of '$want'"
}

tree=$dir/tree
mkdir -p "$tree/a/b" "$dir/no-files"
(cd "$tree/a/b" && split -a 3 -b 150000 "$dir/generated")
for size in 0 1 55 56 63 64 65; do
    line_of "$size" >"$tree/a/$size"
done
for name in 'with space' 'back\slash' $'new\nline' $'carriage\rreturn' $'not utf-8 \377'; do
    echo "$name" >"$tree/$name"
done
ln -s a/1 "$tree/link"
ln -s .. "$tree/a/up"
same_as_sha256sum "$tree" "then killed"
same_as_sha256sum "$tree/a/1" "^1 files, 1 bytes"
same_as_sha256sum "$dir/no-files" "^0 files"

server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
for mode in none inline busway uds; do
    serving="http_filter $mode"
    : >"$dir/server"
    setsid "$bin/../http_filter" --filter "$mode" --listen 127.0.0.1:0 </dev/null >"$dir/server" 2>"$dir/server-errors" &
    server=$!
    port=
    for _ in {1..300}; do
        port=$(sed -n 's|^listening on http://127.0.0.1:||p' "$dir/server")
        [[ -z $port ]] || break
        sleep 0.1
    done
    [[ -n $port ]] || { cat "$dir/server-errors"; fail "http_filter $mode does not begin"; }

    expect "GET /a, 0 bytes of body" /a
    if [[ $mode != none ]]; then
        expect "403 Forbidden" /admin
        expect "200 OK" /admin "authorization: Bearer open-sesame"
        expect "hello, somebody" /hello "user-agent: somebody"
        expect "x-filtered-by: example" /headers
        [[ $(http /headers "x-internal-a: b") != *x-internal* ]] || fail "http_filter $mode: x-internal-a passes"
    fi
    if [[ $mode == busway || $mode == uds ]]; then
        kill -KILL "$(cat /proc/"$server"/task/*/children)"
        # Not one request fails or passes by while the filter is replaced.
        for _ in {1..20}; do
            expect "x-filtered-by: example" /
        done
    fi
    kill "$server"
    wait "$server" || fail "http_filter $mode ends with $?"
    server=
    cat "$dir/server-errors"
    echo "http_filter --filter $mode: as it should be"
done
