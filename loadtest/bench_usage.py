"""Where the usage of an answer is read: by the policy, which sees each piece, or by Envoy, which tells it at the end.

`python -m loadtest.bench_usage`: the null policy with STREAMED bodies, and beside it one that is told of no body, but
gets from Envoy's `ai_protocol_manager` one message with the usage after the answer. Envoy calls that filter work in
progress and keeps it outside its threat model, so that this is a measurement and no way of the gateway's: see
docs/decisions/0042-cost-per-call.md. In turns, as in loadtest.turns.
"""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import uvloop
from ruamel.yaml import YAML

from extproc import contract
from extproc.adapter import codec
from extproc.adapter.access_log import AccessLog
from extproc.adapter.external_processor import Stream
from extproc.adapter.server import Server
from extproc.interpreter import python
from loadtest import null_extproc
from loadtest.bench import BenchError, Plan, measure
from loadtest.figures import Ratio, Sample
from loadtest.setups import BACKEND, Instead, provider, setup
from loadtest.turns import Turns, main
from protos.ext_proc_pb2 import HeadersResponse, ProcessingResponse

TURNS = Turns(
    {"B": "each piece to the null policy", "told": "read by Envoy, told at the end"},
    (
        Ratio("ext_proc CPU per call, told over pieces", "told", "B", lambda sample: sample.policy_us),
        Ratio("Envoy CPU per call, told over pieces", "told", "B", lambda sample: sample.envoy_us),
        Ratio("messages per call, told over pieces", "told", "B", lambda sample: sample.messages),
        Ratio("calls/s, told over pieces", "told", "B", lambda sample: sample.calls_per_second),
    ),
)

_USAGE = "envoy.ai.token_usage"
_READS_USAGE = {
    "name": "envoy.filters.http.ai_protocol_manager",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager",
        "response_handling": {"token_usage": {"usage_signal": "SYNTHESIZE_TRAILERS"}},
    },
}


def told_at_the_end(files: Mapping[str, str]) -> dict[str, str]:
    """Envoy's files, changed so that the policy sees no body of an answer, but its usage behind it."""
    trees = {name: YAML().load(text) for name, text in files.items()}
    for listener in trees["listeners.yaml"]["resources"]:
        filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
        for policy in (one for one in tuple(filters) if one["name"] == contract.POLICY_FILTER):
            policy["typed_config"]["metadata_options"]["forwarding_namespaces"] = {"typed": [_USAGE]}
            filters.insert(filters.index(policy) + 1, _READS_USAGE)  # of an answer it comes before the policy
    for route in trees["routes.yaml"]["resources"][0]["virtual_hosts"][0]["routes"]:
        settings = route.get("typed_per_filter_config", {}).get(contract.POLICY_FILTER, {})
        if "overrides" in settings:
            settings["overrides"]["processing_mode"]["response_trailer_mode"] = "SEND"
    return {name: _dumped(tree) for name, tree in trees.items()}


def _dumped(tree: Any) -> str:
    out = StringIO()
    YAML().dump(tree, out)
    return out.getvalue()


class _Told(null_extproc.Null):
    """The null policy of an answer whose body it is not told of. A trailer without usage fails the stream."""

    def __init__(self) -> None:
        super().__init__(BACKEND)
        head = ProcessingResponse(response_headers=HeadersResponse()).SerializeToString()
        self._replies = {
            **self._replies,
            "response_headers": head,
            "response_trailers": codec.PROCEED_RESPONSE_TRAILERS,
        }
        self._told = _USAGE.encode()

    async def process(self, _requests: object, stream: Stream) -> None:
        while message := await stream.read():
            kind = message.WhichOneof("request") or ""
            if kind == "response_trailers" and self._told not in message.metadata_context:
                raise ValueError("Envoy told no usage")
            await stream.write(self._replies[kind])


async def _serve(socket: str) -> None:
    server = Server(socket, _Told(), AccessLog(null_extproc.Nowhere()), 8 * 2**20)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await server.start()
    await stopping.wait()
    await server.stop(0)


def run(plan: Plan) -> dict[str, Any]:
    """The report. Raises BenchError, StartError."""
    with tempfile.TemporaryFile() as records, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
        child, port = provider(stack)
        fake = psutil.Process(child.pid)
        instead = Instead(python("loadtest.bench_usage", "--policy"), told_at_the_end)
        setups = {
            "B": setup(stack, "B", folder / "B", port, records),
            "told": setup(stack, "told", folder / "told", port, records, instead=instead),
        }

        def measured(way: str, stream: bool) -> Sample:
            return measure(plan, setups[way], fake, stream)

        rounds = TURNS.rounds(plan.rounds, measured)
    if not all(done["told"].messages <= 4 for done in rounds["sse"]):
        raise BenchError("the policy was told of bodies; the figures would mislead")
    return {**asdict(plan), "cores": os.cpu_count(), "workloads": TURNS.report(rounds)}


def _text(found: Mapping[str, Any]) -> str:
    return TURNS.text(found, "nothing: neither policy writes any")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--policy"]:
        uvloop.run(_serve(sys.argv[2]))
    else:
        main("bench_usage", __doc__, run, _text)
