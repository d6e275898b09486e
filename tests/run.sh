#!/usr/bin/env bash
# Lint and tests. Arguments go to pytest: ./tests/run.sh -m slow, ./tests/run.sh tests/model
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup.sh

if [ $# -eq 0 ]; then
    ruff check .
    ruff format --check .
    git ls-files '*.sh' .ci/run | xargs shellcheck -x
fi
python -m pytest "$@"
