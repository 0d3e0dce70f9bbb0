"""What the head of a call says by itself, whoever calls: read once for all calls that say the same.

A client sends the same headers with each of its calls, but for ids, lengths and its credential, on which nothing here
depends. What only one call says is read from its own headers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from extproc import surfaces
from extproc.cache import control
from extproc.headers import Headers
from extproc.model import Catalogue
from extproc.redaction.detector import Detector
from extproc.stages import forward, session
from extproc.surfaces import Face, Place, Surface

_READ = frozenset(
    (":method", ":path", "content-encoding", "content-type", "x-priority", "x-stainless-retry-count"),
)
_LISTS = frozenset((Surface.MODELS, Surface.MODEL_ITEM))
_MOST = 1024  # heads that are kept
_LONGEST = 4096  # bytes of one that is: what a caller chooses must not fill the memory


@dataclass(slots=True)
class Head:
    """`place` is None where the path is not served. `priority` and `retries`: as the client says."""

    method: str
    path: str  # without the query, and without the prefix for calls of low priority
    query: str
    low_route: bool
    place: Place | None
    face: Face
    retries: str
    priority: str | None
    media: str  # the content-type, without its parameters
    is_compressed: bool
    stripped: tuple[str, ...]
    asking: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    names_session: bool  # or has tags
    binds: bool  # some header can bind it to a backend
    asks_cache: bool
    has_own: bool  # of the headers that a provider sees some are each call's own
    clean: Detector | None = field(default=None, repr=False)  # that has found nothing in what a provider sees
    is_kept: bool = False


class Heads:
    """The heads that come again and again, as they are read by one configuration."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._picks: dict[tuple[str, ...], Callable[[Mapping[str, bytes]], object]] = {}
        self._known: dict[tuple[tuple[str, ...], object], Head] = {}

    def read(self, headers: Headers) -> Head:
        if headers.pairs is None:
            names = tuple(headers.first)
            pick = self._picks.get(names)
            known = None if pick is None else self._known.get((names, pick(headers.first)))
            if known is not None:
                return known
        return read(headers, self.catalogue)

    def keep(self, headers: Headers, head: Head) -> None:
        """Know it when it comes again. For heads of callers who are known, in which their redaction found nothing.

        One that names an item by its id does not come again.
        """
        if head.place is not None and head.place.item is not None:
            return
        names = tuple(headers.first)
        matters = [name for name in names if name in _READ or (forward.is_free(name) and name not in forward.OWN)]
        size = sum(map(len, names)) + sum([len(headers.first[name]) for name in matters])
        if headers.pairs is not None or size > _LONGEST or not matters:
            return
        if len(self._known) >= _MOST:
            self._known.clear()
            self._picks.clear()
        pick = self._picks[names] = itemgetter(*matters)
        self._known[names, pick(headers.first)] = head
        head.is_kept = True


def read(headers: Headers, catalogue: Catalogue) -> Head:
    given, _, query = (headers.get(":path") or "").partition("?")
    path, low_route = unprefixed(given, catalogue.low_prefix)
    place = surfaces.locate(path)
    face = surfaces.face_of(path) if place is None else place.face
    if place is not None and place.surface in _LISTS and "anthropic-version" in headers:
        face = Face.ANTHROPIC
    retries = headers.get("x-stainless-retry-count") or ""
    return Head(
        method=headers.get(":method") or "",
        path=path,
        query=query,
        low_route=low_route,
        place=place,
        face=face,
        retries=retries if retries.isdecimal() and len(retries) < 4 else "",
        priority=headers.get("x-priority"),
        media=(headers.get("content-type") or "").partition(";")[0].strip().lower(),
        is_compressed=(headers.get("content-encoding") or "identity").lower() != "identity",
        stripped=forward.stripped(headers),
        asking=forward.asking(headers),
        versions=forward.versions(headers),
        names_session=not session.headers(catalogue).isdisjoint(headers),
        binds=not catalogue.binding_headers.isdisjoint(headers),
        asks_cache=not control.HEADERS.isdisjoint(headers),
        has_own=not forward.OWN.isdisjoint(headers),
    )


def unprefixed(path: str, prefix: str) -> tuple[str, bool]:
    """The path without the prefix for calls of low priority, and whether it had it."""
    found = bool(prefix) and path.startswith(prefix + "/")
    return (path[len(prefix) :], True) if found else (path, False)
