"""SDS files without Envoy's types, which take 28 MB that the supervisor does not want to carry."""

import json
import os
import tempfile
from pathlib import Path

_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def text(secret: str, value: str) -> str:
    """A discovery response with one secret, as JSON, which is YAML. Of an empty one Envoy says that it has none."""
    resource = {"@type": _TYPE, "name": secret, "generic_secret": {"secret": {"inline_string": value}}}
    return json.dumps({"resources": [resource]}) + "\n"


def replace(path: Path, content: str) -> None:
    """Put the text there by rename, readable by its owner alone. Raises OSError."""
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600 from birth
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
