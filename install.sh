#!/usr/bin/env bash
# Installs the requirements into the folder env/ next to this file. Running it again verifies and repairs them.
#
#   ./install.sh                 the requirements of the program
#   ./install.sh --dev           also the requirements of the tests
#   ./install.sh --backend NAME  this build of PyTorch, e.g. cpu, cu126 or rocm7.2, instead of the one that fits the GPU
#   ./install.sh --cpu           continue even if PyTorch cannot use the GPU
#   ./install.sh --quick         do nothing if the requirements have not changed since the last installation (for start.sh)
set -euo pipefail
cd -P "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUTF8=1

files="requirements.txt" # names without spaces: word splitting is intended
options=""
backend="auto"
quick=no
while [ $# -gt 0 ]; do
  case "$1" in
    --dev) files="requirements.txt requirements-dev.txt" ;;
    --cpu) options="--cpu" ;;
    --quick) quick=yes ;;
    --backend)
      backend="${2:?--backend needs the name of a build, such as cpu or cu126}"
      shift
      ;;
    *)
      echo "install.sh: unknown option $1 (known: --dev --backend --cpu --quick)" >&2
      exit 2
      ;;
  esac
  shift
done

fail() {
  if [ -d env.previous ]; then
    rm -rf env
    mv env.previous env
    echo "The previous environment was restored." >&2
  fi
  printf '\nInstallation failed: %s\n' "$1" >&2
  exit 1
}

fits() { # a Python of a version that every package supports
  "$@" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
  local name
  for name in "${PYTHON:-python3.11}" python3.11 python3.12 python3.13 python3 python; do
    if fits "$name"; then
      echo "$name"
      return
    fi
  done
  fail "Python 3.11, 3.12 or 3.13 is required, found $(python3 --version 2>&1 || true).
Debian, Ubuntu: sudo apt install python3.11 python3.11-venv
macOS:          brew install python@3.11
Or install uv, which installs Python itself, and run ./install.sh again."
}

make_environment() {
  if [ -e env ] && ! [ -f env/pyvenv.cfg ]; then
    fail "env exists but is not a virtual environment. Move it away and run ./install.sh again."
  fi
  if [ "$(df -Pk . | awk 'NR == 2 { print $4 }')" -lt 8000000 ]; then
    fail "the packages need 8 GB, and less is free on this disk."
  fi
  rm -rf env
  echo "Creating the environment env/" >&2
  if command -v uv >/dev/null; then
    uv venv --quiet --python ">=3.11,<3.14" env || fail "uv could not create the environment (see above)."
  else
    local python
    python="$(find_python)"
    "$python" -m venv env || fail "$python -m venv failed. On Debian and Ubuntu: sudo apt install python3-venv"
  fi
}

select_build() { # sets build, tool and action; asks the user about a GPU of AMD or Intel
  local line
  # shellcheck disable=SC2086
  line="$(env/bin/python -m acestep.system.select_build --backend "$backend" $options)" || fail "see above; nothing was downloaded."
  read -r build tool action <<<"$line"
  if [ "$action" = replace ]; then # in a new environment: libraries of two builds would overwrite each other
    if [ -d env.previous ]; then rm -rf env; else mv env env.previous; fi
    make_environment
  fi
  if [ "$backend" = cpu ]; then options="--cpu"; fi
}

find_uv() { # sets uv; only uv knows where the builds of PyTorch are
  uv="$(command -v uv || true)"
  if [ -n "$uv" ] || [ "$tool" = any ]; then return; fi
  echo "Installing uv, which finds the builds of PyTorch" >&2
  if env/bin/python -m pip install --quiet uv; then
    uv=env/bin/uv
  elif [ "$build" = cpu ]; then
    echo "uv could not be installed. The default build of PyTorch is installed, which also computes on the CPU." >&2
  else
    fail "uv could not be installed (see above), and pip does not find the build $build of PyTorch."
  fi
}

install_packages() {
  local list=()
  for file in $files; do list+=(-r "$file"); done
  echo "Installing packages (several GB the first time)" >&2
  if [ -n "$uv" ]; then
    if [ "$tool" = uv ]; then list+=("--torch-backend=$build"); fi
    "$uv" pip install --python env/bin/python "${list[@]}" || fail "uv could not install a package (see above)."
  else
    env/bin/python -m pip install "${list[@]}" | awk '!/^Requirement already/ { print; fflush() }' ||
      fail "pip could not install a package (see above)."
  fi
}

if ! fits env/bin/python; then
  make_environment
else
  # shellcheck disable=SC2086
  if [ "$backend" = auto ] && env/bin/python -m acestep.system.installed same $files; then
    if [ "$quick" = yes ]; then exit 0; fi
    if env/bin/python -m acestep.system.installed verify $options $files; then
      echo "Everything is installed. Start with ./start.sh" >&2
      exit 0
    fi
    echo "Repairing the environment" >&2
  fi
fi
select_build
if ! command -v uv >/dev/null && ! env/bin/python -m pip --version >/dev/null 2>&1; then
  env/bin/python -m ensurepip --upgrade >/dev/null
fi
find_uv
install_packages
# shellcheck disable=SC2086
env/bin/python -m acestep.system.installed verify --full $options $files || fail "see the messages above."
rm -rf env.previous
echo "Installed. Start with ./start.sh" >&2
