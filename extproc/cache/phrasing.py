"""The one order and choice of words for all the ways in which English asks the same.

Every step takes the words of a sentence and returns words that ask the same. A step that does not know what it sees
leaves it as it is: then the sentence is the same as another only where that one is told alike.
"""

from collections.abc import Callable, Sequence

from extproc.cache.sentences import Sentence
from extproc.cache.wording import (
    ARTICLES,
    ASKED_FOR,
    ASKING,
    AUXILIARIES,
    BE,
    FRONTED,
    GREETINGS,
    MORE_VERBS,
    NAMES,
    PASTS_OF_BE,
    PLEASE,
    QUANTIFIERS,
    RELATIONS,
    REQUESTS,
    SAME_WORD,
    VERBS,
    WH,
)

LONGEST = 40
"""Words of a sentence that is told in another way; longer ones are few, and take long."""
HOW = "how-to"
_CIRCUMSTANCES = frozenset(("how", "when", "where", "why"))
ASKS = "?"
PAST, PARTICIPLE = "<", "<<"
"""What stands at a verb for its past and, where that differs, its participle."""

_PASTS = {past: base + PAST for base, (past, _) in VERBS.items() if past != base and past not in VERBS}
_PARTICIPLES = {
    participle: base + (PAST if participle == past else PARTICIPLE)
    for base, (past, participle) in VERBS.items()
    if participle != base and participle not in VERBS
}
_FORMS = _PASTS | _PARTICIPLES
_THIRDS = {base + ending: base for base in VERBS for ending in (("es",) if base[-1] in "sh" else ("s",))}
_INGS = {
    form: base
    for base in (*VERBS, *MORE_VERBS)
    for form in (base + "ing", base + base[-1] + "ing", base.removesuffix("e") + "ing")
}
_BOUNDS = (
    *RELATIONS,
    *WH,
    *AUXILIARIES,
    ",",
    "(",
    ")",
    "not",
    HOW,
    "'s",
    "all",
    "any",
    "some",
    "each",
    "every",
    "most",
)
_MEASURES = {"tall": "height", "old": "age"}
_GERUNDS = tuple(
    tuple(words.split())
    for words in (
        "how do i go about",
        "instructions for",
        "what is the procedure for",
        "what is the process for",
        "what are the steps for",
    )
)
"""They ask how it is done where an `-ing` follows."""
_INFINITIVES = tuple(
    tuple(words.split())
    for words in (
        *(f"how {word} {who}" for word in ("do", "can") for who in ("i", "1")),
        "how to",
        "steps to",
        "what is the procedure to",
        "what is the way to",
        "what is the process to",
        "what are the steps to",
    )
)
"""They ask how it is done where a verb follows that one does, rather than is."""
_STATES = frozenset(
    (
        *("look", "feel", "know", "sound", "seem", "smell", "taste", "compare", "rank", "die", "be", "have", "do"),
        *("like", "differ", "owe", "sleep", "live", "exist", "act", "behave", "come", "appear", "think", "see", "hear"),
        *(
            "trust",
            "want",
            "measure",
            "afford",
            "remain",
            "work",
            "forget",
            "stand",
            "stay",
            "sit",
            "score",
            "possibly",
        ),
        *(
            "perform",
            "turn",
            "spend",
            "benefit",
            "not",
            "ever",
            "even",
            "still",
            "go",
            "fit",
            "qualify",
            "matter",
            "breathe",
            "age",
            "help",
        ),
    )
)
_WHOLES = (
    ("is it possible for me to", "can i"),
    ("is there any way to", "is there a way to"),
    ("is i allowed to", "may i"),
    ("do i have to", "must i"),
    ("do i need to", "must i"),
    ("who is the author of", "who write<"),
    ("who wrote", "who write<"),
)
_FRAMES = tuple((tuple(words.split()), tuple(instead.split())) for words, instead in _WHOLES)
_GREETINGS = tuple(tuple(SAME_WORD.get(word, word) for word in phrase) for phrase in GREETINGS)
_DETERMINERS = frozenset(("the", "a", "my", "your", "his", "her", "our", "their"))
_NO_THINGS = frozenset(("it", "this", "that", "he", "she", "they", "you", "we", "i", "people"))
_TOLD_OF = frozenset(("of", "for", "between"))
_CLAUSES = frozenset(
    (
        *("say", "said", "think", "thought", "know", "knew", "believe", "remember", "tell", "told", "claim", "that"),
        *WH,
        *("if", "and", "or", "because", "before", "after", "while", "since", "until"),
    )
)
"""Where one of these is inside, what stood in front may belong to another part once it stands behind."""
_ASKED_FOR_ME = frozenset(("tell", "give", "show", "write"))
_ASKED_AT_ONCE = frozenset(("explain", "summarize", "outline"))
_ASKED_WITH_THE = frozenset(("list", "translate", "describe"))
_WRITINGS = frozenset(("poem", "story", "song", "haiku", "joke", "limerick", "essay", "summary", "email", "speech"))
_OPINIONS = frozenset(("suggest", "recommend"))
_OWNED = frozenset(
    (
        *("capital", "population", "president", "minister", "king", "queen", "mayor", "currency", "owner", "author"),
        *("founder", "height", "age", "anthem", "definition", "meaning", "mother", "father", "wife", "husband"),
        *("brother", "sister", "son", "daughter"),
    )
)
_OWNED_PAIRS = frozenset((("boiling", "point"), ("melting", "point"), ("freezing", "point"), ("phone", "number")))
"""Of which there is one relation only: a photo of Anna and Anna's photo are two."""


