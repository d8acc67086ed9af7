#!/usr/bin/env bash
# Builds the compiled engine with the address and undefined-behaviour sanitizers, in a temporary folder, and fuzzes
# it through .bnn files (fuzz_bnn.py says how). Exit status 0: no findings.
#
#     tests/fuzz/run.sh [--seconds N] [--seed N] [--iterations N]
#     tests/fuzz/run.sh --file PATH      one file, such as a finding
#
# PYTHON chooses another interpreter than the project's .venv, CC and CXX other compilers; they must be GCC's or take
# its options. nanobind comes from that interpreter, or by pip into the temporary folder.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
cc=${CC:-gcc}
cxx=${CXX:-g++}

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

if ! nanobind=$("$python" -c 'import nanobind; print(nanobind.include_dir())' 2>/dev/null); then
    requirement=$("$python" -c 'import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))
print(*(r for r in project["build-system"]["requires"] if r.startswith("nanobind")))' "$root/pyproject.toml")
    "$python" -m pip install --quiet --disable-pip-version-check --target "$build/site" "$requirement" 2>"$build/pip" || {
        cat "$build/pip" >&2
        exit 1
    }
    nanobind=$build/site/nanobind/include
fi
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')

# No contraction, as in CMakeLists.txt.
flags=(-O1 -g -fPIC -fno-omit-frame-pointer -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover=all)
# Threads are worth waking for any work, so that small models run in parts as well.
cxxflags=(-std=c++17 -DBNN_CYCLES_WORTH_A_THREAD=1 -fvisibility=hidden -I"$root/native" -I"$nanobind" -I"$headers")
jobs=()
for source in "$root"/native/*.c; do
    # shellcheck disable=SC2086  # CC may hold options
    $cc -std=c11 "${flags[@]}" -c "$source" -o "$build/$(basename "$source").o" &
    jobs+=($!)
done
# shellcheck disable=SC2086
$cxx "${cxxflags[@]}" "${flags[@]}" -c "$root/native/bindings.cpp" -o "$build/bindings.o" &
jobs+=($!)
# shellcheck disable=SC2086
$cxx "${cxxflags[@]}" "${flags[@]}" -c "$root/native/threads.cpp" -o "$build/threads.o" &
jobs+=($!)
# nanobind itself is not what is tested.
# shellcheck disable=SC2086
$cxx "${cxxflags[@]}" -I"$nanobind/../ext/robin_map/include" -O1 -fPIC -c "$nanobind/../src/nb_combined.cpp" \
    -o "$build/nanobind.o" &
jobs+=($!)
for job in "${jobs[@]}"; do wait "$job"; done
# shellcheck disable=SC2086
$cxx -shared "${flags[@]}" "$build"/*.o -o "$build/_native.so" -lpthread

# Fresh memory is filled with ones: NaN, which shows where it gets into a result.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=64
ASAN_OPTIONS+=:malloc_fill_byte=255:max_malloc_fill_size=268435456:${FUZZ_ASAN_OPTIONS:-}
export UBSAN_OPTIONS=print_stacktrace=1
export PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
# libstdc++ as well, or the sanitizer would find no __cxa_throw when it starts.
LD_PRELOAD="$($cc -print-file-name=libasan.so) $($cxx -print-file-name=libstdc++.so.6)" \
    "$python" "$here/fuzz_bnn.py" --module "$build/_native.so" "$@"
