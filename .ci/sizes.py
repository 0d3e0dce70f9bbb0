"""Reports how long functions and modules are, and fails where they outgrow a reader: `python .ci/sizes.py PACKAGE`."""

# ruff: noqa: T201 - a report is printed
import ast
import statistics
import sys
from pathlib import Path

LONGEST_FUNCTION = 50  # lines
P90_FUNCTION = 35


def functions(path: Path) -> list[tuple[int, str]]:
    """The length in lines and the place of every function of a module."""
    return [
        ((node.end_lineno or node.lineno) - node.lineno + 1, f"{path}:{node.lineno} {node.name}")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def p90(lengths: list[int]) -> int:
    """The length that nine in ten stay within."""
    return sorted(lengths)[(len(lengths) * 9 - 1) // 10]


def report(what: str, sized: list[tuple[int, str]]) -> None:
    """One line of figures, then the five largest."""
    lengths = [length for length, _ in sized]
    print(f"{len(sized)} {what}: median {statistics.median(lengths):.0f} lines, p90 {p90(lengths)}; the largest:")
    for length, place in sorted(sized, reverse=True)[:5]:
        print(f"  {length:4} {place}")


def main(package: str) -> None:
    paths = sorted(Path(package).rglob("*.py"))
    sized = [entry for path in paths for entry in functions(path)]
    report("functions", sized)
    report("modules", [(len(path.read_text(encoding="utf-8").splitlines()), str(path)) for path in paths])
    if max(sized)[0] > LONGEST_FUNCTION or p90([length for length, _ in sized]) > P90_FUNCTION:
        sys.exit(f"A function may have {LONGEST_FUNCTION} lines, nine in ten {P90_FUNCTION}.")


if __name__ == "__main__":
    main(sys.argv[1])
