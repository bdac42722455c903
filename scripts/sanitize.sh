#!/usr/bin/env bash
# Run the tests of the compiled core under AddressSanitizer and UndefinedBehaviorSanitizer.
#
# The sanitized core is installed beside, in build/sanitize/site, and python -S leaves out the editable install.
# Python's objects come from malloc, so that a write beyond an array is seen; leaks are Python's own, and not
# asked for. Reports go to the terminal, past pytest (--capture=sys).
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
# A test asks for more memory than there is, and for an exception.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
export PYTHONMALLOC=malloc
export PYTHONPATH="$SITE:$PACKAGES"
exec "$PYTHON" -S -m pytest -q -p no:cacheprovider --capture=sys tests/kernels tests/engine "$@"
