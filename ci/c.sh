#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

have gcc && have g++ && have pkg-config || skip "no gcc, g++ or pkg-config"
have cargo-cbuild || skip "no cargo-c: cargo install --locked cargo-c@0.10.24+cargo-0.98.0"

dir=$(mktemp -d)
chmod 755 "$dir" # a plugin is confined to another user
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
prefix=$dir/prefix
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig

cargo test -p busway-ffi
cargo cinstall --profile capi -p busway-ffi --prefix "$prefix" --libdir "$prefix/lib"
cargo build --release --examples
cargo build --release -p http_filter -p worker_pool
library=$prefix/lib/libbusway.so

foreign=$(nm -D --defined-only "$library" | awk '{ print $3 }' | grep -v '^busway_' || true)
[[ -z $foreign ]] || fail "symbols without our prefix: $foreign"
declared=$(grep -o '\bbusway_[a-z_]*(' "$prefix/include/busway.h" | tr -d '(' | sort -u | grep -v '_init$')
exported=$(nm -D --defined-only "$library" | awk '{ print $3 }' | sort -u)
[[ -z $(comm -13 <(echo "$declared") <(echo "$exported")) ]] || fail "exported and not declared: $(comm -13 <(echo "$declared") <(echo "$exported"))"
untested=$(while read -r f; do grep -rqw "$f" ffi/tests ffi/examples || echo "$f"; done <<<"$exported")
[[ -z $untested ]] || fail "functions that no test calls: $untested"
strip -o "$dir/stripped" "$library"
size=$(stat -c %s "$dir/stripped")
# 170 kB of it are what std brings to print backtraces.
((size < 1 << 20)) || fail "libbusway.so has $size bytes"
soname=$(objdump -p "$library" | awk '/SONAME/ { print $2 }')
[[ $soname == libbusway.so.* ]] || fail "soname '$soname'"
echo "libbusway.so: $(wc -l <<<"$exported") functions, $size bytes stripped, $soname"

statuses=$(sed -n '/define BUSWAY_OK 0$/,/define BUSWAY_PANIC /s/^#define \(BUSWAY_[A-Z_]*\).*/\1/p' "$prefix/include/busway.h")
(($(wc -l <<<"$statuses") > 20)) || fail "the statuses of busway.h are not found"
unforced=$(for status in $statuses; do
    grep -rqE "(GIVES\(|assert_eq!\(.*|, )$status\b" ffi/tests ffi/src/lib.rs || echo "$status"
done)
[[ -z $unforced ]] || fail "statuses that no test forces: $unforced"

pages=$(cd "$prefix/share/man/man3" && printf '%s\n' *.3 | sed 's/\.3$//')
[[ $pages == "$exported" ]] || fail "functions and manual pages differ: $(diff <(echo "$exported") <(echo "$pages"))"
[[ -s $prefix/share/doc/busway/reference.md ]] || fail "no reference.md"
if have groff; then
    warnings=$(groff -man -ww -z -Tutf8 "$prefix"/share/man/man?/busway* 2>&1)
    [[ -z $warnings ]] || fail "manual pages: $warnings"
fi
# Pages that the overview names are there.
while read -r page; do
    [[ -e $prefix/share/man/man3/$page.3 ]] || fail "busway(7) names $page(3), which is not there"
done < <(grep -o 'busway_[a-z_]* (3)' "$prefix/share/man/man7/busway.7" | cut -d' ' -f1)

