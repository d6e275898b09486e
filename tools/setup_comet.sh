#!/usr/bin/env bash
# Sets up COMET, the score of translations, in .venv-comet of this checkout; quick and silent when all is there. It needs an
# older transformers than the toolkit, hence an environment of its own, in which stage 5 calls tools/comet_score.py.
#   ./tools/setup_comet.sh [MODEL]   MODEL: a name of the hub to download (Unbabel/wmt22-comet-da: 2.3 GB), which stage 5 never does
#   BLSP_PYTHON  the Python to make .venv-comet with (python3.11 if there is one, else python3)
set -euo pipefail

fail() {
    echo "tools/setup_comet.sh: $1" >&2
    exit 1
}
case "${1:-}" in -*) fail "'$1' is not an option; ./tools/setup_comet.sh [MODEL] installs COMET and downloads a model of the hub" ;; esac

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
environment="$root/.venv-comet"
stamp="$environment/blsp-setup"
wanted="$(sha256sum <"${BASH_SOURCE[0]}") $root"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    python="${BLSP_PYTHON:-$(command -v python3.11 || command -v python3)}"
    "$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null ||
        fail "needs Python 3.11 or 3.12 with venv (Debian: apt-get install python3 python3-venv); set BLSP_PYTHON to such a python"
    echo "tools/setup_comet.sh: installing into $environment (once; some minutes)"
    "$python" -m venv --clear "$environment"
    # setuptools: torchmetrics 0.10, which COMET pins, imports its pkg_resources.
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "unbabel-comet==2.2.7" \
        "setuptools>=77.0.3,<81" "sentencepiece==0.2.0" || fail "pip failed; mend what is said above and run it again"
    "$environment/bin/python" -W ignore -c "import comet" || fail "import comet fails; mend what is said above and run it again"
    printf '%s\n' "$wanted" >"$stamp"
fi
if [ $# -gt 0 ]; then
    "$environment/bin/python" "$root/tools/comet_score.py" --model "$1" --download
fi
