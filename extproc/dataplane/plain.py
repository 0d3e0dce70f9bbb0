"""Envoy's types without what makes them slow, which is three quarters of the time of a rendering.

They are declared for pydantic, which makes a validator of each that is used: what we put into them is checked by mypy
here and by Envoy there. And betterproto works out the types of a class anew for each of its fields.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pydantic.dataclasses
from betterproto2 import Message


def _plain(**options: Any) -> Callable[[type], type]:
    """As the generated code calls it."""
    return dataclasses.dataclass(**{name: value for name, value in options.items() if name != "config"})


@contextmanager
def plain_types() -> Iterator[None]:
    """What is imported of `envoy_data_plane` for the first time declares plain dataclasses. Not for threads."""
    validated = pydantic.dataclasses.dataclass
    setattr(pydantic.dataclasses, "dataclass", _plain)  # noqa: B010 - mypy sees no such assignment
    try:
        yield
    finally:
        setattr(pydantic.dataclasses, "dataclass", validated)  # noqa: B010


def remember_types() -> None:
    """Have the types of the fields of a class worked out once."""
    once: Callable[[type], dict[str, type]] = functools.cache(vars(Message)["_type_hints"].__func__)
    setattr(Message, "_type_hints", classmethod(once))  # noqa: B010
