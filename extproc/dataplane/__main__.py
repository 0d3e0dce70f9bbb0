"""`python -m extproc.dataplane CONFIG_DIR SECRETS_DIR RUN_DIR`: render, with the configuration on standard input.

Used by `sluice up`, so that what takes memory to render is gone when the gateway runs.
"""

import os
import sys
from pathlib import Path

from extproc.config.schema import Gateway

from . import CredentialError, Layout, render, write, write_secrets


def main() -> int:
    gateway = Gateway.model_validate_json(sys.stdin.buffer.read())
    config, secrets, run = sys.argv[1:4]
    sockets = tuple(f"{run}/worker-{number}.sock" for number in range(gateway.workers))
    try:
        write_secrets(gateway, os.environ, Path(secrets))
        write(render(gateway, Layout(config, secrets, sockets, f"{run}/admin.sock")), Path(config))
    except (CredentialError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command line
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
