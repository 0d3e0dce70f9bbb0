"""Values that a call makes many of: dataclasses that nobody changes, which the type checker sees to.

`dataclass(frozen=True)` has the interpreter see to it, too, and sets each field of a new object by a call for that:
four times the time, of which a call of the gateway would spend a tenth.
"""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A class as `@dataclass(frozen=True, slots=True)` makes it, but quick to make objects of."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
