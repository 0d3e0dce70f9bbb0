"""The `/_fake/` paths by which a test steers an instance and asks what it saw. They are not recorded."""

import orjson

from loadtest.fake_llm import faults
from loadtest.fake_llm.answer import Answer
from loadtest.fake_llm.faults import FaultsError
from loadtest.fake_llm.instance import Instance

PREFIX = "/_fake/"


def answer(method: str, path: str, body: bytes, instance: Instance) -> Answer:
    """Do what a control call asks for; an empty object when there is nothing to show."""
    match method, path.removeprefix(PREFIX):
        case "GET", "calls":
            return Answer(body=orjson.dumps(instance.recorder.calls()))
        case "GET", "bills":
            return Answer(body=orjson.dumps(instance.recorder.bills()))
        case "DELETE", "calls":
            instance.recorder.reset()
        case "GET", "totals":
            return Answer(body=orjson.dumps(instance.recorder.totals()))
        case "POST", "script":
            return _script(body, instance)
        case "DELETE", "script":
            instance.script.clear()
        case "POST", "release":
            instance.let_go()
        case _:
            return Answer(404, b'{"error":"no such control path"}')
    return Answer(body=b"{}")


def _script(body: bytes, instance: Instance) -> Answer:
    try:
        steps = [faults.parse(step) for step in orjson.loads(body)]
    except (orjson.JSONDecodeError, FaultsError, TypeError) as problem:
        return Answer(400, orjson.dumps({"error": str(problem)}))
    instance.script.extend(steps)
    return Answer(body=orjson.dumps({"waiting": len(instance.script)}))
