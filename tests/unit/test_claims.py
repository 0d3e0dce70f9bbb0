"""What a verified token says of its bearer: issuers' own forms, what must not pass, and shapes that nobody foresaw."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.identity.claims import BadClaims, Bearer, IssuerPolicy, Rule, VerifiedToken, bearer, claim, folded, texts

NOW = 1_800_000_000.0
TENANT = "6f1a2b3c-0000-4000-8000-00000000c0de"
ENTRA = IssuerPolicy("entra", user="preferred_username", require={"tid": frozenset({TENANT})})
ENTRA_V1 = IssuerPolicy("entra-v1", user="upn", client="appid")
PLAIN = IssuerPolicy("plain", client="client_id")

Json = dict[str, Any]


def _bearer(claims: Json, policy: IssuerPolicy = PLAIN, header: Json | None = None) -> Bearer:
    return bearer(VerifiedToken(policy.name, claims, header or {"alg": "RS256"}), policy, NOW)


def _problem(claims: Json, policy: IssuerPolicy = PLAIN, header: Json | None = None) -> str:
    with pytest.raises(BadClaims) as problem:
        _bearer(claims, policy, header)
    return str(problem.value)


def user_v2(**changes: Any) -> Json:
    """A user's access token of Entra, version 2.0, as Microsoft documents it."""
    return {
        "ver": "2.0",
        "tid": TENANT,
        "oid": "00000000-0000-0000-aaaa-000000000001",
        "sub": "pairwise-of-ann",
        "preferred_username": "Ann@Example.com",
        "azp": "portal",
        "azpacr": "0",
        "scp": "use",
        **changes,
    }


def app_v2(**changes: Any) -> Json:
    """An application's own token of Entra, version 2.0: its subject is its own object."""
    return {"ver": "2.0", "tid": TENANT, "oid": "object", "sub": "object", "azp": "batch", "azpacr": "1", **changes}


# ---- whom it names ----


@pytest.mark.parametrize(
    ("claims", "policy", "user", "client"),
    [
        (user_v2(), ENTRA, "ann@example.com", None),
        (user_v2(idtyp="user"), ENTRA, "ann@example.com", None),
        (app_v2(), ENTRA, None, "batch"),
        (app_v2(idtyp="app"), ENTRA, None, "batch"),
        (app_v2(idtyp="app", sub="another"), ENTRA, None, "batch"),
        # What says `user` is a user's, whatever else an application's token would look like.
        (app_v2(idtyp="user", preferred_username="ann@example.com"), ENTRA, "ann@example.com", None),
        (app_v2(scp="use", preferred_username="ann@example.com"), ENTRA, "ann@example.com", None),
        ({"ver": "1.0", "tid": TENANT, "oid": "o", "sub": "s", "upn": "a@b", "appid": "p"}, ENTRA_V1, "a@b", None),
        ({"ver": "1.0", "tid": TENANT, "oid": "o", "sub": "o", "appid": "batch-v1"}, ENTRA_V1, None, "batch-v1"),
        # RFC 9068: a client_credentials token has the client for its subject.
        ({"sub": "nightly", "client_id": "nightly"}, PLAIN, None, "nightly"),
        ({"sub": "ann", "client_id": "portal"}, PLAIN, "ann", None),
        ({"sub": "ann"}, PLAIN, "ann", None),
        # Only Entra's `oid` makes a subject an application.
        ({"sub": "ann", "oid": "ann", "client_id": "portal"}, PLAIN, "ann", None),
    ],
)
def test_a_token_is_of_a_user_or_of_an_application(
    claims: Json, policy: IssuerPolicy, user: str | None, client: str | None
) -> None:
    named = _bearer(claims, policy)
    assert (named.user, named.client) == (user, client)
    assert (named.issuer, named.subject) == (policy.name, claims["sub"])


@pytest.mark.parametrize("missing", [None, "", ["ann@example.com"], {"a": 1}, 7, True])
def test_a_user_without_a_name_is_nobody(missing: object) -> None:
    assert "preferred_username" in _problem(user_v2(preferred_username=missing), ENTRA)


@pytest.mark.parametrize("subject", [None, "", 7, ["ann"], {}])
def test_who_has_no_subject_is_known_by_the_user_or_application(subject: object) -> None:
    assert _bearer(user_v2(sub=subject), ENTRA).subject == "Ann@Example.com"
    assert _bearer(app_v2(sub=subject, idtyp="app"), ENTRA).subject == "batch"


def test_an_application_that_is_not_named_is_nobody() -> None:
    assert "names nobody" in _problem(app_v2(idtyp="app", sub=None, azp=None), ENTRA)