# What the README says, word for word.
mkdir "$dir/readme"
sed -n '/^## From C$/,/^## /p' README.md | awk -v dir="$dir/readme" '
    /^```$/ { file = "" }
    file { print > file }
    /^```c$/ { file = dir "/hello.c" }
    /^```sh$/ { file = dir "/sh" (++n) }'
(cd "$dir/readme" && LD_LIBRARY_PATH=$prefix/lib bash -eux sh2) >"$dir/got" || fail "the program in the README"
[[ $(<"$dir/got") == hello ]] || fail "the program in the README says '$(<"$dir/got")'"

# build COMPILER OUTPUT SOURCE [FLAGS...]
build() {
    local compiler=$1 output=$2 source=$3
    shift 3
    # shellcheck disable=SC2046 # flags are words
    "$compiler" -std=c11 -O1 -g -Wall -Wextra -Wconversion -Werror -pthread "$@" \
        "$source" -o "$output" $(pkg-config --cflags --libs busway) -Wl,-rpath,"$prefix/lib"
}

# build_cc COMPILER OUTPUT SOURCE [FLAGS...]
build_cc() {
    local compiler=$1 output=$2 source=$3
    shift 3
    # shellcheck disable=SC2046 # flags are words
    "$compiler" -std=c++17 -O1 -g -Wall -Wextra -Wconversion -Wpedantic -Werror -pthread "$@" \
        "$source" -o "$output" $(pkg-config --cflags --libs busway) -Wl,-rpath,"$prefix/lib"
}

compilers=("gcc g++")
tests=(handles pairs processes pools rings)
! have clang || compilers+=("clang clang++")
for pair in "${compilers[@]}"; do
    read -r compiler compiler_cc <<<"$pair"
    echo '#include <busway.h>' >"$dir/alone.c"
    cp "$dir/alone.c" "$dir/alone.cc"
    echo '#include <busway.hpp>' >"$dir/layer.cc"
    "$compiler" -std=c11 -Wall -Wextra -Wconversion -Wpedantic -Werror -fsyntax-only -I"$prefix/include" "$dir/alone.c"
    "$compiler_cc" -std=c++17 -Wall -Wextra -Wconversion -Wpedantic -Werror -fsyntax-only -I"$prefix/include" "$dir/alone.cc"
    "$compiler_cc" -std=c++17 -Wall -Wextra -Wconversion -Wpedantic -Werror -fsyntax-only -I"$prefix/include" "$dir/layer.cc"
    # Sanitizers, which need more than a confined plugin may have, leave that one out.
    for test in "${tests[@]}" confined liars; do
        build "$compiler" "$dir/$test" "ffi/tests/c/$test.c"
        timeout 120 "$dir/$test" || fail "$test, $compiler"
    done
    build "$compiler" "$dir/host" ffi/examples/host.c
    build "$compiler" "$dir/plugin" ffi/examples/plugin.c
    build "$compiler" "$dir/worker" ffi/examples/worker.c
    build "$compiler" "$dir/ring" ffi/examples/ring.c
    timeout 120 "$dir/ring" >"$dir/got" || fail "ring.c, $compiler"
    grep -q '10000000 samples, sum 5000000.0' "$dir/got" || { cat "$dir/got"; fail "ring.c, $compiler"; }
    build "$compiler" "$dir/rtt" ffi/benches/rtt.c -O2
    for test in layer parts; do
        build_cc "$compiler_cc" "$dir/$test" "ffi/tests/c/$test.cc"
        timeout 120 "$dir/$test" || fail "$test, $compiler_cc"
    done
    build_cc "$compiler_cc" "$dir/quickstart" ffi/examples/quickstart.cc
    timeout 120 "$dir/quickstart" >"$dir/got" || fail "quickstart.cc, $compiler_cc"
    grep -q '40 + 2 = 42' "$dir/got" || { cat "$dir/got"; fail "quickstart.cc, $compiler_cc"; }
    echo "$compiler: as it should be"
done

# Structs that end one field earlier, and one later, than the library's.
mkdir "$dir/old" "$dir/new"
awk '/^typedef struct busway_(config|error|stats|command) / { inside = 1 }
     inside && /^}/ { inside = 0; held = "" }
     held != "" { print held; held = "" }
     inside { held = $0; next }
     { print }' "$prefix/include/busway.h" >"$dir/old/busway.h"
awk '/^typedef struct busway_(config|error|stats|command) / { inside = 1 }
     inside && /^}/ { print "    uint64_t later;"; inside = 0 }
     { print }' "$prefix/include/busway.h" >"$dir/new/busway.h"
build gcc "$dir/old/sizes" ffi/tests/c/sizes.c -DOLD -I"$dir/old"
build gcc "$dir/new/sizes" ffi/tests/c/sizes.c -DNEW -I"$dir/new"
"$dir/old/sizes" || fail "a program with an older header"
"$dir/new/sizes" || fail "a program with a newer header"
build gcc "$dir/first" ffi/tests/c/first/program.c
"$dir/first" || fail "a program of the first version"
echo "older, newer and the first header: as it should be"

# shellcheck disable=SC2046
gcc -std=c11 -Wall -Werror -pthread ffi/tests/c/pairs.c -o "$dir/static" -I"$prefix/include" "$prefix/lib/libbusway.a" \
    $(pkg-config --static --libs-only-l busway | sed 's/-lbusway\b//') || fail "cannot be linked statically"
"$dir/static" || fail "linked statically"

for test in "${tests[@]}"; do
    build gcc "$dir/$test-asan" "ffi/tests/c/$test.c" -fsanitize=address,undefined -fno-sanitize-recover
    timeout 120 "$dir/$test-asan" || fail "$test under AddressSanitizer"
done
for test in layer parts; do
    build_cc g++ "$dir/$test-asan" "ffi/tests/c/$test.cc" -fsanitize=address,undefined -fno-sanitize-recover
    timeout 120 "$dir/$test-asan" || fail "$test under AddressSanitizer"
done
echo "AddressSanitizer: as it should be"

if have valgrind; then
    tests=("handles alone" pairs rings "pools group")
    # Older ones know nothing of pidfd_open, without which nobody knows when a plugin dies.
    if valgrind -q "$dir/processes" >/dev/null 2>&1; then
        tests+=(processes pools)
    else
        echo "valgrind: $(valgrind --version) cannot run two processes"
    fi
    for test in "${tests[@]}"; do
        # shellcheck disable=SC2086 # a test and its argument
        timeout 280 valgrind -q --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite,indirect \
            --suppressions=ffi/tests/c/valgrind.supp --show-leak-kinds=definite,indirect "$dir"/$test || fail "$test under valgrind"
    done
    echo "valgrind: ${tests[*]}: as it should be"
fi

# A host in C with a plugin in Rust.
for input in src/link/sending.rs Cargo.lock /dev/null; do
    timeout 60 "$dir/host" "$target_dir/release/examples/line_filter" <"$input" >"$dir/got" || fail "host.c: exit code $?"
    tr a-z A-Z <"$input" | cmp - "$dir/got" || fail "host.c $input differs from tr"
done
echo "host.c = tr"

# Workers in C with a host in Rust.
find src -type f -print0 | sort -z | xargs -0r sha256sum >"$dir/want"
setsid --wait timeout 120 "$target_dir/release/worker_pool" --worker "$dir/worker" --list src </dev/null >"$dir/got" 2>"$dir/report" ||
    { cat "$dir/report"; fail "worker_pool with worker.c: exit code $?"; }
cmp "$dir/want" "$dir/got" || fail "worker.c differs from sha256sum"
echo "worker.c = sha256sum"

# A plugin in C with a host in Rust.
serving=plugin.c
setsid "$target_dir/release/http_filter" --plugin "$dir/plugin" --listen 127.0.0.1:0 </dev/null >"$dir/server" 2>"$dir/errors" &
server=$!
port=
for _ in {1..300}; do
    port=$(sed -n 's|^listening on http://127.0.0.1:||p' "$dir/server")
    [[ -z $port ]] || break
    sleep 0.1
done
[[ -n $port ]] || { cat "$dir/errors"; fail "http_filter with plugin.c does not begin"; }
expect "GET /a, 0 bytes of body" "/a?b"
expect "403 Forbidden" /admin
expect "200 OK" /admin "authorization: Bearer open-sesame"
expect "hello, somebody" /hello "user-agent: somebody"
expect "x-filtered-by: example" /headers
[[ $(http /headers "x-internal-a: b") != *x-internal* ]] || fail "plugin.c lets x-internal-a pass"
kill -KILL "$(cat /proc/"$server"/task/*/children)"
for _ in {1..20}; do
    expect "x-filtered-by: example" /
done
kill "$server"
wait "$server" || fail "http_filter with plugin.c ends with $?"
server=
echo "plugin.c: as it should be"
