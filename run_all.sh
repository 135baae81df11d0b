#!/usr/bin/env bash
# ./run_all.sh [options]   runs the notebooks 01, 02, ... and prints Table 1 (--help: the options)
# ./run_all.sh lab         opens copies of the notebooks in JupyterLab (options: JupyterLab's)
# ./run_all.sh test        runs the demo and every test, the notebooks' included
# Where the packages are not importable, it first makes .venv from requirements.lock.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called with sh
set -euo pipefail
here="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
# What is set for other work: packages of another Python, where pip puts things.
unset PYTHONHOME PYTHONSTARTUP PYTHONOPTIMIZE PYTHONWARNINGS PIP_TARGET PIP_PREFIX
export PYTHONPATH="$here" PYTHONSAFEPATH=1 PIP_USER=0
venv="$here/.venv"

importable() { # every package that the project imports, and the project itself
  "$1" - 2>/dev/null <<'PY'
import sys
from importlib.util import find_spec
names = """genre_utils librosa soxr soundfile av numpy scipy keras tensorflow sklearn onnx pretty_midi
midirenderer pandas matplotlib seaborn PIL jupyterlab IPython ipykernel ipywidgets papermill nbval nbformat
yaml tqdm numba click platformdirs tabulate jinja2 joblib threadpoolctl pooch requests mutagen
pytest xdist h5py hypothesis distributed ruff""".split()
sys.exit(not all(find_spec(name) for name in names))
PY
}

suitable() { # Python 3.11-3.13 that can make environments
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

set_up() {
  local lock base=""
  lock="$(cksum < "$here/requirements.lock") $(cksum < "$here/pyproject.toml")"
  if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/lock-installed" 2>/dev/null)" = "$lock" ]; then
    return
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if suitable "$candidate"; then base="$candidate"; break; fi
  done
  if [ -z "$base" ]; then
    echo "run_all.sh: no Python 3.11-3.13 with venv and pip found; install one (Debian: python3-venv) and run again" >&2
    exit 1
  fi
  echo "installing the packages of requirements.lock into $venv (3 GB on disk, some minutes, once)" >&2
  "$base" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$here/requirements.lock"
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e "$here"
  echo "$lock" > "$venv/lock-installed"
}

lab() { # JupyterLab on copies of the notebooks; copies that were changed stay
  local folder="$here/runs/demo-demo/lab" new=() changed="" path copy original
  mkdir -p "$folder/.originals"
  for path in "$here"/notebooks/*.ipynb; do
    copy="$folder/${path##*/}" original="$folder/.originals/${path##*/}" # as it was copied
    if [ -e "$copy" ] && ! cmp -s "$copy" "$original"; then
      changed="$changed ${path##*/}"
    elif ! cmp -s "$path" "$copy"; then
      cp "$path" "$original"
      cp "$path" "$copy"
      new+=("$copy")
    fi
  done
  if [ -n "$changed" ]; then
    echo "kept as you changed them:$changed (delete one in $folder to have it anew)" >&2
  fi
  # As for the runs: no settings, start-up files and kernels of other work; this Python's kernel.
  local own="$folder/.jupyter"
  mkdir -p "$own"
  export IPYTHONDIR="$own" JUPYTER_CONFIG_DIR="$own" JUPYTER_CONFIG_PATH="$own"
  export JUPYTER_DATA_DIR="$own" JUPYTER_RUNTIME_DIR="$own" JUPYTER_PATH="$own/share/jupyter"
  export MATPLOTLIBRC=/dev/null
  unset MPLBACKEND JUPYTERLAB_SETTINGS_DIR JUPYTERLAB_WORKSPACES_DIR
  "$python" -m ipykernel install --prefix "$own" > /dev/null
  if [ "${#new[@]}" -gt 0 ]; then # their players are silent in a notebook that is not trusted
    "$python" -m jupyter trust --log-level=ERROR "${new[@]}" > /dev/null
  fi
  exec "$python" -m jupyterlab "--ServerApp.root_dir=$folder" "$@"
}

if [ -x "$venv/bin/python" ] || ! importable python3; then
  set_up
  python="$venv/bin/python"
else
  python=python3
fi

if [ "${1:-}" = lab ]; then
  lab "${@:2}"
fi
if [ "${1:-}" = test ]; then
  if [ $# -gt 1 ]; then
    echo "run_all.sh test: takes no options" >&2
    exit 2
  fi
  cd "$here"
  "$python" -m genre_utils run
  status=0
  "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests || status=$?
  "$python" -m pytest --nbval-lax notebooks || status=$?
  exit "$status"
fi
exec "$python" -m genre_utils run "$@"
