"""Loading modules without the garbage collector.

It would look through all that they make dozens of times and find nothing: a seventh of the time of a start.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection within it, and none later looks at what was loaded."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
