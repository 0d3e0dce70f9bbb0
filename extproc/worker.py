"""One policy worker process: `python -m extproc.worker SOCKET NUMBER`, configuration as JSON on standard input.

Started by the supervisor, which has loaded and checked the configuration, so that all workers serve the
same one. Standard output carries access records, one JSON line each; standard error carries the log.
"""

import logging
import sys

import uvloop

from extproc.app import run_worker
from extproc.config.schema import Gateway


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    gateway = Gateway.model_validate_json(sys.stdin.buffer.read())
    uvloop.run(run_worker(gateway, sys.argv[1], first=sys.argv[2] == "0"))


if __name__ == "__main__":
    main()
