#!/usr/bin/env bash
# Builds native/*.c and each tests/native/test_*.c, in a temporary folder, and runs the tests.
#
#     tests/native/run.sh [plain|asan|aarch64] [argument for the tests, such as avx2]
#
# asan: with the address and undefined-behaviour sanitizers. aarch64: cross-compiled, under qemu; exit status 77 if
# the tools are not there. CC chooses another compiler.

set -euo pipefail

mode=${1:-plain}
shift || true
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
flags=(-std=c11 -O2 -ffp-contract=off -Wall -Wextra -Wpedantic -Wconversion -Werror)
link=(-lm)
runner=()

missing() {
    echo "tests/native/run.sh: $1 is not here: the tests for aarch64 are skipped" >&2
    exit 77
}

case $mode in
plain) compiler=${CC:-cc} ;;
asan)
    compiler=${CC:-cc}
    flags+=(-fsanitize=address,undefined -fno-sanitize-recover=all -g)
    ;;
aarch64)
    compiler=${CC:-aarch64-linux-gnu-gcc}
    command -v "${compiler%% *}" >/dev/null || missing "${compiler%% *}"
    emulator=$(command -v qemu-aarch64 || command -v qemu-aarch64-static) || missing "qemu-aarch64 (or qemu-aarch64-static)"
    runner=("$emulator")
    flags+=(-DSTATIC)
    link+=(-static)
    ;;
*)
    echo "usage: tests/native/run.sh [plain|asan|aarch64] [argument for the tests]" >&2
    exit 2
    ;;
esac

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

objects=()
for source in "$root"/native/*.c; do
    object=$build/$(basename "$source" .c).o
    # shellcheck disable=SC2086  # CC may hold options
    $compiler "${flags[@]}" -c "$source" -o "$object"
    objects+=("$object")
done

status=0
for source in "$root"/tests/native/test_*.c; do
    program=$build/$(basename "$source" .c)
    $compiler "${flags[@]}" "$source" "${objects[@]}" "${link[@]}" -o "$program"
    "${runner[@]}" "$program" "$@" || status=1
done
exit "$status"
