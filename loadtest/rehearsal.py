"""`make loadtest`: locust against a gateway of this machine, which it starts, or against any by its URL.

`python -m loadtest.rehearsal` starts `sluice up` with examples/loadtest/gateway.yaml on free ports, mints keys, puts
the load on for a minute, prints a summary and leaves locust's files in var/loadtest/. With `--url` and `--keys` the
gateway is one that runs already. Words after `--` go to locust as they are.

Status: 0 where all went as it should; 1 where calls failed; 2 where the load could not be put on.
"""

import argparse
import csv
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from extproc.cli.key_limits import limits
from extproc.config import loader
from extproc.identity import keys
from extproc.stores import sql
from extproc.stores.ports import ChangeSet, KeySpec, MintedKey
from loadtest.setups import ROOT, StartError, free_port, is_ready, start

CONFIG = "examples/loadtest/gateway.yaml"
_TENANTS = 3
_POOR = "tokens=3000/minute"
_NOTED = ("TTFT", "GAP")
_FAKE_PACE = 60.0  # tokens a second of the fake's streams: somewhat faster than the readers
_COLUMNS = {"calls": 9, "failed": 8, "p50 ms": 9, "p95 ms": 9, "p99 ms": 9, "calls/s": 9}


@dataclass(frozen=True, slots=True)
class Place:
    """A gateway that runs: its URL, a file with keys for it, whether the fake provider is behind it, and the process id
    of `sluice up` and the port of its metrics where it was started here."""

    url: str
    keys: Path
    is_fake: bool = False
    pid: int = 0
    metrics: int = 0


# ---- the gateway ---------------------------------------------------------------------------------------


@contextmanager
def gateway(config: str = CONFIG, more: Mapping[str, str] | None = None) -> Iterator[Place]:
    """A gateway of its own with keys, that ends with the block. `more`: settings as variables. Raises StartError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-load-")))
        port, environ = free_port(), {**os.environ, **_moved(folder), **(more or {})}
        environ["SLUICE__LISTENER__PORT"] = str(port)
        file = folder / "keys"
        file.write_text(_minted(config, environ))
        log = stack.enter_context((folder / "log").open("w+b"))
        command = [sys.executable, "-m", "extproc.cli", "up", "--json", "--config", config]
        child = start(stack, command, env=environ, stdout=log, stderr=subprocess.STDOUT)
        if not is_ready(port, child):
            log.seek(0)
            raise StartError(f"the gateway does not answer:\n{log.read()[-4000:].decode(errors='replace')}")
        yield Place(f"http://127.0.0.1:{port}", file, True, child.pid, int(environ["SLUICE__METRICS__PORT"]))


def _moved(folder: Path) -> dict[str, str]:
    """Its files and ports away from those of a gateway that may run beside it."""
    fake = free_port()
    url = f"http://127.0.0.1:{fake}"
    return {
        "SLUICE__STATE_DIR": str(folder / "var"),
        "SLUICE__STORES__DATABASE": f"sqlite:///{folder}/sluice.db",
        "SLUICE__METRICS__PORT": str(free_port()),
        "SLUICE__FAKE_BACKEND__PORT": str(fake),
        "SLUICE__BACKENDS__FAKE__URL": url,
        "SLUICE__BACKENDS__BROKEN__URL": url,
    }


def _minted(config: str, environ: Mapping[str, str]) -> str:
    """Keys in the gateway's database, as a file has them."""
    configured = loader.load(ROOT / config, environ)
    specs = [KeySpec(f"load-{number}") for number in range(_TENANTS)]
    specs.append(KeySpec("load-poor", limits=limits(configured, (_POOR,))))
    texts = [keys.mint(secrets.token_bytes(32)) for _ in specs]
    made = [MintedKey(spec, keys.digest(key), keys.hint(key)) for spec, key in zip(specs, texts, strict=True)]
    sql.upgrade(configured.stores.database)
    with closing(sql.open_stores(configured.stores.database)) as stores:
        stores.directory.apply(ChangeSet(keys_minted=tuple(made)), stores.directory.revision())
    return "".join(f"{key}{' poor' * spec.name.endswith('poor')}\n" for spec, key in zip(specs, texts, strict=True))


# ---- the load ------------------------------------------------------------------------------------------


