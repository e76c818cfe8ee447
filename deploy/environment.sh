# Sourced by deploy/demo.sh, deploy/triton.sh and tests/run.sh in the root of the checkout: their environments.

triton_folder=.venv-triton

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
stop() { say "$*"; exit 1; }

# find_python [BELOW]: the command of a Python from 3.11 on, and older than BELOW, as in "3, 13".
find_python() {
    local candidate below=${1:-4, 0} check
    check="import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < ($below))"
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c "$check" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    stop "no Python from 3.11 to below ${below/, /.} with venv found: install one (Debian: python3-venv), or name it in PYTHON"
}

# make_environment PYTHON FOLDER [option of venv ...]
make_environment() {
    # A link leads to the environment of another checkout, which is not ours to clear.
    [ ! -L "$2" ] || rm "$2"
    "$1" -m venv "${@:3}" "$2"
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
    # shellcheck disable=SC2086
    make_environment "$python" "$folder" $clear
    # Editable, so that triton_repo/ beside node/ is the repository of models.
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore \
        --editable "$requirement" </dev/null ||
        stop "pip could not install the node; its message is above"
    echo "$wanted" >"$folder/installed"
}

# install_triton: an NVIDIA Triton server without Docker, and a Python for its backend; returns 1 where it cannot.
install_triton() {
    # Its own environment: with numpy 2 the backend of this server gives outputs of no bytes, without a word.
    local folder=$triton_folder packages="numpy>=1.26,<2 onnxruntime>=1.23" server="nvidia-pytriton==0.7.0"
    local wanted="$server $packages in $PWD" python
    [ "$(cat "$folder/installed" 2>/dev/null)" = "$wanted" ] && return
    # numpy 1.26 has no wheel for Python 3.13.
    python=$(find_python "3, 13") || return 1
    say "installing Triton into $folder (once, 330 MB)"
    # shellcheck disable=SC2086
    if ! { make_environment "$python" "$folder" --clear && _pip $packages && _pip --no-deps "$server"; }; then
        say "pip could not install Triton; its message is above"
        return 1
    fi
    _complete_triton && echo "$wanted" >"$folder/installed"
}

# triton_root: the folder of the server that install_triton has installed.
triton_root() {
    ls -d "$PWD/$triton_folder"/lib/python*/site-packages/pytriton/tritonserver
}

_pip() {
    "$triton_folder/bin/python" -m pip install -qq --disable-pip-version-check --no-input \
        --root-user-action=ignore "$@" </dev/null
}

# _complete_triton: what the wheel leaves to the program it is made for; returns 1 where the server cannot run.
_complete_triton() {
    local root version stub missing
    root=$(triton_root) || return 1
    version=$("$triton_folder/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    stub=$root/backends/python/triton_python_backend_stub
    cp "$root/python_backend_stubs/$version/triton_python_backend_stub" "$stub" || return 1
    chmod +x "$stub" "$root/bin/tritonserver"
    missing=$(ldd "$root/bin/tritonserver" "$stub" 2>&1 | grep -E 'not found|not a dynamic' | sort -u)
    [ -z "$missing" ] && return
    say "Triton cannot run here; it needs glibc 2.35 or later and libpython$version (a Debian package): $missing"
    return 1
}
