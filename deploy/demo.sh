#!/usr/bin/env bash
# From a clean clone to a first result: a virtual environment, the node, `sightline demo`.
# Arguments go to the demo: `bash deploy/demo.sh --keep`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. deploy/environment.sh

install_environment .venv-demo . "once, one to two minutes"
exec .venv-demo/bin/sightline demo "$@"
