"""How often `perfsuite` and three others call two equal things different, and how often they find a true slowdown.

Collects samples (see calibrate_samples.py), keeps them in a file and judges them by our rule and by those of nvbench,
pytest-benchmark and asv (rivals.py), all on the very same samples. What is there already is not collected again;
Ctrl-C keeps all that is complete. Progress on standard error, the table or the JSON on standard output.
`python bench/calibrate.py --samples samples.json` collects 119 A/A comparisons of ops, 51 and 34 that are slowed by
10 % and 5 %, and 20 pairs of llama runs; `--no-measure` judges what the file holds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import calibrate_samples as kept

FIRST_SEED = 1000


def collect(samples: kept.Samples, path: Path, what: str, wanted: int, budget_s: float,
            one: Callable[[int, kept.Say], dict]) -> None:  # fmt: skip
    """Add what is missing of samples[what], writing the file after each; none is begun that would pass the budget."""
    began = time.monotonic()
    while len(samples[what]) < wanted:
        done = len(samples[what])
        mean_s = sum(each["wall_s"] for each in samples[what]) / done if done else 0.0
        spent = time.monotonic() - began
        if spent + mean_s > budget_s:
            print(f"{what}: the budget is spent, {done} of {wanted} are there", file=sys.stderr)
            return
        left = f", about {mean_s * (wanted - done) / 60:.0f} min left" if done else ""
        title = f"{what}: {done + 1} of {wanted}{left}"
        print(title, file=sys.stderr, flush=True)
        samples[what].append(one(FIRST_SEED + done, lambda text, title=title: print(f"  {text}", file=sys.stderr)))
        kept.save(samples, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, required=True, help="file that keeps them; it is added to")
    parser.add_argument("--only", choices=("ops", "llama"))
    parser.add_argument("--sittings", type=int, default=17, help="of 12 ops: 7 A/A, 3 +10 %%, 2 +5 %%")
    parser.add_argument("--pairs", type=int, default=20, help="of llama runs")
    parser.add_argument("--comparison-s", type=float, default=60.0, help="time of a comparison of an op")
    parser.add_argument("--op-s", type=float, default=0.06, help="time of an op in a process")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds of each of the two, ops and llama")
    parser.add_argument("--no-measure", action="store_true", help="judge what is there")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args()
    try:
        samples = kept.load(options.samples) if options.samples.exists() or options.no_measure else kept.empty()
        if not options.no_measure:
            kept.same_machine(samples, options.samples)
            if options.only != "llama":
                collect(samples, options.samples, "sittings", options.sittings, options.budget,
                        lambda seed, say: kept.sitting(seed, options.comparison_s, options.op_s, say))  # fmt: skip
            if options.only != "ops":
                collect(samples, options.samples, "llama", options.pairs, options.budget,
                        lambda seed, say: kept.llama_pair(seed))  # fmt: skip
    except ValueError as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if not options.samples.exists():
            print("\nstopped before anything was complete", file=sys.stderr)
            return 130
        print(f"\nstopped; what is complete is in {options.samples}", file=sys.stderr)
    from calibrate_judge import report, table

    found = report(samples, options.only)
    print(json.dumps(found, indent=1) if options.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
