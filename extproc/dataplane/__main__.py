"""Render, with configurations on standard input, one JSON a line, so that what takes memory is gone when all runs.

`python -m extproc.dataplane CONFIG_DIR SECRETS_DIR RUN_DIR`: all files of one configuration, before Envoy starts.

`python -m extproc.dataplane CONFIG_DIR SECRETS_DIR RUN_DIR NEXT_DIR`: of the first configuration, the secrets, and in
NEXT_DIR what a running Envoy can take: clusters, routes, and `between.yaml`, these clusters with those that only the
further configurations have. Where Envoy's other files would change, the exit status is 3, and nothing is written.
"""

import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from extproc.imports import uncollected

with uncollected():
    from extproc.config.schema import Gateway

    from . import CredentialError, Layout, between, remove_stale_secrets, render, write, write_secrets

_NEEDS_RESTART = 3
_AT_START_ONLY = ("listeners.yaml", "bootstrap.yaml")
"""To replace the listener cuts live streams; the bootstrap Envoy reads once."""


def main() -> int:
    gc.disable()  # it ends before there is anything to collect
    gateway, *older = (Gateway.model_validate_json(line) for line in sys.stdin.buffer)
    config, secrets, run, *rest = sys.argv[1:]
    sockets = tuple(f"{run}/worker-{number}.sock" for number in range(gateway.workers))
    layout = Layout(config, secrets, sockets, f"{run}/admin.sock")
    files = render(gateway, layout)
    if rest and not _fits(files, Path(config)):
        return _NEEDS_RESTART
    try:
        write_secrets(gateway, os.environ, Path(secrets))
        if rest:
            write(_live(files) | {"between.yaml": between(gateway, older, layout)}, Path(rest[0]))
        else:
            write(files, Path(config))
            remove_stale_secrets(gateway, Path(secrets))
    except (CredentialError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command line
        return 1
    return 0


def _fits(files: Mapping[str, str], running: Path) -> bool:
    """Whether what Envoy does not take while it runs is as it has it."""
    return all((running / name).read_text(encoding="utf-8") == files[name] for name in _AT_START_ONLY)


def _live(files: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in files.items() if name not in _AT_START_ONLY}


if __name__ == "__main__":
    sys.exit(main())