def normal(sentences: Sequence[Sentence]) -> tuple[str, ...]:
    """All sentences in their normal form, without those that ask nothing."""
    forms = [form for sentence in sentences if (form := _normal(sentence))]
    return tuple(word for form in forms for word in (*form, "."))


def _normal(sentence: Sentence) -> list[str]:
    words, is_indirect, is_request = _bare(sentence.words)
    asks = (sentence.asks and not is_request) or is_indirect
    if len(words) <= LONGEST:
        words = _unfronted(words)
        if is_indirect:
            words = _direct(words)
        for step in _STEPS:
            words = step(words)
    asks = asks or (bool(words) and words[0] in WH | AUXILIARIES | {HOW} and not is_request)
    words = [word for at, word in enumerate(words) if not _is_idle(words, at)]
    return [*words, ASKS] if asks and words else words


def _is_idle(words: Sequence[str], at: int) -> bool:
    """Whether it is the comma of a list before its `and`."""
    return words[at] == "," and (at + 1 == len(words) or ("," in words[:at] and words[at + 1] in {"and", "or"}))


# ---- what stands around it ----


def _bare(words: list[str]) -> tuple[list[str], bool, bool]:
    """Without politeness; whether it is an indirect question, and whether it is a polite request."""
    is_indirect = is_request = False
    before: list[str] | None = None
    words = _without_end(words)
    while words != before:
        before = words
        words = _without_greeting(words)
        if words and words[0] in PLEASE:
            words = _after_mark(words[1:])
        if (size := _begins(words, REQUESTS)) and _is_asked_for(words[:size], words[size:]):
            words, is_request = words[size:], True
        if (size := _begins(words, ASKING)) and _asks_on(words[:size], _after_mark(words[size:]), is_request):
            words, is_indirect, is_request = _after_mark(words[size:]), True, False
        elif words[:2] == ["how", "come"]:
            words, is_indirect = ["why", *words[2:]], True
        if words[:3] == ["tell", "me", "the"] and _TOLD_OF & {*words}:
            words, is_request = ["what", "is", *words[2:]], False
        elif words[:2] == ["list", "the"] and _TOLD_OF & {*words}:
            words, is_request = ["what", "are", *words[1:]], False
    return _without_end(words, is_request), is_indirect, is_request


