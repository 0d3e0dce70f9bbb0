"""Headers of an answer that tell its caller something beside it."""

from email.utils import formatdate

from extproc.call import Call
from extproc.model import PublicModel
from extproc.timing import Stage

Pairs = tuple[tuple[str, str], ...]


def of_model(model: PublicModel, written: str | None) -> Pairs:
    """That the name by which the caller asked is retired (RFC 9745), and when it stops working (RFC 8594)."""
    retirement = model.retired.get(written or "") if model.retired else None
    if retirement is None:
        return ()
    told: Pairs = (("deprecation", f"@{retirement.since}"),)
    if retirement.sunset is not None:
        told += (("sunset", formatdate(retirement.sunset, usegmt=True)),)
    return told


def of_backend(call: Call) -> Pairs:
    """Which backend answered, and how many were tried: each stands in the chain once."""
    tried = [target.backend.name for target in call.chain.targets] if call.chain else []
    if call.backend not in tried:
        return ()
    attempt = tried.index(call.backend) + 1 if call.attempt is None else call.attempt
    return ("x-sluice-backend", call.backend), ("x-sluice-attempts", str(attempt))


def of_times(call: Call) -> Pairs:
    """For how long each stage took so far, the wait for a backend, and all of it, in milliseconds (Server-Timing)."""
    took = call.times.spent
    sent = call.times.spans.get(Stage.FORWARD)
    if call.first_byte is not None and sent is not None:
        took.append(("upstream", call.first_byte - sent.ended))
    took.append(("total", call.times.clock() - call.started))
    return (("server-timing", ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in took)),)
