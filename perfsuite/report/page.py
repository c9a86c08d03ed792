"""A page with charts: the frame of every page, and the scripts that draw in it."""

import json
from typing import Any

from plotly.offline import get_plotlyjs

from perfsuite.report.charts import Chart
from perfsuite.report.frame import HERE, document
from perfsuite.report.markup import Markup


def page(title: Markup, body: Markup, drawn: dict[str, Chart]) -> str:
    """One HTML document; drawn: the charts that markup.draw() put in."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    tail = f"""<script type="application/json" id="charts">{_script_json(drawn)}</script>
<script>{get_plotlyjs()}</script>
<script>
{script}</script>
"""
    return document(title, body, tail)


def _script_json(document: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    dumped = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return dumped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
