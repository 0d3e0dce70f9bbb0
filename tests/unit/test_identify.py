"""Who calls: every way to send a key, and every way to send none that counts."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.headers import Headers
from extproc.identity import keys
from extproc.identity.claims import IssuerPolicy
from extproc.identity.directory import Directory, Key
from extproc.limits.limit import Limit, Measure, Priority
from extproc.model import Caller, Team
from extproc.refusals import AMBIGUOUS_KEY, INVALID_KEY, MISSING_KEY, STOPPED, Kind, Refused
from extproc.stages.identify import Token, identify

OURS = keys.mint(b"1" * 32)
ANOTHER = keys.mint(b"2" * 32)
UNKNOWN = keys.mint(b"3" * 32)
DIRECTORY = Directory(
    keys={
        keys.fingerprint(OURS): Key("key_1", "app", "key_1"),
        keys.fingerprint(ANOTHER): Key("key_2", "other", "key_2"),
    }
)
NOW = 1_800_000_000.0
CALLER = Caller("key_1", "app", roles=frozenset({"developer"}), lineage="key_1")

Pairs = list[tuple[str, bytes]]


def _identify(*pairs: tuple[str, str]) -> Caller:
    return _identified([(name, value.encode("latin-1")) for name, value in pairs])


def _identified(pairs: Pairs, directory: Directory = DIRECTORY, token: Token = None, **issuers: IssuerPolicy) -> Caller:
    return identify(Headers.of(pairs), token, directory, issuers, NOW)


def _refusal(*pairs: tuple[str, str]) -> Refused:
    with pytest.raises(Refused) as refused:
        _identify(*pairs)
    return refused.value


def test_a_caller_is_as_its_key_and_team_are_now() -> None:
    def people(key: Key, team: Team) -> Directory:
        return Directory(keys={keys.fingerprint(OURS): key}, teams={"t": team})

    key, team = Key("key_1", "app", "key_1", team="t", user="ann"), Team("t", "a", "tier", users={"ann": "developer"})
    first = _identified([("authorization", OURS.encode())], people(key, team))
    assert _identified([("authorization", OURS.encode())], people(key, team)) is first
    assert _identified([("authorization", OURS.encode())], people(replace(key, name="new"), team)).name == "new"
    assert _identified([("authorization", OURS.encode())], people(key, replace(team, tier="gold"))).team != first.team
    for gone in (people(key, replace(team, users={})), people(replace(key, suspended=True), team)):
        with pytest.raises(Refused):
            _identified([("authorization", OURS.encode())], gone)


@pytest.mark.parametrize(
    "pairs",
    [
        [("authorization", f"Bearer {OURS}")],
        [("authorization", f"bearer {OURS}")],
        [("authorization", f"BEARER   {OURS} ")],
        [("authorization", OURS)],
        [("api-key", OURS)],
        [("x-api-key", OURS)],
        [("x-api-key", f"Bearer {OURS}")],
        [("authorization", f"Bearer {OURS}"), ("x-api-key", OURS), ("api-key", OURS)],
        [("authorization", f"Bearer {OURS}"), ("authorization", f"Bearer {OURS}")],
        [("authorization", f"Bearer {OURS}, Bearer {OURS}")],
        # A foreign credential beside ours is dropped, wherever it stands.
        [("authorization", "Bearer sk-ant-oat01-foreign"), ("x-api-key", OURS)],
        [("authorization", f"Bearer {OURS}"), ("x-api-key", "sk-ant-api03-foreign")],
        [("authorization", "Basic dXNlcjpwYXNz"), ("api-key", OURS)],
        # What SDKs send when no key is configured is no credential.
        [("authorization", "Bearer "), ("api-key", OURS)],
        [("authorization", "Bearer undefined"), ("x-api-key", OURS)],
        [("authorization", "null"), ("x-api-key", OURS)],
        # A mistyped Sluice key beside a good one is not another identity.
        [("authorization", f"Bearer {OURS[:-1]}"), ("x-api-key", OURS)],
    ],
)
def test_one_key_of_ours_names_the_caller(pairs: list[tuple[str, str]]) -> None:
    assert _identify(*pairs) == CALLER


def test_what_a_key_may_use_goes_with_its_caller() -> None:
    limits = (Limit("minute", Measure.TOKENS, 1000, "key/key_1", sliding=60_000),)
    key = Key("key_1", "app", "key_1", limits=limits, priority=Priority.LOW)
    directory = Directory(keys={keys.fingerprint(OURS): key})
    caller = _identified([("api-key", OURS.encode())], directory)
    assert (caller.limits, caller.priority) == (limits, Priority.LOW)
    assert (CALLER.limits, CALLER.priority) == ((), Priority.HIGH)


@pytest.mark.parametrize(
    ("pairs", "kind", "words"),
    [
        ([], MISSING_KEY, "Send your Sluice key"),
        ([("authorization", "")], MISSING_KEY, "Send your Sluice key"),
        ([("authorization", "Bearer")], MISSING_KEY, "Send your Sluice key"),
        ([("authorization", "Bearer ")], MISSING_KEY, "Send your Sluice key"),
        ([("authorization", "Bearer undefined"), ("api-key", "None")], MISSING_KEY, "Send your Sluice key"),
        ([("cookie", OURS), ("x-goog-api-key", OURS)], MISSING_KEY, "Send your Sluice key"),
        ([("proxy-authorization", f"Bearer {OURS}")], MISSING_KEY, "Send your Sluice key"),
        ([("authorization", "Basic dXNlcjpwYXNz")], INVALID_KEY, "not a Sluice key"),
        ([("authorization", "Bearer sk-proj-foreign")], INVALID_KEY, "not a Sluice key"),
        ([("authorization", f"Bearer {OURS[:-1]}")], INVALID_KEY, "mistyped or cut off"),
        ([("authorization", f"Bearer {OURS}x")], INVALID_KEY, "mistyped or cut off"),
        ([("authorization", f"Bearer {OURS.lower()}")], INVALID_KEY, "mistyped or cut off"),
        ([("authorization", f"Bearer {OURS}\n")], INVALID_KEY, "mistyped or cut off"),
        ([("authorization", f"Bearer {OURS}\x00")], INVALID_KEY, "mistyped or cut off"),
        ([("authorization", f"Bearer {OURS}\xa0")], INVALID_KEY, "mistyped or cut off"),
        ([("authorization", f"Bearer {UNKNOWN}")], INVALID_KEY, "unknown, expired, suspended or revoked"),
        ([("authorization", f"Bearer {OURS}"), ("x-api-key", ANOTHER)], AMBIGUOUS_KEY, "authorization and x-api-key"),
        ([("authorization", f"Bearer {OURS}"), ("x-api-key", UNKNOWN)], AMBIGUOUS_KEY, "authorization and x-api-key"),
        ([("authorization", f"Bearer {OURS}, Bearer {ANOTHER}")], AMBIGUOUS_KEY, "in authorization"),
        ([("authorization", f"Bearer {OURS},{ANOTHER}")], AMBIGUOUS_KEY, "in authorization"),
        ([("api-key", OURS), ("api-key", ANOTHER)], AMBIGUOUS_KEY, "in api-key"),
    ],
)
def test_anything_else_is_refused(pairs: list[tuple[str, str]], kind: Kind, words: str) -> None:
    refusal = _refusal(*pairs).refusal
    assert refusal.kind is kind
    assert words in refusal.message
    assert refusal.param is None


@pytest.mark.parametrize(
    "hostile",
    [
        "' OR 1=1 --",
        "sk-sluice-'; DROP TABLE keys; --" + "0" * 26,
        OURS.replace("s", "\u0455".encode().decode("latin-1")),  # a Cyrillic look-alike, as its bytes arrive
        OURS.translate({ord("0"): ord("O")}) + "O",
        "x" * 2**20,
        OURS * 20_000,
        f"Bearer {OURS}" + " " * 2**20,
        "," * 100_000,
        "Bearer " * 1000,
        "a," * 29_000,
        ",".join(f"k{number}" for number in range(9)),
    ],
    ids=[
        "sql",
        "sql with our prefix",
        "look-alike",
        "O for 0",
        "1 MB",
        "1 MB of ours",
        "1 MB behind",
        "commas",
        "bearers",
        "60 KB of commas",
        "nine parts",
    ],
)
def test_hostile_credentials_are_refused(hostile: str) -> None:
    refused = _refusal(("authorization", hostile))
    assert refused.refusal.kind in (INVALID_KEY, MISSING_KEY)
    assert refused.refusal.status == 401


VALUES = st.binary(max_size=80) | st.sampled_from([OURS.encode(), f"Bearer {OURS},".encode(), ANOTHER[:-1].encode()])
HEADERS = st.lists(st.tuples(st.sampled_from(["authorization", "api-key", "x-api-key", "cookie"]), VALUES), max_size=5)


@given(HEADERS)
@settings(deadline=None)
def test_whatever_is_sent_only_a_whole_known_key_is_let_in(pairs: Pairs) -> None:
    sent = b" ".join(value for name, value in pairs if name != "cookie")
    in_authorization = {
        part.strip(" \t").removeprefix("Bearer").strip(" \t")
        for name, value in pairs
        if name == "authorization"
        for part in value.decode("latin-1").split(",")
    }
    if len(in_authorization - {""}) > 1:
        with pytest.raises(Refused):
            _identified(pairs)
    elif OURS.encode() not in sent:
        with pytest.raises(Refused) as refused:
            _identified(pairs)
        assert refused.value.refusal.kind in (MISSING_KEY, INVALID_KEY)
    else:
        assert _identified(pairs) == CALLER


@given(st.text(alphabet="0123456789ABCDEFabcdef-_'\"; %", min_size=12, max_size=60))
def test_no_refusal_quotes_what_was_sent(secret: str) -> None:
    for pairs in (
        [("authorization", f"Bearer {secret}")],
        [("x-api-key", keys.PREFIX + secret)],
        [("authorization", OURS), ("api-key", ANOTHER)],
        [("authorization", UNKNOWN), ("api-key", secret)],
    ):
        refused = _refusal(*pairs)
        told = f"{refused} {refused.refusal}"
        assert secret not in told
        for key in (OURS, ANOTHER, UNKNOWN):
            assert key not in told
            assert key[-8:] not in told


class Asked(dict[bytes, Key]):
    """Keys, and which fingerprints were looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def get(self, key: bytes, default: object = None) -> None:  # type: ignore[override]
        self.asked.append(key)


