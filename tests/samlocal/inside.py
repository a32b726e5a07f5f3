"""What runs in the namespaces: an engine, the images, and then the page.

python -m tests.samlocal.inside
"""

import os
import sys

from tests.samlocal import engine, images, packages, told
from tests.samlocal.errors import Failed, Skipped
from tests.samlocal.places import KEPT, PLUGINS

SKIPPED = 75


def main() -> int:
    """Its exit code is SKIPPED where the engine or its images cannot be had."""
    plugins = KEPT / "docker-config" / "cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    os.environ["DOCKER_CONFIG"] = str(plugins.parent)
    laps = told.Laps()
    try:
        packages.compose_plugin()
        if not (plugins / "docker-compose").is_symlink():
            (plugins / "docker-compose").symlink_to(PLUGINS / "docker-compose")
        with engine.running():
            laps.done("an engine in namespaces of its own")
            found = images.find()
            if missing := [name for name, how in found.items() if not how]:
                with engine.filling():
                    images.make(missing)
            for name, how in found.items():
                print(f"          {name}: {how or 'made here'}", flush=True)
            laps.done("images")
            told.run(laps)
        laps.done("the engine has stopped")
    except Skipped as reason:
        print(f"skipped: {reason}", flush=True)
        return SKIPPED
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
