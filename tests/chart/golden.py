"""What the charts render of their examples, as it is checked in: `make charts` writes it, a test compares."""

from pathlib import Path

from tests.support.helm import ROOT, template

FOLDER = Path(__file__).parent / "golden"
_LONG = 11000  # characters of one object
EXAMPLES = sorted(ROOT.glob("charts/*/examples/*.yaml"))


def name(example: Path) -> str:
    """`sluice-minimal`: the chart and its example."""
    return f"{chart(example).name}-{example.stem}"


def chart(example: Path) -> Path:
    return example.parents[1]


def render(example: Path) -> str:
    return template(chart(example), example)


def shown(example: Path) -> str:
    """What is checked in: without copies of files, which stand in the tree already."""
    parts = render(example).split("\n---\n")
    return "\n---\n".join(part if len(part) < _LONG else _without_texts(part) for part in parts)


def _without_texts(part: str) -> str:
    head, _, _ = part.partition("\ndata:\n")
    return f"{head[:_LONG]}\n# ... and its files"


def write() -> None:
    """One file for each example, and none that belongs to no example."""
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.glob("*.yaml"):
        stale.unlink()
    for example in EXAMPLES:
        (FOLDER / f"{name(example)}.yaml").write_text(shown(example), encoding="utf-8")


if __name__ == "__main__":
    write()