def test_mail_addresses_differ_by_case_alone_for_no_user() -> None:
    assert _bearer({"sub": "ANN@Example.com"}).user == _bearer({"sub": "Ann@example.COM"}).user == "ann@example.com"
    assert _bearer({"sub": "Ärger@b"}).user == "ärger@b"


def test_other_names_are_told_apart_by_case() -> None:
    assert (_bearer({"sub": "Ann"}).user, _bearer({"sub": "ann"}).user) == ("Ann", "ann")


@given(st.text())
def test_a_name_that_is_folded_stays_so(name: str) -> None:
    assert folded(folded(name)) == folded(name)


UNFIT = {
    "sign for kelvin, with the lower case of another's letter": "\u212aarl@example.com",
    "not composed": "Zoe\u0308@example.com",
    "lines of a log": "x\r\ncall 12:00:00 200 chat",
    "steers a terminal": "\x1b[2Jann",
    "steers a terminal, in one sign": "\x9b2Jann",
    "right to left": "ann\u202enna",
    "half a sign": "ann\ud800",
    "too long": "a" * 321,
}


@pytest.mark.parametrize("name", UNFIT.values(), ids=UNFIT)
def test_what_no_name_can_be_is_refused_wherever_it_stands(name: str) -> None:
    assert _problem({"sub": name}) == "has a value of the claim sub that no name can be"
    assert "claim client_id" in _problem({"sub": "ann", "client_id": name})
    assert "claim preferred_username" in _problem(user_v2(preferred_username=name), ENTRA)
    assert "claim sub" in _problem(user_v2(sub=name), ENTRA)


@pytest.mark.parametrize("name", ["Zo\u00eb", "a b", "a" * 320, "\u738b@\u4f8b.jp", "auth0|1", "a/b:c\\d"])
def test_what_a_name_can_be(name: str) -> None:
    assert _bearer({"sub": name}).user == name


# ---- what must not pass ----


def test_extensions_that_must_be_understood_are_refused() -> None:
    for crit in (["b64"], [], None, "exp"):
        assert "extensions" in _problem({"sub": "ann"}, header={"crit": crit})


@pytest.mark.parametrize(("ahead", "passes"), [(-3600, True), (0, True), (60, True), (60.5, False), (1e9, False)])
def test_a_token_from_the_future_is_refused_beyond_the_skew_of_clocks(ahead: float, passes: bool) -> None:
    claims = {"sub": "ann", "iat": NOW + ahead}
    if passes:
        assert _bearer(claims).user == "ann"
    else:
        assert "in the future" in _problem(claims)


def test_the_skew_is_the_issuers_own() -> None:
    assert _problem({"sub": "ann", "iat": NOW + 2}, IssuerPolicy("exact", clock_skew=1)) == "was issued in the future"


@pytest.mark.parametrize("tid", [TENANT, [TENANT], ["other", TENANT]])
def test_a_required_claim_has_one_of_its_values(tid: object) -> None:
    assert _bearer(user_v2(tid=tid), ENTRA).user == "ann@example.com"


@pytest.mark.parametrize(
    "tid", [None, "", "other", TENANT.upper(), TENANT + " ", ["other"], [], {TENANT: 1}, 7, [[TENANT]]]
)
def test_a_required_claim_with_another_value_is_refused(tid: object) -> None:
    problem = _problem(user_v2(tid=tid), ENTRA)
    assert problem == "does not have an accepted value of the claim tid"


def test_every_required_claim_is_required() -> None:
    policy = IssuerPolicy("two", require={"tid": frozenset({"t"}), "azp": frozenset({"a", "b"})})
    assert _bearer({"sub": "ann", "tid": "t", "azp": "b"}, policy).user == "ann"
    assert "claim azp" in _problem({"sub": "ann", "tid": "t", "azp": "c"}, policy)
    assert "claim tid" in _problem({"sub": "ann", "tid": "c", "azp": "a"}, policy)


# ---- claims by path, groups and rules ----


def test_a_claim_is_found_by_its_name_before_its_path() -> None:
    nested: Json = {"realm_access": {"roles": ["a"]}, "https://example.com/roles": "b", "x": {"y": {"z": 1}}}
    assert claim(nested, "realm_access.roles") == ["a"]
    assert claim(nested, "https://example.com/roles") == "b"
    assert claim(nested, "x.y.z") == 1
    assert claim({**nested, "x.y.z": 2}, "x.y.z") == 2
    for absent in ("x.y.w", "x.y.z.w", "realm_access.roles.0", "nothing", "", ".", "x..y"):
        assert claim(nested, absent) is None


