#!/usr/bin/env bash
# Every check of this repository, from a clean clone: environment, peers, style, types, layers, tests.
# Arguments go to pytest: `bash tests/run.sh tests/test_routing.py -x`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null                # nothing may stop to ask

environment=.venv
say() { printf 'run.sh: %s\n' "$*"; }
stop() { printf 'run.sh: %s\n' "$*" >&2; exit 1; }

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

install_environment() {
    # An environment is good for the pyproject.toml it was made from, in the place where it was made.
    local wanted python
    wanted=$(cat pyproject.toml - <<<"$PWD" | cksum)
    [ "$(cat $environment/installed 2>/dev/null)" = "$wanted" ] && return
    python=$(find_python)
    say "installing into $environment (the first time: some minutes, 6 GB, most of it PyTorch)"
    "$python" -m venv $environment
    $environment/bin/python -m pip install -qq --disable-pip-version-check --no-input \
        --root-user-action=ignore --editable '.[test,train]' ||
        stop "pip could not install the node with its extras; its message is above"
    echo "$wanted" >$environment/installed
}

# The peers of the tests: command, and the Debian package that brings it.
peers="dcmdump:dcmtk Orthanc:orthanc dciodvfy:dicom3tools javac:default-jdk-headless"
files="/usr/share/orthanc/plugins/libOrthancDicomWeb.so:orthanc-dicomweb /usr/share/java/pixelmed.jar:libpixelmed-java"

list_missing_packages() {
    local pair
    for pair in $peers; do
        PATH="$PATH:/usr/sbin" command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
    for pair in $files; do
        [ -e "${pair%%:*}" ] || echo "${pair##*:}"
    done
}

install_peers() {
    local missing log
    missing=$(list_missing_packages | xargs)
    [ -z "$missing" ] && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "tests with real peers will be skipped; to run them: apt-get install $missing"
        return
    fi
    say "installing Debian packages: $missing"
    log=$(mktemp)
    # shellcheck disable=SC2086
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing; } \
        >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        stop "apt-get could not install: $missing"
    fi
    rm -f "$log"
}

check() {
    local started=$SECONDS
    "$@" || stop "failed: $*"
    say "passed: $1 ($((SECONDS - started)) s)"
}

install_environment
install_peers
export PATH="$PWD/$environment/bin:$PATH:/usr/sbin"
# DCMTK leaves Nagle's algorithm on unless told so: 40 ms for every instance it sends.
export TCP_NODELAY=1

check ruff format --check .
check ruff check .
check mypy --no-error-summary
check lint-imports --no-logo
check pytest "$@"
