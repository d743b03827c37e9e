#!/usr/bin/env bash
# The test command: style, types, tests. Arguments go to pytest, e.g. tests/run.sh tests/core -k atomic
set -euo pipefail
cd -P "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

./install.sh --dev --quick
if ! command -v chromium >/dev/null; then # for the browser tests: Debian's, otherwise Playwright's own
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
  else
    env/bin/python -m playwright install chromium
  fi
fi
if [ "$(id -u)" != 0 ]; then set -- -m "not root" "$@"; fi # those tests become another user

env/bin/ruff check .
env/bin/ruff format --check .
env/bin/mypy & # beside the tests, which leave a quarter of the processors' time unused
types=$!
# Two processes, each with one thread for the arithmetic; a file stays in one process and shares what it prepares.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
result=0
env/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@" || result=$?
wait "$types" || result=$?
exit "$result"
