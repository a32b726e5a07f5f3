"""Writes the guide to problems: docs/problems.md, and the page at /docs/problems."""

import html
import re

from billing.errors import TITLES
from local.openapi.problem_guide import CHAPTERS, Guide

_INTRODUCTION = (
    "Every error of ours is a problem document (RFC 9457): its `code` says for programs what is the"
    " matter, and never changes its meaning. New codes may come: treat an unknown code by its"
    " status.",
    "*Again* says whether the same request may succeed when it is sent again. Wait as many seconds"
    " as the header `Retry-After` says, else a second, then twice as long each time, with some"
    " chance in it. Send the same idempotency key again: nothing is counted or paid twice. Where"
    " *again* is no, the same request gets the same answer until somebody does what is written.",
    'API Gateway answers a few requests itself, with `{"message": "..."}`: 429 above the rate of a'
    " route, 503 and 500 when a function is busy or crashes. Such a request may be sent again.",
)


def markdown() -> str:
    """Returns the text of docs/problems.md."""
    lines = [
        "# Problems",
        "",
        "Made by `make openapi` from `local/openapi/problem_guide.py`. A stack serves the same"
        " guide at `/docs/problems`, to which the `type` of each problem links.",
        "",
    ]
    for paragraph in _INTRODUCTION:
        lines += [paragraph, ""]
    for chapter in CHAPTERS:
        lines += [
            f"## {chapter.title}",
            "",
            "| Code | Status | What it means | What to do | Again |",
            "|---|---|---|---|---|",
            *(_row(code, guide) for code, guide in chapter.codes.items()),
            "",
        ]
    return "\n".join(lines)


def page() -> str:
    """Returns the page at /docs/problems. It has no script."""
    chapters = "\n".join(
        f"<h2>{chapter.title}</h2>\n"
        + "\n".join(_section(code, guide) for code, guide in chapter.codes.items())
        for chapter in CHAPTERS
    )
    introduction = "\n".join(f"<p>{_inline(each)}</p>" for each in _INTRODUCTION)
    return f"""<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Problems</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="reference.css">
</head>
<body>
<header class="bar">
  <h1>Problems</h1>
  <nav aria-label="Documents"><a href="../docs">API reference</a></nav>
</header>
<main class="text">
{introduction}
{chapters}
</main>
</body>
</html>
"""


def _row(code: str, guide: Guide) -> str:
    again = "yes" if guide.retry else "no"
    name = f'<a id="{code}"></a>`{code}`'
    return f"| {name} | {guide.status} | {guide.meaning} | {guide.remedy} | {again} |"


def _section(code: str, guide: Guide) -> str:
    again = "May be sent again." if guide.retry else "Do not send it again unchanged."
    return (
        f'<section id="{code}">\n'
        f"<h3>{code}</h3>\n"
        f"<p>{guide.status}. {html.escape(TITLES[code])}.</p>\n"
        f"<p>{_inline(guide.meaning)}</p>\n"
        f"<p>{_inline(guide.remedy)} {again}</p>\n"
        "</section>"
    )


def _inline(text: str) -> str:
    """Converts Markdown's code and emphasis. Links point into the repository, so only their
    text remains.
    """
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)
    text = html.escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)
