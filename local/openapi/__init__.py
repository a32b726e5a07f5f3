"""Describes the HTTP API: docs/openapi.json, docs/problems.md and what /docs serves.

`document` puts the OpenAPI document together, `operations` completes each route, `examples` makes
bodies from the fields' examples. `problem_guide` says what each problem means, and `problem_page`
turns that into pages.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The functions are asked about their routes, so they and the layer are imported.
sys.path.insert(0, str(ROOT / "layers" / "common"))
