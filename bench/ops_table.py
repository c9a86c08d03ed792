"""The README's table of the op library: each op's bar on the CPU beside what was measured, from a record of
`perfsuite ops bench --out FILE`. `python bench/ops_table.py bench/results/<machine>/ops.json`
"""

import json
import sys
from pathlib import Path
from statistics import geometric_mean
from typing import Any

BARS: dict[str, dict[str, float]] = {
    "linear_cross_entropy": {"eager": 1.0},
    "cross_entropy": {"eager": 8.0, "compile": 3.0},
    "rms_norm": {"eager": 8.0},
    "layer_norm": {"eager": 2.0},
    "batch_norm_add_relu": {"eager": 1.5},
    "rope": {"eager": 5.0, "compile": 1.0},
    "qk_norm_rope": {"eager": 5.0, "compile": 1.0},
    "swiglu": {"eager": 3.0},
    "softmax": {"eager": 0.97, "compile": 0.97},
    "adamw": {"eager": 1.0},
    "lamb": {"eager": 1.0},
    "embedding_bag": {"eager": 3.0},
    "embedding_bag_update": {"eager": 3.0},
    "dot_interaction": {"eager": 2.0},
    "dcn_cross": {"eager": 2.0},
    "focal_loss": {"eager": 8.0, "compile": 2.0},
}
"""Least speed-up over each yardstick at the op's first case."""
NATIVE = ("cpp", "onednn")


def ratio(row: dict[str, Any], against: str) -> str:
    """ "13.7 (13.3 to 14.0)", or "-"."""
    one = row["speedup"].get(against)
    return "-" if one is None else f"{one['ratio']:.3g} ({one['ci95'][0]:.3g} to {one['ci95'][1]:.3g})"


def main() -> None:
    rows = json.loads(Path(sys.argv[1]).read_text())["rows"]
    whole = {(r["op"], r["case"]) for r in rows if r["direction"] == "both"}
    native = [
        r for r in rows
        if r["impl"] in NATIVE and r["cache"] == "cold"
        and r["direction"] == ("both" if (r["op"], r["case"]) in whole else "forward")
    ]  # fmt: skip
    eager = {(r["op"], r["case"], r["direction"]): r for r in rows if r["impl"] == "eager" and r["cache"] == "cold"}
    print("| op, first case | time | memory, of eager's | x eager | x compile | bar | all cases, x eager |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for op in dict.fromkeys(r["op"] for r in native):
        mine = [r for r in native if r["op"] == op]
        first = mine[0]
        bars = BARS.get(op, {})
        intervals = [(least, *first["speedup"][name]["ci95"]) for name, least in bars.items()]
        bar = ", ".join(f"{least:g}x {name}" for name, least in bars.items())
        if any(hi < least for least, _, hi in intervals):
            bar += ": **not met**"
        elif any(lo < least for least, lo, _ in intervals):
            bar += ": **cannot tell**"
        base = eager[op, first["case"], first["direction"]]["peak_bytes"]
        memory = f"{first['peak_bytes'] / base:.2f}" if base and first["peak_bytes"] is not None else "-"
        ratios = [r["speedup"]["eager"]["ratio"] for r in mine]
        worst = min(mine, key=lambda r: r["speedup"]["eager"]["ratio"])
        print(
            f"| `{op}` {first['case']} | {first['device_time_ns'] / 1e6:.3g} ms | {memory} | {ratio(first, 'eager')} | "
            f"{ratio(first, 'compile')} | {bar or 'none'} | {geometric_mean(ratios):.3g}, "
            f"{min(ratios):.2g} at {worst['case']} |"
        )


if __name__ == "__main__":
    main()
