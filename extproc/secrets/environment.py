"""Secrets in environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .source import Secret, SecretError, usable


@dataclass(frozen=True, slots=True)
class EnvironmentSource:
    """The variable `name`, as it was set when this process began."""

    name: str
    environ: Mapping[str, str] = field(repr=False)

    def check(self) -> None:
        self.fetch()

    def fetch(self) -> Secret:
        source = f"the environment variable {self.name}"
        if self.name not in self.environ:
            raise SecretError(f"{source} is not set")
        return Secret(usable(self.environ[self.name], source))