def _is_asked_for(request: Sequence[str], words: Sequence[str]) -> bool:
    """Whether it asks to do it, rather than whether one can, or would, or what one thinks of it."""
    if not words or words[0] in PLEASE or words[0] in WH:
        return bool(words)
    if words[0] not in ASKED_FOR or (words[0] in _OPINIONS and "would" in request):
        return False
    if "please" in request or words[-1] == "please" or request[-1] != "you":
        return True
    verb, behind = words[0], words[1] if len(words) > 1 else ""
    if behind == "me":
        return verb in _ASKED_FOR_ME and "will" not in request
    if {"would", "will"} & {*request}:
        return False
    is_thing = verb in _ASKED_WITH_THE and behind in {"the", "this", "these"}
    is_written = verb == "write" and behind == "a" and bool({*words[2:5]} & _WRITINGS)
    return verb in _ASKED_AT_ONCE or is_thing or is_written or (verb in _OPINIONS and behind == "a")


def _asks_on(asking: Sequence[str], words: Sequence[str], is_request: bool) -> bool:
    """Whether a question follows; `tell me when it rains` may ask to be told then."""
    if not words or (words[0] in {"when", "if", "whether"} and asking[-1] == "me" and not is_request):
        return False
    if asking[0] == "show" and words[0] != "how":
        return False
    if "you" in asking and "know" in asking and words[:2] == ["how", "to"]:  # it may ask whether one is able to
        return False
    return words[0] in WH or words[0] in {"if", "whether"}


def _begins(words: Sequence[str], phrases: Sequence[tuple[str, ...]]) -> int:
    """How many words the longest of the phrases has that they begin with."""
    return max((len(phrase) for phrase in phrases if tuple(words[: len(phrase)]) == phrase), default=0)


def _without_greeting(words: list[str]) -> list[str]:
    size = _begins(words, _GREETINGS)
    rest = words[size:]
    if not size or (rest and rest[0] not in WH | AUXILIARIES | PLEASE | {",", ":", "tell"}):
        return words
    if len(rest) == 1:  # `so what` is no `what`
        return words
    if words[:size] == ["just"] and rest[:1] and rest[0] in AUXILIARIES | {","}:  # it may mean `only`
        return words
    return _after_mark(rest)


def _after_mark(words: list[str]) -> list[str]:
    return words[1:] if words[:1] in ([","], [":"]) else words


def _without_end(words: list[str], is_request: bool = False) -> list[str]:
    """Without a `please` or thanks that stand behind a comma, or at the end of a request."""
    for size in range(1, 6):
        phrase = tuple(words[-size:])
        if (phrase[-1:] == ("please",) and size == 1) or (phrase in _GREETINGS and phrase[0].startswith("thank")):
            rest = words[:-size]
            if rest and (rest[-1] == "," or is_request):
                return rest[:-1] if rest[-1] == "," else rest
    return words


def _unfronted(words: list[str]) -> list[str]:
    """A part in front of a comma at the end, where it can stand as well: `in Python, how ...`."""
    if words and words[0] in FRONTED and words.count(",") == 1:
        at = words.index(",")
        if 1 < at < len(words) - 1 and not _CLAUSES & {*words[at + 2 :]}:
            return [*words[at + 1 :], *words[:at]]
    return words


def _direct(words: list[str]) -> list[str]:
    """`what the capital of France is` as `what is the capital of France`; `how it works` as `how it work`."""
    if words[-1:] == ["located"]:
        words = words[:-1]
    if words[:1] in (["if"], ["whether"]):
        return _be_first(words[1:], 0)
    if words[0] in _CIRCUMSTANCES:
        return _without_third(_be_first(words, 2 if words[1:2] and words[1] in _MEASURES else 1))
    is_thing = len(words) > 2 and (words[-1] in BE or words[1] in _DETERMINERS)
    return _be_first(words, 1) if is_thing else words


