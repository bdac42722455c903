#!/usr/bin/env bash
# Run the tests of the compiled core under AddressSanitizer and UndefinedBehaviorSanitizer.
#
# The sanitized core is installed beside, in build/sanitize/site, and python -S leaves out the editable install.
# malloc under Python and numpy, so that a write beyond an array is seen; leaks are Python's own and not asked.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="$PWD/.venv/bin/python"
SITE="$PWD/build/sanitize/site"
PACKAGES=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
COMPILER="${CXX:-c++}"

rm -rf "$SITE"
"$PYTHON" -m pip --disable-pip-version-check -q install --no-build-isolation --no-deps --target "$SITE" \
  -C build-dir=build/sanitize/cmake -C cmake.define.PENJING_SANITIZE=ON .

# libstdc++ too: the sanitizer looks for __cxa_throw when it starts, before Python has loaded the core.
export LD_PRELOAD="$("$COMPILER" -print-file-name=libasan.so) $("$COMPILER" -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0
export UBSAN_OPTIONS=print_stacktrace=1
export PYTHONMALLOC=malloc
export PYTHONPATH="$SITE:$PACKAGES"
exec "$PYTHON" -S -m pytest -q -p no:cacheprovider tests/kernels tests/engine "$@"