def test_a_foreign_credential_is_never_looked_up_and_of_ours_only_the_digest() -> None:
    known = Asked()
    for foreign in ("sk-proj-1", "' OR 1=1", "sk-sluic", "x" * 40_000, OURS * 200):
        with pytest.raises(Refused):
            _identified([("authorization", foreign.encode())], Directory(keys=known))
    assert set(known.asked) <= {keys.fingerprint(OURS * 200)}
    known.asked.clear()
    with pytest.raises(Refused):
        _identified([("authorization", OURS.encode()), ("api-key", b"sk-proj-1")], Directory(keys=known))
    assert set(known.asked) == {keys.fingerprint(OURS)}


@pytest.mark.parametrize("stopped", ["key_1", "key_2", "key_9"])
def test_a_stopped_key_is_stopped_with_its_predecessors_and_successors(stopped: str) -> None:
    """Both keys of a rotation have the lineage of the first."""
    rotated = Directory(
        keys={
            keys.fingerprint(OURS): Key("key_1", "app", "key_1"),
            keys.fingerprint(ANOTHER): Key("key_2", "app", "key_1"),
        },
        stops=frozenset({("key", stopped)}),
    )
    for key in (OURS, ANOTHER):
        pairs = [("authorization", key.encode())]
        if stopped != "key_1":
            assert _identified(pairs, rotated).name == "app"
            continue
        with pytest.raises(Refused) as refused:
            _identified(pairs, rotated)
        assert refused.value.refusal.kind is STOPPED


def test_a_header_of_many_parts_is_not_read_to_its_end() -> None:
    """Reading it would cost the event loop 20 ms, and it comes from anybody."""
    joined = ",".join(["x"] * 8 + [OURS])
    assert _refusal(("authorization", joined)).refusal.kind is INVALID_KEY
    assert _identify(("api-key", ",".join([""] * 7 + [OURS]))) == CALLER
