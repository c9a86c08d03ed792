"""Opens pages in headless Chromium and brings back what their scripts did.

Each page stands in a frame of a stated width (a headless window cannot be narrower than about 500 px) and reports to
the page around it, which a second script dumps.
"""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_FIRST = """<script>
window.problems = [];
window.addEventListener("error", (e) => window.problems.push("error: " + (e.message || e.target.src)), true);
window.addEventListener("unhandledrejection", (e) => window.problems.push("rejected: " + e.reason));
for (const kind of ["error", "warn"]) {
  console[kind] = (...said) => window.problems.push(kind + ": " + said.join(" "));
}
window.alert = () => window.problems.push("alert");
</script>"""

_LAST = """<script>
(async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  for (let i = 0; i < 100 && !document.documentElement.dataset.ready; i++) await wait(50);
  const found = {};
  try { found.result = await (async () => { %s })(); } catch (e) { problems.push("probe: " + e); }
  found.problems = problems;
  parent.postMessage(JSON.stringify([window.name, found]), "*");
})();
</script>"""

_OUTER = """<!doctype html><body><pre id="collected"></pre><script>
const all = {};
addEventListener("message", (e) => {
  const [name, found] = JSON.parse(e.data);
  all[name] = found;
  const bytes = new TextEncoder().encode(JSON.stringify(all));
  document.getElementById("collected").textContent = btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(""));
});
</script>"""


def require() -> None:
    """Skip the test where there is no browser; fail it where PERFSUITE_REQUIRE_BROWSER=1."""
    if BROWSER is None:
        reason = "no Chromium on this machine (apt-get install chromium)"
        if os.environ.get("PERFSUITE_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def observe(pages: dict[str, tuple[str, int]], probe: str, folder: Path, dark: bool = False) -> dict[str, Any]:
    """Open each page, {name: (html, width in px)}, and run `probe`, the body of an async function, in it once drawn.

    Returns {name: {"problems": [script errors and warnings], "result": what the probe returned}}.
    """
    outer = _OUTER
    for name, (html, width) in pages.items():
        html = html.replace("<head>", "<head>" + _FIRST, 1)
        head, end, tail = html.rpartition("</body>")
        (folder / f"{name}.html").write_text(head + _LAST % probe + end + tail, encoding="utf-8")
        outer += f'<iframe name="{name}" src="{name}.html" width="{width}" height="2000" style="border:0"></iframe>'
    (folder / "outer.html").write_text(outer, encoding="utf-8")
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=1000000", "--dump-dom",
        "--window-size=1400,2000", f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", (folder / "outer.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    collected = re.search(r'<pre id="collected">([^<]*)</pre>', done.stdout)
    assert collected and collected[1], f"no page reported back: {done.stderr[-2000:]}"
    found = json.loads(base64.b64decode(collected[1]))
    assert found.keys() == pages.keys(), f"no report from {sorted(pages.keys() - found.keys())}"
    return found
