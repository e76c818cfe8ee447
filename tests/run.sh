#!/usr/bin/env bash
# Every check of this repository, from a clean clone: environment, peers, style, types, layers, tests.
# `--viewer` also installs a browser and a web viewer (700 MB), and runs the tests that look at results in it.
# Other arguments go to pytest: `bash tests/run.sh tests/test_routing.py -x`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null                # nothing may stop to ask

. deploy/environment.sh

wants_viewer=
arguments=()
for argument in "$@"; do
    if [ "$argument" = --viewer ]; then wants_viewer=yes; else arguments+=("$argument"); fi
done

# The peers of the tests: command, and the Debian package that brings it.
peers="dcmdump:dcmtk Orthanc:orthanc dciodvfy:dicom3tools javac:default-jdk-headless promtool:prometheus mkfs.xfs:xfsprogs"
files="/usr/share/orthanc/plugins/libOrthancDicomWeb.so:orthanc-dicomweb /usr/share/java/pixelmed.jar:libpixelmed-java"
if [ "$wants_viewer" ]; then
    peers="$peers chromium:chromium"
    files="$files /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf:fonts-dejavu-core"
fi

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
        [ -z "$wants_viewer" ] || stop "--viewer needs Debian packages, which root can install: apt-get install $missing"
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

install_viewer() {
    if ! .venv/bin/python -c "import playwright" 2>/dev/null; then
        say "installing playwright into .venv"
        .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore \
            --editable ".[viewer]" || stop "pip could not install playwright; its message is above"
    fi
    .venv/bin/python -m tests.peers.ohif || stop "the viewer cannot be installed; the reason is above"
}

check() {
    local started=$SECONDS
    "$@" || stop "failed: $*"
    say "passed: $1 ($((SECONDS - started)) s)"
}

install_environment .venv ".[test,train]" "the first time: some minutes, 6 GB, most of it PyTorch"
install_peers
[ -z "$wants_viewer" ] || install_viewer
install_triton || say "tests with a real Triton server will be skipped"
export PATH="$PWD/.venv/bin:$PATH:/usr/sbin"
# DCMTK leaves Nagle's algorithm on unless told so: 40 ms for every instance it sends.
export TCP_NODELAY=1

check ruff format --check .
check ruff check .
check mypy --no-error-summary
check lint-imports --no-logo
# Two processes, a file of tests in one of them: the tests wait for programs half of their time.
check pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "${arguments[@]}"
