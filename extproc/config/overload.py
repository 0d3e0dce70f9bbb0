"""Settings of what a worker does when more calls come than it can serve."""

from datetime import timedelta

from pydantic import Field

from extproc.config.fields import Duration, Strict
from extproc.model import Capacity


class Overload(Strict):
    """When a worker refuses new calls (503, `overloaded`) so that those which it has are served in time."""

    open_calls: int = Field(
        default=5000, ge=1, le=1_000_000, description="calls that a worker may have open; one more is refused"
    )
    wait: Duration = Field(
        default=timedelta(milliseconds=300),
        le=timedelta(hours=1),
        description="while calls wait longer than that until a worker takes them up, it refuses them",
    )

    def compiled(self) -> Capacity:
        """As workers have it."""
        return Capacity(self.open_calls, self.wait.total_seconds())
