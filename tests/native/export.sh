#!/usr/bin/env bash
# An exported network on a bare Cortex-M, under QEMU: its self-test, and what a prediction takes.
#
#     tests/native/export.sh FOLDER [m0plus|m3|m4|m7]
#
# Prints sizes of the objects of model and engine, what the self-test says, and bytes of stack and instructions of
# a prediction. QEMU has no board with an M0+ or M7, so for these it ends with the sizes. Exit status 77 if a tool is
# not there. OPTIMIZE is -Os unless it is said otherwise.

set -euo pipefail

folder=$(cd "$1" && pwd)
core=${2:-m4}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
board=$root/examples/cortex_m

for tool in arm-none-eabi-gcc qemu-system-arm make; do
    command -v "$tool" >/dev/null || {
        echo "tests/native/export.sh: $tool is not here: skipped" >&2
        exit 77
    }
done

machine=
case $core in
m0plus) cpu="-mcpu=cortex-m0plus -mthumb" ;;
m3) cpu="-mcpu=cortex-m3 -mthumb" machine=mps2-an385 ;;
m4) cpu="-mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard" machine=mps2-an386 ;;
m7) cpu="-mcpu=cortex-m7 -mthumb -mfpu=fpv5-sp-d16 -mfloat-abi=hard" ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
warnings="-Wall -Wextra -Wpedantic -Wconversion -Werror"
make --no-print-directory -s -C "$folder" all BUILD="$build" CROSS=arm-none-eabi- CPU="$cpu" \
    CFLAGS="${OPTIMIZE:--Os} $warnings"
arm-none-eabi-size -t "$build/libmodel.a"
[ -n "$machine" ] || exit 0

pixel=uint8_t
grep -q 'const float \*image' "$folder/model.h" && pixel=float
# shellcheck disable=SC2086  # $cpu holds options
arm-none-eabi-gcc $cpu -std=c11 -Os -Wall -Wextra -Werror -DMODEL_PRINT=print -DPIXEL=$pixel -I"$folder" \
    "$folder/main.c" "$board/startup.c" "$build/libmodel.a" -nostartfiles -T "$board/link.ld" \
    -Wl,--gc-sections,--wrap=model_predict -o "$build/selftest.elf"
# Of virtual time, an instruction takes a nanosecond, and SysTick counts 25 MHz.
timeout 300 qemu-system-arm -M "$machine" -nographic -monitor none -serial none -icount shift=0 \
    -semihosting-config enable=on,target=native -kernel "$build/selftest.elf" 2>&1 | tee "$build/said"
awk '/^ticks/ { print "instructions of a prediction: about", $5 * 40 }' "$build/said"