def locust(place: Place, options: argparse.Namespace, prefix: Path) -> int:
    """Put the load on, in a process of its own; its status. Files begin with `prefix`."""
    command = [
        *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest/locustfile.py"), "--headless", "--only-summary"),
        *("--host", place.url, "--keys-file", str(place.keys), "--mix", options.mix),
        *("--users", str(options.users), "--spawn-rate", str(options.spawn_rate), "--run-time", options.time),
        *("--stop-timeout", "30", "--csv", str(prefix), "--html", f"{prefix}.html"),
        *(("--fake-pace", str(_FAKE_PACE)) if place.is_fake else ()),
        *(("--processes", str(options.processes)) if options.processes > 1 else ()),
        *options.more,
    ]
    with Path(f"{prefix}.log").open("wb") as log:
        return subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode


def summary(file: Path) -> str:
    """The table for people, from what locust wrote: calls first, then what streams felt like."""
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    calls = [row for row in rows if row["Type"] not in _NOTED]
    noted = [row for row in rows if row["Type"] in _NOTED]
    width = max(len(_title(row)) for row in rows)
    head = " " * width + "".join(name.rjust(room) for name, room in _COLUMNS.items())
    lines = [head, *(_line(row, width) for row in calls)]
    if noted:
        lines += [
            "",
            "Streams: time to the first token (TTFT), and what readers waited for each later one (GAP), in ms",
        ]
        lines += [_line(row, width) for row in noted]
    return "\n".join(lines)


def _title(row: Mapping[str, str]) -> str:
    return "all" if row["Name"] == "Aggregated" else f"{row['Type']} {row['Name']}"


def _line(row: Mapping[str, str], width: int) -> str:
    values = (row["Request Count"], row["Failure Count"], row["50%"], row["95%"], row["99%"])
    cells = [*values, f"{float(row['Requests/s']):.1f}"]
    return _title(row).ljust(width) + "".join(
        cell.rjust(room) for cell, room in zip(cells, _COLUMNS.values(), strict=True)
    )


def _failures(file: Path) -> list[str]:
    with file.open(newline="") as text:
        return [
            f"{row['Occurrences']:>6} x {row['Method']} {row['Name']}: {row['Error']}" for row in csv.DictReader(text)
        ]


def run(place: Place, options: argparse.Namespace) -> int:
    """Load, and tell; the status."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / time.strftime("%Y%m%d-%H%M%S")
    print(f"{options.users} users, mix {options.mix}, {options.time}: {place.url}", flush=True)
    status = locust(place, options, prefix)
    stats = Path(f"{prefix}_stats.csv")
    if not stats.exists() or len(stats.read_text().splitlines()) < 2:  # no call was made: its log says why
        print(Path(f"{prefix}.log").read_text()[-4000:], file=sys.stderr)
        return 2
    print(summary(stats))
    failures = _failures(Path(f"{prefix}_failures.csv"))
    print("\n".join(["", "Failed:", *failures] if failures else ["", "No call failed."]))
    print(f"Files: {prefix}.html, _stats.csv, _failures.csv, .log")
    return 1 if status else 0


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options; what stands after `--` in `more`."""
    words = list(given)
    more = words[words.index("--") + 1 :] if "--" in words else []
    own = words[: words.index("--")] if "--" in words else words
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.rehearsal", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--url", default="", help="of a gateway that runs; default: one is started")
    parser.add_argument("--keys", default="", help="file with keys for it, one a line, or `KEY poor`")
    parser.add_argument("--config", default=CONFIG, help="of the gateway that is started")
    parser.add_argument("--mix", default="everyday")
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--spawn-rate", type=float, default=10.0, help="users a second")
    parser.add_argument("--time", default="60s", help="as locust writes it: 90s, 10m")
    parser.add_argument("--processes", type=int, default=1, help="of locust, one for each core that it may have")
    parser.add_argument("--out", default="var/loadtest", help="folder for locust's files")
    options = parser.parse_args(own)
    if bool(options.url) != bool(options.keys):
        parser.error("--url and --keys go together")
    options.more = more
    return options


def main() -> None:
    options = parsed(sys.argv[1:])
    if find_spec("locust") is None:
        sys.exit("locust is not installed: `make loadtest` does it")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    try:
        if options.url:
            sys.exit(run(Place(options.url.rstrip("/"), Path(options.keys)), options))
        with gateway(options.config) as place:
            status = run(place, options)
    except StartError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
    sys.exit(status)


if __name__ == "__main__":
    main()
