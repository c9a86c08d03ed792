"""The frame of every page: styles, scripts and charts in one document that opens anywhere, in light and dark."""

import json
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from perfsuite.report.charts import Chart
from perfsuite.report.markup import Markup

_HERE = Path(__file__).parent


def page(title: Markup, body: Markup, drawn: dict[str, Chart]) -> str:
    """One HTML document; drawn: the charts that markup.draw() put in."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
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
<script type="application/json" id="charts">{_script_json(drawn)}</script>
<script>{get_plotlyjs()}</script>
<script>
{script}</script>
</body>
</html>
"""


def _script_json(document: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    dumped = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return dumped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
