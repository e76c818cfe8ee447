# Sourced by deploy/demo.sh and tests/run.sh, in the root of the checkout: a virtual environment with the node.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
stop() { say "$*"; exit 1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    stop "no Python 3.11 or later with venv found: install one (Debian: apt-get install python3-venv), or name it in PYTHON"
}

# install_environment FOLDER REQUIREMENT HOW_LONG
install_environment() {
    # An environment is good for the pyproject.toml it was made from, in the place where it was made.
    local folder=$1 requirement=$2 wanted clear=--clear python
    wanted="$(cksum <pyproject.toml) in $PWD"
    case "$(cat "$folder/installed" 2>/dev/null)" in
        "$wanted") return ;;
        *" in $PWD") clear= ;;      # whole, but for other requirements
    esac
    python=$(find_python)
    say "installing into $folder ($3)"
    "$python" -m venv $clear "$folder"
    # Editable, so that triton_repo/ beside node/ is the repository of models.
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore \
        --editable "$requirement" </dev/null ||
        stop "pip could not install the node; its message is above"
    echo "$wanted" >"$folder/installed"
}
