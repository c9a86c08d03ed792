"""`python -m perfsuite.op_inspect [--write-baseline] [OP ...]`: look at the kernels of these ops, by default of all."""

import sys

from rich.console import Console

from perfsuite.op_inspect import ARCHS, baseline, inspect


def main() -> None:
    from perfsuite.kernels import contract
    from perfsuite.report import inspect_text

    write = "--write-baseline" in sys.argv
    names = [word for word in sys.argv[1:] if word != "--write-baseline"] or sorted(contract.MODULES)
    try:
        ops = {name: inspect(name, ARCHS, lambda line: print(line, file=sys.stderr)) for name in names}
        for rows in ops.values():
            Console(width=200).print(inspect_text.table(rows))
        if write:
            baseline.write(ops)
            print(f"wrote {baseline.path()}", file=sys.stderr)
    except ValueError as error:
        print(f"perfsuite: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
