"""The script that makes a container's root and becomes its first process."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tests.support.pods.images import Image

Json = Mapping[str, Any]

_DEVICES = ("null", "zero", "full", "random", "urandom")
_DEFAULT_CAPABILITIES = (
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,"
    "net_bind_service,net_raw,sys_chroot,mknod,audit_write,setfcap"
)
"""Of container runtimes, for a container that drops none."""


@dataclass(frozen=True, slots=True)
class Mount:
    """`source` is a folder or a file of this machine."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Ground:
    """What a container's root is made of. `etc`: files that a kubelet writes there; `cgroups`: those that it joins."""

    image: Image
    folder: Path
    mounts: Sequence[Mount]
    etc: Mapping[str, str]
    cgroup_files: Mapping[str, str]
    cgroups: Sequence[Path]
    security: Json
    groups: Sequence[int]
    open_files: int | None


class NotRun(Exception):
    """What a kubelet answers with `CreateContainerConfigError`."""


def script(ground: Ground, command: Sequence[str], folder: str | None) -> str:
    """For `sh`, in a mount namespace and a PID namespace of the container's own."""
    root = str(ground.folder)
    lines = ["set -e", *(f"echo 0 > {group}/cgroup.procs" for group in ground.cgroups)]
    lines += _skeleton(root) + _system(ground, root)
    for mount in ground.mounts:
        lines += _bound(root, mount)
    if ground.security.get("readOnlyRootFilesystem"):
        lines += [f"mount -o remount,ro,bind {place}" for place in (root, f"{root}/usr/local")]
    limit = ["prlimit", f"--nofile={ground.open_files}"] if ground.open_files else []
    words = ["exec", "chroot", root, *limit, *identity(ground), *_in_folder(folder), *command]
    return "\n".join([*lines, shlex.join(words)])


def identity(ground: Ground) -> list[str]:
    """As whom, and with what rights, a process of the container runs. Raises NotRun."""
    security = ground.security
    user = security.get("runAsUser", ground.image.user)
    if security.get("runAsNonRoot") and user == 0:
        raise NotRun("container has runAsNonRoot and image will run as root")
    group = security.get("runAsGroup", user)
    words = ["setpriv", f"--reuid={user}", f"--regid={group}", "--inh-caps=-all"]
    words.append(f"--groups={','.join(map(str, ground.groups))}" if ground.groups else "--clear-groups")
    dropped = security.get("capabilities", {}).get("drop", [])
    kept = "" if "ALL" in dropped else "".join(f",+{name}" for name in _DEFAULT_CAPABILITIES.split(","))
    words.append(f"--bounding-set=-all{kept}")
    if security.get("allowPrivilegeEscalation") is False:
        words.append("--no-new-privs")
    return words


def _in_folder(folder: str | None) -> list[str]:
    return ["env", f"--chdir={folder}"] if folder else []


def _skeleton(root: str) -> list[str]:
    """A root with this machine's programs and nothing else of it."""
    return [
        f"mkdir -p {root}",
        f"mount -t tmpfs -o mode=755,size=64m root {root}",
        f"cd {root}",
        "mkdir -p usr etc proc dev run opt var/tmp sys/fs/cgroup root home",
        "mkdir -m 1777 tmp",
        "for name in bin sbin lib lib64; do ln -s usr/$name $name; done",
        "mount --bind -o ro /usr usr",
        "mount -t tmpfs -o mode=755,size=1m local usr/local",  # what is installed on this machine by hand is not there
        "mkdir usr/local/bin",
        "mount -t proc -o nosuid,nodev,noexec proc proc",
        "mount -t tmpfs -o mode=755,size=64k dev dev",
        "mkdir -m 1777 dev/shm",
        "mount -t tmpfs -o mode=1777,size=64m shm dev/shm",
        f"for name in {' '.join(_DEVICES)}; do touch dev/$name; mount --bind /dev/$name dev/$name; done",
        "ln -s /proc/self/fd dev/fd",
        "ln -s /proc/self/fd/0 dev/stdin; ln -s /proc/self/fd/1 dev/stdout; ln -s /proc/self/fd/2 dev/stderr",
        "ln -s ../run var/run",
    ]


def _system(ground: Ground, root: str) -> list[str]:
    lines = []
    written = {f"etc/{name}": text for name, text in ground.etc.items()}
    written |= {f"sys/fs/cgroup/{name}": text for name, text in ground.cgroup_files.items()}
    for name, text in written.items():
        lines.append(f"printf %s {shlex.quote(text)} > {name}")
    for name in ("ssl", "ld.so.cache", "alternatives"):
        lines += _bound(root, Mount(f"/etc/{name}", f"/etc/{name}", read_only=True))
    for target, source in ground.image.files.items():
        lines += _bound(root, Mount(str(source), target, read_only=True))
    return lines


def _bound(root: str, mount: Mount) -> list[str]:
    target, source = shlex.quote(f"{root}{mount.target}"), shlex.quote(mount.source)
    parent = shlex.quote(f"{root}{PurePosixPath(mount.target).parent}")
    made = f"if [ -d {source} ]; then mkdir -p {target}; else mkdir -p {parent}; [ -e {target} ] || : > {target}; fi"
    return [made, f"mount --bind {'-o ro ' if mount.read_only else ''}{source} {target}"]
