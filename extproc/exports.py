"""What a worker tells of its calls: records on standard output, and what goes to collectors."""

import asyncio
import logging
import os
from collections.abc import Callable

from extproc.config.fields import LocalSecret
from extproc.config.schema import Gateway
from extproc.config.traces import Exporting
from extproc.telemetry import genai, logs, metrics, traces
from extproc.telemetry.logs import Both, Journal, Lines
from extproc.telemetry.otlp import Endpoint, Outbox
from extproc.telemetry.records import RecordWriter
from extproc.telemetry.traces import Traces


class Exports:
    """Records, and traces and logs by OpenTelemetry; of what is not configured nothing is imported."""

    def __init__(self, gateway: Gateway) -> None:
        """Lines that are logged from now on are taken."""
        told = gateway.telemetry
        self._records = RecordWriter()
        self._spans = None if told.traces is None else _spans(told.traces, told.genai)
        self._lines = None if told.logs is None else _lines(told.logs)
        self.traces = None
        if self._spans is not None and told.traces is not None:
            self.traces = Traces(self._spans, told.traces.sample)
        self.journal: Journal = self._records
        if self._lines is not None and told.logs is not None and told.logs.calls:
            self.journal = Both(self._records, self._lines)

    def publish(self) -> None:
        """Tell the metrics what was dropped so far."""
        metrics.reach(metrics.RECORDS_DROPPED, self._records.dropped)
        for what, outbox in (("traces", self._spans), ("logs", self._lines)):
            if outbox is not None:
                metrics.reach(metrics.TELEMETRY_DROPPED.labels(what), outbox.dropped)

    async def close(self) -> None:
        """Write and send what waits; seconds at most."""
        waiting = [part for part in (self._records, self._spans, self._lines) if part is not None]
        await asyncio.gather(*(asyncio.to_thread(part.close) for part in waiting))
        self.publish()


def tell_log(gateway: Gateway) -> Callable[[], None]:
    """Send what this process logs to where logs go, if anywhere. Returns what ends that, within seconds."""
    if gateway.telemetry.logs is None:
        return lambda: None
    return _lines(gateway.telemetry.logs).close


def _spans(to: Exporting, names: str) -> Outbox[traces.Item]:
    from extproc.adapter.otlp.spans import Spans, rejected  # 40 ms of a start that others need not spend

    return Outbox(_endpoint(to, "/v1/traces"), Spans(genai.CONVENTIONS[names]).request, rejected=rejected)


def _lines(to: Exporting) -> Outbox[logs.Item]:
    from extproc.adapter.otlp.lines import Lines as Requests  # as above
    from extproc.adapter.otlp.lines import rejected

    outbox: Outbox[logs.Item] = Outbox(_endpoint(to, "/v1/logs"), Requests().request, rejected=rejected)
    logging.getLogger().addHandler(Lines(outbox))
    return outbox


def _endpoint(to: Exporting, signal: str) -> Endpoint:
    sources = dict(to.headers)
    return Endpoint(to.endpoint + signal, lambda: {name: secret(source) for name, source in sources.items()})


def secret(source: LocalSecret) -> str:
    """As it is now. Raises OSError, KeyError."""
    if source.file is not None:
        return source.file.read_text(encoding="latin-1").strip()
    return os.environ[source.env or ""]
