"""Every word for why is explained to who reads it, and no other."""

import re
from pathlib import Path

from extproc.cache import admission, bypass

ROOT = Path(__file__).resolve().parents[3]


def explained(head: str) -> set[str]:
    """The words of the table with this head."""
    table = (ROOT / "docs/cache.md").read_text().split(f"\n| {head} |")[1].split("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def test_every_reason_of_a_bypass_is_explained() -> None:
    sources = [file.read_text() for file in (ROOT / "extproc").rglob("*.py")]
    passed = {reason for text in sources for reason in re.findall(r"\.pass_by\(\"(\w+)\"\)", text)}
    assert passed
    assert explained("reason") == passed | bypass.REASONS


def test_every_reason_to_keep_no_answer_is_explained() -> None:
    assert explained("`reason`") == admission.REASONS


def test_no_word_stands_for_nothing() -> None:
    """Each is used where requests and answers are judged."""
    for name, words in (("bypass", bypass.REASONS - {"duplicate_keys", "surface"}), ("admission", admission.REASONS)):
        _, _, code = (ROOT / f"extproc/cache/{name}.py").read_text().partition('"""Every word')
        assert words == {word for word in words if f'"{word}"' in code}