@pytest.mark.parametrize(
    ("value", "held"),
    [
        ("a", {"a"}),
        (["a", "b", 1, None, ["c"]], {"a", "b"}),
        (("a",), {"a"}),
        ({"a": 1}, set()),
        (1, set()),
        (None, set()),
    ],
)
def test_a_claim_holds_texts(value: object, held: set[str]) -> None:
    assert texts(value) == held


RULES = (
    Rule("roles", "Caller", "research", "developer"),
    Rule("realm_access.roles", "boss", "research", "team_admin"),
    Rule("department", "audit", None, "viewer"),
)


@pytest.mark.parametrize(
    ("claims", "fitting"),
    [
        ({}, []),
        ({"roles": ["Caller", "Other"]}, [0]),
        ({"roles": "Caller"}, [0]),
        ({"roles": "Caller Other"}, []),  # no list in a text: `scp` has blanks, and a name may have one
        ({"roles": ["caller"]}, []),
        ({"roles": {"Caller": True}}, []),
        ({"realm_access": {"roles": ["boss"]}, "department": "audit"}, [1, 2]),
        ({"roles": ["Caller"], "realm_access": {"roles": ["boss"]}, "department": ["audit"]}, [0, 1, 2]),
    ],
)
def test_rules_fit_by_whole_values(claims: Json, fitting: list[int]) -> None:
    policy = IssuerPolicy("ruled", rules=RULES)
    assert _bearer({"sub": "ann", **claims}, policy).rules == tuple(RULES[number] for number in fitting)


def test_groups_stand_in_the_claim_that_is_configured() -> None:
    assert _bearer({"sub": "ann", "groups": ["a", "b"]}).groups == {"a", "b"}
    deep = IssuerPolicy("deep", groups="resource.groups")
    assert _bearer({"sub": "ann", "groups": ["a"], "resource": {"groups": ["c"]}}, deep).groups == {"c"}


@pytest.mark.parametrize(
    ("claims", "left_out"),
    [
        ({}, False),
        ({"groups": ["a"]}, False),
        ({"hasgroups": False}, False),
        ({"_claim_names": {"other": "src1"}}, False),
        ({"_claim_names": ["groups"]}, False),
        ({"hasgroups": True}, True),
        ({"hasgroups": "true"}, True),
        ({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph"}}}, True),
    ],
)
def test_groups_that_entra_left_out_are_noticed(claims: Json, left_out: bool) -> None:
    assert _bearer({"sub": "ann", **claims}).groups_left_out is left_out


# ---- whatever else a token may hold ----

NAMES = ["sub", "azp", "client_id", "tid", "oid", "idtyp", "scp", "groups", "iat", "roles", "hasgroups", "_claim_names"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(NAMES)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner),
    max_leaves=8,
)
CLAIMS = st.dictionaries(st.sampled_from([*NAMES, "preferred_username", "a"]) | st.text(max_size=6), ANYTHING)
ANY_ISSUER = IssuerPolicy(
    "any", user="a.sub", groups="groups.tid", require={"scp": frozenset({"azp"})}, rules=(Rule("a.azp", "x", "t", "r"),)
)
POLICIES = st.sampled_from([PLAIN, ENTRA, ENTRA_V1, ANY_ISSUER])
HEADERS = st.dictionaries(st.sampled_from(["crit", "alg"]), ANYTHING)


@given(CLAIMS, POLICIES, HEADERS)
def test_claims_of_any_shape_name_somebody_or_are_bad(claims: Json, policy: IssuerPolicy, header: Json) -> None:
    try:
        named = _bearer(claims, policy, header)
    except BadClaims:
        return
    assert named.subject
    assert named.user != ""
    assert (named.user is None) or (named.client is None)
    assert "crit" not in header
    issued = claims.get("iat")
    if isinstance(issued, int | float) and not math.isnan(issued):
        assert issued <= NOW + policy.clock_skew


@given(st.text(alphabet="xyz0123456789", min_size=12, max_size=40), POLICIES)
def test_no_problem_quotes_the_token(secret: str, policy: IssuerPolicy) -> None:
    hostile: list[Json] = [
        {"sub": [secret], "upn": {secret: secret}, "preferred_username": [secret], "tid": TENANT},
        {"sub": secret, "tid": secret, "scp": secret, "iat": 1e12, secret: secret},
    ]
    for claims in hostile:
        assert secret not in _problem(claims, policy)
    assert secret not in _problem({"sub": secret}, policy, {"crit": [secret]})
