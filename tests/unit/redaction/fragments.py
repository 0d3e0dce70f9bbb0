"""Random texts that are full of what a detector looks for, whole and in pieces."""

import random
from collections.abc import Iterator

VALUES = (
    *("4111111111111111", "4111 1111 1111 1111", "5500-0055-5555-5559", "378282246310005", "4 1 1 1 1 1 1 1 1 1 1 1 1"),
    *("415-555-2671", "(415) 555-2671", "+1 415 555 2671", "+49 30 901820", "030 901820", "4155552671"),
    *("536-90-4399", "536904399", "DE89370400440532013000", "GB82 WEST 1234 5698 7654 32"),
    *("bob@example.com", "a.b+c@sub.example.co.uk", "jörg@straße.de", "@", "bob%40example.com"),
    *("8.8.8.8", "192.168.0.1", "1.2.3.4", "2a00:1450:4001:81b::200e", "::ffff:8.8.8.8", "::"),
    *("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"),
    *("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "550e8400-e29b-41d4-a716-446655440000"),
    *(
        "sk-proj-" + "a8Bc9dEf0GhIjKlMnOpQrStU",
        "AKIA" + "IOSFODNN7ABCDEFG",
        "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
    ),
    *("wJalrXUtnFEMI/K7MDENG/bPxRfiCYabcdEfghKEY", "0123abcd4567ef89" * 2),
    "Ab3Cd4Ef5Gh6" * 7 + "Zz==",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlc2lnbmF0dXJl",
    "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n-----END PRIVATE KEY-----",
    *("postgres://bob:s3cr3t@db.example.com:5432/x", "Server=db;User Id=bob;Password=s3cr3t;", "password=hunter22"),
    *("2024-05-06", "06/May/2024:12:00:01 +0000", "May 6, 2024", "00:1a:2b:3c:4d:5e", "https://example.com/a?b=c"),
    *("12345678Z", "X1234567L", "943 476 5919", "12345-6789", "EMP-1234", "éxyz", "Mr. ", "Müller", "身份"),
)
JOINTS = (
    *(
        "ssn ",
        "phone ",
        "card ",
        "aws secret ",
        "azure ",
        "zip code ",
        "version ",
        "id,phone,card\n",
        "\n",
        ",",
        ".",
        "-",
    ),
    *(
        " ",
        "  ",
        "/",
        "_",
        ":",
        "=",
        '"',
        "'",
        "(",
        ")",
        "+",
        "|",
        "\t",
        "\\n",
        "0",
        "1",
        "7",
        "9",
        "a",
        "Z",
        "é",
        "卡",
    ),
    *("\u200b", "\u00a0", "–", "４１", "٤", "ﬁ", "½", "😀", "http://", "AAAA"),
)


def texts(seed: int, count: int) -> Iterator[str]:
    """The same ones for the same seed."""
    dice = random.Random(seed)
    for _ in range(count):
        yield "".join(_piece(dice) for _ in range(dice.randrange(1, 9)))


def _piece(dice: random.Random) -> str:
    kind, value = dice.random(), dice.choice(VALUES)
    if kind < 0.3:
        return value
    if kind < 0.6:
        return dice.choice(JOINTS)
    if kind < 0.75:
        start = dice.randrange(len(value))
        return value[start : dice.randrange(start, len(value)) + 1]
    if kind < 0.9:
        place = dice.randrange(len(value) + 1)
        return value[:place] + dice.choice(JOINTS) + value[place:]
    return "".join(dice.choice("0123456789 .-@:/") for _ in range(dice.randrange(1, 12)))
