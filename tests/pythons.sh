#!/usr/bin/env bash
# The demo, the unit tests and the handler tests on each Python named (3.11 3.12 ...) that is found on
# PATH, each in an environment of its own: .venv-3.11 and so on. Fails if any of them failed.
set -euo pipefail
cd "$(dirname "$0")/.."

# Prints the path of the first python$1 on PATH that is that version and can make an environment.
# The first one may be a pyenv shim of a version that is switched off, or a Debian Python without
# venv: then the next one is tried.
interpreter() {
    local candidate
    while read -r candidate; do
        "$candidate" - "$1" 2> /dev/null << 'PY' && return
import ensurepip, sys, venv
if "%d.%d" % sys.version_info[:2] != sys.argv[1]:
    sys.exit(1)
print(sys.executable)
PY
    done < <(type -aP "python$1")
    return 1
}

found=()
for version in "$@"; do
    if python=$(interpreter "$version"); then
        echo "Python $version: $python"
        found+=("$version=$python")
    else
        echo "Python $version: not found, not tested (no python$version with venv on PATH)"
    fi
done

failed=()
for each in ${found[@]+"${found[@]}"}; do
    version=${each%%=*}
    run() { make VENV=".venv-$version" PYTHON="${each#*=}" "$@"; }
    printf '\n--- Python %s: setup\n' "$version"
    run setup || { failed+=("$version: setup"); continue; }
    printf '\n--- Python %s: demo\n' "$version"
    run demo || failed+=("$version: demo")
    printf '\n--- Python %s: unit tests\n' "$version"
    run test ARGS="tests/unit tests/standin/unit" || failed+=("$version: unit tests")
    printf '\n--- Python %s: handler tests\n' "$version"
    run test ARGS="tests/integration -m handlers" || failed+=("$version: handler tests")
done

echo
if ((${#failed[@]})); then
    printf 'Failed on Python %s\n' "${failed[@]}"
    exit 1
fi
if ((${#found[@]})); then
    printf 'Passed on Python %s\n' "${found[@]%%=*}"
else
    echo "None of these Pythons was found: nothing was tested."
fi
