"""One call from its head to its settlement, killed at every step: `python -m tests.support.call_kills FOLDER STEP`.

For each n a process of its own plays the call through the pipeline, with the counters in memory, and kills itself
before the n-th line of what decides, notes and writes it; the first that comes to its end is the last. Marks in
FOLDER/n.marks tell how far it was. Its request id is r-n.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import cast

from extproc import holds as holds_module
from extproc import pipeline as pipeline_module
from extproc.stages import charge, usage
from extproc.stores import spool
from extproc.stores.memory_counters import MemoryCounters
from extproc.telemetry import note, records
from tests.support import kill_points
from tests.support.holds import running, until
from tests.support.playbook import Policy, RequestBody, Reserved, ResponseBody, answer, request

_MODULES = (pipeline_module, holds_module, spool, charge, usage, note, records)
SAY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}).encode()
SAID = json.dumps(
    {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10},
    }
).encode()


def counters() -> MemoryCounters:
    return MemoryCounters(lambda: time.time_ns() // 1_000_000)


def lines(root: Path) -> int:
    """How many have been written of a spool."""
    return sum(path.read_bytes().count(b"\n") for path in root.glob("*.jsonl"))


async def play(folder: Path, point: int) -> None:
    mark = kill_points.marks(folder, point)
    root = folder / str(point)
    async with running(counters(), root) as holds:
        policy = Policy(holds=cast(Reserved, holds))
        pipeline = policy.pipeline
        call = pipeline.begin()
        await request(x_request_id=f"r-{point}").tell(pipeline, call)
        await RequestBody(SAY).tell(pipeline, call)
        await until(lambda: lines(root) == 1)
        mark("sent")
        head = answer(content_length=str(len(SAID)))
        await head.tell(pipeline, call)
        await ResponseBody(SAID).tell(pipeline, call)
        mark("answered")
        pipeline.end(call)
        await until(lambda: lines(root) == 2)
        mark("written")


def main() -> None:
    folder, step = Path(sys.argv[1]), int(sys.argv[2])
    kill_points.at_each(step, _MODULES, lambda point: asyncio.run(play(folder, point)))


if __name__ == "__main__":
    main()
