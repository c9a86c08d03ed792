"""The frame of every page: one document that opens anywhere, in light and dark. What is drawn in it is page.py's."""

from pathlib import Path

from perfsuite.report.markup import Markup

HERE = Path(__file__).parent


def document(title: Markup, body: Markup, tail: str = "") -> str:
    """One HTML document with the suite's style; tail: what follows the body's content, scripts for instance."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
{tail}</body>
</html>
"""
