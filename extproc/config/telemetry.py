"""What the gateway tells of itself: traces, logs, and facts beside Envoy's."""

from typing import Literal

from pydantic import Field

from extproc.config.access_log import AccessLog
from extproc.config.alerts import Alerts
from extproc.config.fields import Strict
from extproc.config.traces import Logs, Traces


class Telemetry(Strict):
    """What the gateway tells of itself, beside its metrics."""

    genai: Literal["1.36", "1.37", "1.41"] = Field(
        default="1.41",
        description="version of OpenTelemetry's conventions for generative AI whose names metrics and spans have",
    )
    access_log: AccessLog | None = Field(default=None, description="Envoy's log of calls; absent: none")
    server_timing: bool = Field(
        default=False,
        description="for development: answers say in server-timing for how long each stage of the call took",
    )
    traces: Traces | None = Field(default=None, description="traces by OpenTelemetry; absent: none")
    logs: Logs | None = Field(default=None, description="logs by OpenTelemetry; absent: none")
    alerts: Alerts = Field(default=Alerts(), description="messages to people when something is wrong, or nearly")
