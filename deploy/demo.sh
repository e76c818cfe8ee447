#!/usr/bin/env bash
# From a clean clone to a first result: a virtual environment, the node, `sightline demo`.
# Arguments go to the demo: `bash deploy/demo.sh --keep`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

environment=.venv-demo
stop() { printf 'demo.sh: %s\n' "$*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    stop "no Python 3.11 or later with venv found: install one (Debian: apt-get install python3-venv), or name it in PYTHON"
}

# An environment is good for the pyproject.toml it was made from, in the place where it was made.
wanted=$(cat pyproject.toml - <<<"$PWD" | cksum)
if [ "$(cat $environment/installed 2>/dev/null)" != "$wanted" ]; then
    python=$(find_python)
    echo "demo.sh: installing into $environment (once, one to two minutes)" >&2
    "$python" -m venv --clear $environment
    # Editable, so that triton_repo/ beside node/ is the repository of models.
    $environment/bin/python -m pip install -qq --disable-pip-version-check --no-input --editable . </dev/null ||
        stop "pip could not install the node; its message is above"
    echo "$wanted" >$environment/installed
fi

exec $environment/bin/sightline demo "$@"
