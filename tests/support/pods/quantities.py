"""Kubernetes' quantities: `250m`, `64Mi`, `1.5`."""

_SUFFIXES = {
    "m": 1e-3,
    **{letter: 1000.0**power for power, letter in enumerate("kMGT", 1)},
    **{f"{letter}i": 1024.0**power for power, letter in enumerate("KMGT", 1)},
}


def number_of(quantity: str | int | float) -> float:
    """The number: cores, or bytes."""
    text = str(quantity)
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * _SUFFIXES[suffix]
    return float(text)


def share_of(value: str | int, total: int, up: bool) -> int:
    """A number, or a percentage of a total, rounded as Deployments do."""
    if isinstance(value, str) and value.endswith("%"):
        exact = total * int(value[:-1])
        return -(-exact // 100) if up else exact // 100
    return int(value)
