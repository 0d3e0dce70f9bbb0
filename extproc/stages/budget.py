"""The seam where budgets stand. No limit is configured yet: every call gets a hold that limits nothing."""

from extproc.model import Caller, Chain, CleanPrompt, Hold


def reserve(caller: Caller, clean: CleanPrompt, chain: Chain, call_id: str) -> Hold:  # noqa: ARG001
    """Reserve for the dearest target of the chain. Needs a caller and a chain, so it cannot come before them."""
    return Hold(call_id)
