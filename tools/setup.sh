#!/usr/bin/env bash
# Sets up what the toolkit needs in .venv of this checkout; quick and silent when all is there.
# Source it to get .venv's programs onto PATH (the run.sh scripts do), or run it.
#   BLSP_PYTHON  the Python to make .venv with (python3.11 if there is one, else python3)

_setup() {
    local root python stamp wanted
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    stamp="$root/.venv/blsp-setup"
    wanted="$(sha256sum <"$root/setup.py") $(sha256sum <"$root/tools/setup.sh") $root"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        python="${BLSP_PYTHON:-$(command -v python3.11 || command -v python3)}"
        if ! "$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "tools/setup.sh: needs Python 3.11 to 3.13 with venv (Debian: apt-get install python3 python3-venv);" \
                "set BLSP_PYTHON to such a python" >&2
            return 1
        fi
        if [ -L "$root/.venv" ]; then
            echo "tools/setup.sh: $root/.venv is a link to another checkout's environment; remove it, this one gets its own" >&2
            return 1
        fi
        echo "tools/setup.sh: installing into $root/.venv (once; some minutes)"
        # A folder that was copied or half made names another place in its scripts: make it anew.
        "$root/.venv/bin/pip" --version 2>/dev/null | grep -qF "$root/.venv/" || "$python" -m venv --clear "$root/.venv" || return 1
        # torch by itself and first: what follows then keeps this build instead of looking for another.
        "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" || return 1
        "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "${root}[dev]" || return 1
        "$root/.venv/bin/python" "$root/tools/check_install.py" || return 1
        printf '%s\n' "$wanted" >"$stamp"
    fi
    case ":$PATH:" in *":$root/.venv/bin:"*) ;; *) export PATH="$root/.venv/bin:$PATH" ;; esac
}

_setup || { echo "tools/setup.sh: set-up failed; mend what is said above and run it again" >&2; false; }
