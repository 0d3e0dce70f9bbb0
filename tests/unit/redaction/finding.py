"""A detector for tests of what comes after one: e-mail addresses, cards, and whatever is named."""

import re
from dataclasses import dataclass

_FOUND = re.compile(
    r"(?P<EMAIL_ADDRESS>[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,})"
    r"|(?P<CREDIT_CARD>(?<!\d)4\d{3}[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}(?!\d))"
    r"|(?P<US_SSN>(?<=ssn: )\d{9}(?!\d))"
    r"|(?P<PRIVATE_KEY>-----BEGIN PRIVATE KEY-----[^-]*-----END PRIVATE KEY-----)"
    r"|(?P<PROJECT>project falcon)"
)


@dataclass(frozen=True)
class Finding:
    start: int
    end: int
    entity: str


def findings(text: str) -> list[Finding]:
    return [Finding(*found.span(), str(found.lastgroup)) for found in _FOUND.finditer(text)]
