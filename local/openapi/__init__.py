"""Describes the HTTP API: docs/openapi.json, docs/problems.md and the files that /docs serves.

`document` builds the OpenAPI document, `operations` completes each route, and `examples` makes
bodies from the fields' examples. `problem_guide` has the meaning of each problem, and
`problem_page` makes pages of it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The document is made from the functions' routes, so the functions and the layer are imported.
sys.path.insert(0, str(ROOT / "layers" / "common"))