def _be_first(words: list[str], begin: int) -> list[str]:
    """With the first `is` or `was` at that place, where only the words of a thing stand before it."""
    be = next((at for at, word in enumerate(words) if word in BE), begin)
    if be <= begin or {*words[begin:be]} & {*WH, *AUXILIARIES, *VERBS, *_FORMS, ",", "not"}:
        return words
    return [*words[:begin], words[be], *words[begin:be], *words[be + 1 :]]


def _without_third(words: list[str]) -> list[str]:
    for at, word in enumerate(words):
        if word in VERBS or word in _FORMS or word in AUXILIARIES:
            break
        if word in _THIRDS and at > 1 and words[at - 1] not in ARTICLES | RELATIONS:
            return [*words[:at], _THIRDS[word], *words[at + 1 :]]
    return words


# ---- frames ----


def _framed(words: list[str]) -> list[str]:
    for frame, instead in _FRAMES:
        if tuple(words[: len(frame)]) == frame:
            words = [*instead, *words[len(frame) :]]
    if len(words) == 2 and words[0] == "define" and words[1] not in _NO_THINGS:  # one defines a budget by making it
        return ["what", "is", "the", "definition", "of", words[1]]
    if (size := _begins(words, _INFINITIVES)) and words[size + 1 :] and words[size] not in _STATES:
        return [HOW, *words[size:]]
    if (size := _begins(words, _GERUNDS)) and words[size:] and words[size] in _INGS:
        return [HOW, _INGS[words[size]], *words[size + 1 :]]
    return words


def _asked_alike(words: list[str]) -> list[str]:
    """Questions that have a form of their own for what others ask with `what is the ... of`."""
    match words:
        case ["what", "do", thing, "mean"] if thing.isalpha() and thing.islower() and thing not in _NO_THINGS:
            return ["what", "is", "the", "meaning", "of", thing]
        case ["what", "do", *thing, "cost"] if thing:
            return ["how", "much", "do", *thing, "cost"]
        case ["how", "many", "people", "live", "in", place, *rest] if place in NAMES or place.istitle():
            return ["what", "is", "the", "population", "of", place, *rest]
        case ["how", measure, "is", *thing] if measure in _MEASURES and thing and not RELATIONS & {*thing} - {"of"}:
            return ["what", "is", "the", _MEASURES[measure], "of", *thing]
        case ["where", "is", *thing, "located"] if thing:
            return ["where", "is", *thing]
        case [("what" | "who" | "where" | "how") as first, "exactly", *rest]:
            return [first, *rest]
        case [*thing, "is", "what"] if thing and not {*thing} & {*WH, *AUXILIARIES, ","}:
            return ["what", "is", *thing]
    return words


def _not_early(words: list[str]) -> list[str]:
    """`why does it not work` as `why does not it work`, which is how `doesn't` is read."""
    if QUANTIFIERS & {*words}:
        return words
    if words[:1] == ["why"] and len(words) > 2 and words[1] in {"do", "did", *BE} and "not" in words[2:]:
        at = words.index("not")
        if not {*words[2:at]} & {*RELATIONS, *VERBS, *_FORMS, *AUXILIARIES, ","} and words[at + 1 : at + 2] != ["to"]:
            return [*words[:2], "not", *words[2:at], *words[at + 1 :]]
    return words


def _superlative(words: list[str]) -> list[str]:
    """`which country is the largest in Asia` as `what is the largest country in Asia`."""
    match words:
        case ["what", kind, "is", "the", most, *rest] if most.endswith("est") or most == "worst":
            if kind not in _BOUNDS and (not rest or rest[0] in RELATIONS):
                return ["what", "is", "the", most, kind, *rest]
    return words


# ---- verbs ----


