#!/usr/bin/env bash
# Installs missing requirements and starts the program.
#
#   ./start.sh [options]          the web pages; options of launch.py, e.g. --mode both
#   ./start.sh --demo [options]   the complete workflow on a tiny model; options of "python -m acestep demo"
set -euo pipefail
cd -P "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

./install.sh --quick >&2
if [ "${1:-}" = "--demo" ]; then
  shift
  exec env/bin/python -m acestep demo "$@"
fi
exec env/bin/python launch.py "$@"
