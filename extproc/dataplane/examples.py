"""The rendered files of every example, checked in so that a reader can see them and `envoy -c` run them."""

import sys
from pathlib import Path

from ruamel.yaml import YAML

from extproc.config.schema import Gateway

from . import Layout, render, write


def example_files(root: Path, name: str) -> dict[str, str]:
    """What `render` gives for `examples/NAME/gateway.yaml`, with paths relative to the repository `root`."""
    gateway = Gateway.model_validate(YAML(typ="safe").load(root / "examples" / name / "gateway.yaml"))
    sockets = tuple(f"var/run/worker-{number}.sock" for number in range(gateway.workers))
    return render(gateway, Layout(f"envoy/{name}", "var/secrets", sockets, "var/run/admin.sock"))


def write_examples(root: Path) -> None:
    """Render every example into `envoy/` again."""
    for source in sorted((root / "examples").glob("*/gateway.yaml")):
        name = source.parent.name
        write(example_files(root, name), root / "envoy" / name)


if __name__ == "__main__":
    write_examples(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
