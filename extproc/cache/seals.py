"""Seals of what is kept in a store: whatever opens, somebody with the key has made, as this and for this place."""

import hmac

_MAC, _LENGTH = 32, 4
OVERHEAD = _MAC + 1
"""Bytes that a seal adds."""


def seal(kind: bytes, version: bytes, place: str, content: bytes, key: bytes) -> bytes:
    """A version byte, the HMAC-SHA256 over all else, the content. `place`: under what name it is kept."""
    return version + _mac(kind + version, place, content, key) + content


def unseal(kind: bytes, version: bytes, place: str, sealed: bytes, key: bytes) -> bytes | None:
    """The content; None where this is another kind, version or key, was kept elsewhere, or was changed."""
    if len(sealed) < OVERHEAD or not sealed.startswith(version):
        return None
    mac, content = sealed[len(version) : OVERHEAD], sealed[OVERHEAD:]
    return content if hmac.compare_digest(mac, _mac(kind + version, place, content, key)) else None


def _mac(kind: bytes, place: str, content: bytes, key: bytes) -> bytes:
    mac = hmac.new(key, kind, "sha256")
    name = place.encode("utf-8", "surrogatepass")
    mac.update(len(name).to_bytes(_LENGTH) + name)
    mac.update(content)
    return mac.digest()