def _with_forms(words: list[str]) -> list[str]:
    """Pasts and participles as their verb with a mark; `did` and `do` as what they do to the verb."""
    words = [_FORMS.get(word, word) for word in words]
    for at, word in enumerate(words):
        if word in {"do", "did"} and (at == 0 or (at == 1 and words[0] in _CIRCUMSTANCES)):
            verb = next((place for place in range(at + 1, len(words)) if words[place] in VERBS), None)
            between = words[at + 1 : verb]
            if verb is None or not between or {*between} & {"not", ",", *WH, *AUXILIARIES}:
                return words
            past = PAST if word == "did" else ""
            return [*words[:at], *between, words[verb] + past, *words[verb + 1 :]]
    return words


def _active(words: list[str]) -> list[str]:
    """`was X discovered by Y` as `Y discover X`."""
    words = _agent_last(words)
    be = next((at for at, word in enumerate(words) if word in BE), None)
    by = next((at for at in range(len(words) - 1, 0, -1) if words[at] == "by"), None)
    if QUANTIFIERS & {*words} or be is None or by is None or by - be < 2 or not words[by - 1].endswith(PAST):
        return words
    before, thing, verb, agent = words[:be], words[be + 1 : by - 1], words[by - 1], words[by + 1 :]
    if verb.rstrip(PAST) not in VERBS or {*thing, *agent} & {*RELATIONS, *AUXILIARIES, ",", "not"} - {"of", "and"}:
        return words
    base = verb.rstrip(PAST)
    done = base + (PAST if words[be] in PASTS_OF_BE else "")
    if before and not agent and before[0] in {"who", "what"} and thing:
        return [*before, _done_by_one(base, words[be]), *thing]
    if agent and thing and (not before or before in (["how"], ["when"], ["where"], ["why"])):
        return [*before, *agent, done, *thing]
    return words


def _done_by_one(verb: str, be: str) -> str:
    """The past of a verb, or the form for one who does it."""
    return verb + (PAST if be in PASTS_OF_BE else "es" if verb + "es" in _THIRDS else "s")


def _agent_last(words: list[str]) -> list[str]:
    """`by whom was X written` as `who was X written by`; `X was written by whom` likewise."""
    if words[:1] == ["by"] and words[1:2] in (["who"], ["what"]):
        be = next((at for at, word in enumerate(words) if word in BE), 0)
        if be and words[-1].endswith(PAST):
            return [*words[1:], "by"]
    if words[-2:] in (["by", "who"], ["by", "what"]):
        be = next((at for at, word in enumerate(words) if word in BE), 0)
        if be and len(words) > be + 3:
            return [words[-1], words[be], *words[:be], *words[be + 1 : -2], "by"]
    return words


# ---- of ----


def _owned(words: list[str]) -> list[str]:
    """`the capital of France` as `France 's capital`; not where a thing may follow that is no owner."""
    if words[:1] and words[0] in BE:
        return words
    for at in range(len(words) - 2, 0, -1):
        if words[at] != "of":
            continue
        begin, end = at, at + 1
        while begin > 0 and words[begin - 1] not in _BOUNDS and not _is_verb(words[begin - 1]):
            begin -= 1
        while end < len(words) and (words[end] not in _BOUNDS or words[end] == "'s") and not _is_verb(words[end]):
            end += 1
        owned, owner = words[begin:at], words[at + 1 : end]
        owned = owned[1:] if owned[:1] == ["the"] else owned
        if owner and _is_owned(owned) and not any(word.isdigit() for word in owned):
            words = [*words[:begin], *owner, "'s", *owned, *words[end:]]
    return words


def _is_owned(words: Sequence[str]) -> bool:
    return bool(words) and (words[-1] in _OWNED or tuple(words[-2:]) in _OWNED_PAIRS)


def _is_verb(word: str) -> bool:
    return word in VERBS or word.endswith(PAST)


_STEPS: Sequence[Callable[[list[str]], list[str]]] = (
    _not_early,
    _framed,
    _asked_alike,
    _superlative,
    _framed,
    _with_forms,
    _active,
    _owned,
)
