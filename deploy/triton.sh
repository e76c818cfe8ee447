#!/usr/bin/env bash
# NVIDIA Triton without Docker: a real server (CPU, Python backend) on the models of triton_repo/, on loopback.
# `bash deploy/triton.sh [--repository FOLDER] [option of tritonserver …]`, as in
# `bash deploy/triton.sh --http-port 8000 --grpc-port 8001 --metrics-port 8002`; `--install` only installs it.
# With `--model-control-mode explicit --load-model '*'` it also loads and unloads models while it runs, for
# `sightline models` and for whoever else reaches its ports, even code that it is sent.
set -euo pipefail
folder=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. deploy/environment.sh

repository=$PWD/triton_repo
case "${1:-}" in
    --repository) repository=$(cd "$folder" && realpath "$2"); shift 2 ;;
esac
install_triton
[ "${1:-}" = --install ] && exit
root=$(triton_root)
# The Python backend takes its packages from the first python3 of PATH.
export PATH="$PWD/$triton_folder/bin:$PATH"
# Nobody is asked for a password by Triton, so it listens on loopback; a later option replaces an earlier one.
exec "$root/bin/tritonserver" --backend-directory "$root/backends" --model-repository "$repository" \
    --model-config-name python --disable-auto-complete-config \
    --http-address 127.0.0.1 --grpc-address 127.0.0.1 --metrics-address 127.0.0.1 "$@"
