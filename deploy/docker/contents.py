"""What is in the image: the steps of build.sh that take more than a shell.

`contents.py split LOCK FOLDER`: the lock as two, `tools.txt` (what builds our own wheel) and `packages.txt`.
`contents.py records LIB`: takes what was brought for elsewhere, such as scripts, out of packages' lists of files.
`contents.py bill ROOT REPORT`: adds what pip reports to the bill of materials in `ROOT/sbom.json`, CycloneDX 1.6.
"""

import csv
import hashlib
import io
import json
import re
import sys
import uuid
from importlib.metadata import Distribution, distributions
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOOLS = frozenset({"setuptools", "wheel"})
"""What builds our wheel, with what they need themselves."""
_OF_TOOLS = TOOLS | {"packaging"}
OWN = "sluice-gateway"

_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
_LONGEST_LICENCE = 80  # some packages put its whole text where its name should stand


def split(lock: str) -> tuple[str, str]:
    """The entries of the tools and those of the packages, each with its hashes."""
    starts = [*(found.start() for found in _PINNED.finditer(lock)), len(lock)]
    tools: list[str] = []
    packages: list[str] = []
    for start, end in pairwise(starts):
        entry = lock[start:end]
        name = entry.partition("==")[0]
        if name in _OF_TOOLS:
            tools.append(entry)
        if name not in TOOLS:
            packages.append(entry)
    return "".join(tools), "".join(packages)


def keep_records(lib: Path) -> None:
    """Every RECORD lists the files that are there."""
    for record in lib.glob("*.dist-info/RECORD"):
        rows = [*csv.reader(io.StringIO(record.read_text("utf-8")))]
        kept = [row for row in rows if not row[0].startswith("../")]
        if kept != rows:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(kept)
            record.write_text(text.getvalue(), "utf-8")


def _sha256(archive: dict[str, Any]) -> str:
    """Of an archive; of one that lies on this machine a pip before 23.1 does not tell it."""
    told = archive["archive_info"].get("hashes", {}).get("sha256")
    return told or hashlib.sha256(Path(unquote(urlsplit(archive["url"]).path)).read_bytes()).hexdigest()


def billed(bill: dict[str, Any], lib: Path, report: dict[str, Any]) -> dict[str, Any]:
    """The bill with what was installed last; `bill` may be empty. Of the archives it has the hashes."""
    found = {normal(one.name): one for one in distributions(path=[str(lib)])}
    components = {component["name"]: component for component in bill.get("components", ())}
    about = bill.get("metadata", {})
    for entry in report["install"]:
        name = normal(entry["metadata"]["name"])
        component = _component(found[name], _sha256(entry["download_info"]))
        if name == OWN:
            about = {"component": {**component, "type": "application"}}
        else:
            components[name] = component
    listed = [components[name] for name in sorted(components)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([about, listed]))}",
        "version": 1,
        "metadata": about,
        "components": listed,
    }


def normal(name: str) -> str:
    """A distribution's name as lock files write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _component(one: Distribution, sha256: str) -> dict[str, Any]:
    name = normal(one.name)
    purl = f"pkg:pypi/{name}@{one.version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": one.version,
        "licenses": _licences(one),
        "hashes": [{"alg": "SHA-256", "content": sha256}],
        "purl": purl,
    }


def _licences(one: Distribution) -> list[dict[str, Any]]:
    """By the newest of the ways in which a package may say it."""
    if expressions := one.metadata.get_all("License-Expression"):
        return [{"expression": expressions[0]}]
    named = (one.metadata.get_all("License") or [""])[0].strip()
    if named and "\n" not in named and len(named) <= _LONGEST_LICENCE:
        return [{"license": {"name": named}}]
    classifiers = [line for line in one.metadata.get_all("Classifier") or () if line.startswith("License ::")]
    return [{"license": {"name": line.rpartition(" :: ")[2]}} for line in classifiers]


def main(verb: str, *words: str) -> None:
    first, *more = map(Path, words)
    if verb == "split":
        tools, packages = split(first.read_text("utf-8"))
        (more[0] / "tools.txt").write_text(tools, "utf-8")
        (more[0] / "packages.txt").write_text(packages, "utf-8")
    elif verb == "records":
        keep_records(first)
    else:
        file = first / "sbom.json"
        before = json.loads(file.read_text("utf-8")) if file.exists() else {}
        bill = billed(before, first / "lib", json.loads(more[0].read_text("utf-8")))
        file.unlink(missing_ok=True)  # what else is linked to it stays as it is
        file.write_text(json.dumps(bill, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
