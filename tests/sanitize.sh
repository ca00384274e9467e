#!/usr/bin/env bash
# The tests that reach C, on an extension built with the address and undefined-behaviour sanitizers, in a folder of its
# own. Further arguments go to pytest; without any, the quick files run. Python itself leaks by design: leaks are off.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$root/csrc" "$root/whisper_cy" "$work"
cd "$work"
find . -name '*.so' -delete
flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
WHISPER_CY_CFLAGS="$flags" WHISPER_CY_LDFLAGS="$flags" python setup.py -q build_ext --inplace
runtime() { "${CC:-cc}" -print-file-name="$1"; }
preload="$(runtime libasan.so) $(runtime libubsan.so)"
[ $# -gt 0 ] || set -- tests/test_kernels.py tests/test_model.py tests/test_audio.py
cd "$root" # `pytest`, not `python -m pytest`: that would put this folder, and its own extension, first
ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$preload" PYTHONPATH="$work" pytest -q -p no:cacheprovider "$@"
