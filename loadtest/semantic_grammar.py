"""Pairs of questions made by a grammar: those that differ in little but ask something else, and paraphrases."""

import random
from collections.abc import Callable, Iterator, Sequence

_SEED = 7
_EACH = 10
"""Pairs of a template; fewer where it cannot make as many."""

# Two values of a slot make a pair that asks two things.
_SLOTS: dict[str, Sequence[tuple[str, Sequence[str]]]] = {
    "amount": (
        ("How much interest does {} euros earn in a year?", ("1,000", "10,000", "1,500", "2,500", "25,000", "100")),
        ("May I carry {} bottles of wine across the border?", ("two", "three", "six", "twelve", "twenty", "sixteen")),
        ("Is a fever of {} degrees dangerous for a baby?", ("38.5", "39.5", "38", "39", "40.1", "41")),
    ),
    "unit": (("How many {} does a full tank hold?", ("litres", "gallons", "pints", "cups", "barrels")),),
    "date": (
        ("Which flights leave for Madrid on {}?", ("3 May", "4 May", "3 March", "13 May", "30 May", "31 March")),
        ("How many visitors came in {}?", ("2019", "2020", "2021", "the spring", "the autumn", "January", "June")),
    ),
    "time": (("Can you move my appointment to {}?", ("10:15", "10:50", "22:15", "noon", "midnight", "4 pm", "4 am")),),
    "person": (
        ("When did {} join the company?", ("Marta Silva", "Marta Salva", "Peter Olsen", "Petra Olsen", "Li Wei")),
        ("What did {} invent?", ("Nikola Tesla", "Thomas Edison", "James Watt", "Alfred Nobel", "Rudolf Diesel")),
    ),
    "place": (
        ("How do I renew a driving licence in {}?", ("Ohio", "Iowa", "Utah", "Texas", "Nevada", "Ontario")),
        ("What is the average rent in {}?", ("Dublin", "Lublin", "Vienna", "Geneva", "Genoa", "Berlin", "Bern")),
    ),
    "product": (("How do I reset a {} to factory settings?", ("Kindle", "Nook", "PS4", "PS5", "Roku", "Xbox")),),
    "version": (
        ("Which features were added in release {}?", ("2.1", "2.10", "2.1.1", "3.1", "1.2", "12")),
        ("Does the driver support {}?", ("Windows 10", "Windows 11", "CUDA 11", "CUDA 12", "macOS 14")),
    ),
    "antonym": (
        ("How do I {} notifications?", ("enable", "disable", "mute", "unmute", "snooze", "archive")),
        ("Why is the {} pressure so high?", ("inlet", "outlet", "upper", "lower", "internal", "external")),
        ("Who {} the house in the end?", ("bought", "sold", "rented", "lost", "inherited")),
    ),
    "quantifier": (("Do {} members have to vote?", ("all", "some", "most", "no", "only", "at least ten", "both")),),
    "before-after": (
        ("May I eat {} the operation?", ("before", "after", "during", "right before", "long after")),
        ("Is the gate closed {} sunset?", ("at", "before", "after", "until", "from")),
    ),
    "id": (
        ("Why was payment {} declined?", ("PX-5521", "PX-5512", "PX-5251", "PX-55210", "PY-5521")),
        ("Who signed contract {}?", ("7781", "7718", "7871", "77810", "778")),
    ),
    "currency": (("Convert 80 {} to rupees.", ("dollars", "euros", "pounds", "francs", "yen", "pesos")),),
    "tense": (
        ("When {} the results be out?", ("will", "would", "should", "must")),
        ("{} the committee agree on a date?", ("Did", "Will", "Does", "Would", "Should")),
    ),
    "modality": (("{} visitors use the back door?", ("May", "Must", "Should", "Can", "Would", "Do")),),
    "conditional": (("What do I owe {} I leave early?", ("if", "unless", "because", "although", "even if")),),
    "question-word": (
        ("{} did the company move its headquarters?", ("When", "Why", "Where", "How", "How often")),
        ("{} should I tell about the accident?", ("Who", "What", "How much", "How many people")),
    ),
    "topic": (
        ("How do I {} a contact on my phone?", ("add", "block", "delete", "share", "merge", "call")),
        ("What are the {} of caffeine?", ("benefits", "risks", "sources", "effects", "alternatives")),
        ("Write a {} about a lonely robot.", ("poem", "story", "song", "play", "joke")),
        ("Is {} contagious?", ("measles", "eczema", "shingles", "psoriasis", "mumps")),
    ),
    "code": (
        ("What does `{}` return?", ("x and y", "x or y", "x & y", "x | y", "not x", "x == y", "x != y")),
        ("What does the option {} of tar do?", ("-x", "-c", "-t", "-xz", "--xattrs", "--extract")),
    ),
    "language": (("Translate 'good morning' into {}.", ("Danish", "Dutch", "Polish", "Greek", "Thai", "Latin")),),
    "politeness": (("Please {} the old entries.", ("keep", "do not keep", "delete", "do not delete", "never delete")),),
}
# Two things in a template make a pair when they change places.
_SWAPS: dict[str, Sequence[tuple[str, Sequence[tuple[str, str]]]]] = {
    "comparison": (
        ("Is {} healthier than {}?", (("butter", "margarine"), ("tea", "coffee"), ("beef", "pork"), ("rice", "bread"))),
        ("Why does {} cost more than {}?", (("gold", "silver"), ("gas", "coal"), ("rail", "road"))),
    ),
    "role": (
        ("How long is the bus ride from {} to {}?", (("Porto", "Lisbon"), ("Riga", "Vilnius"), ("Quito", "Lima"))),
        ("Did {} sue {}?", (("Apple", "Samsung"), ("Oracle", "Google"), ("Pepsi", "Coke"))),
        ("How do I copy files from {} to {}?", (("S3", "GCS"), ("Dropbox", "Box"), ("a phone", "a laptop"))),
        ("Does {} influence {}?", (("sleep", "memory"), ("diet", "mood"), ("price", "demand"))),
        ("Can a {} fire a {}?", (("manager", "director"), ("club", "coach"))),
    ),
    "list-order": (
        ("Subtract {} from {}.", (("12", "30"), ("seven", "nine"), ("0.5", "2"))),
        ("Is it correct to apply {} and then {}?", (("primer", "paint"), ("toner", "serum"), ("salt", "oil"))),
    ),
}
_NOT = (
    ("Is it {}safe to freeze milk twice?", "not "),
    ("Which plants do {}need full sun?", "not "),
    ("Why did the guests {}like the show?", "not "),
    ("Can I travel with{} a passport?", "out"),
    ("What is {}reversible in chemistry?", "ir"),
    ("Which parts are {}covered by the warranty?", "not "),
    ("Are these terms {}usual in a lease?", "un"),
    ("Who has {}paid the fee?", "never "),
    ("Why is the lift {}working?", "not "),
    ("Is the data {}encrypted at rest?", "un"),
)
_QUESTIONS = (
    "How do I renew my library card?",
    "What is the melting point of iron?",
    "Where is the main entrance of the stadium?",
    "Why is the sky dark at night?",
    "Who is the architect of the opera house in Sydney?",
    "How do I remove a splinter from a finger?",
    "What are the side effects of paracetamol?",
    "How does a heat pump work?",
    "What is the visa fee for students?",
    "How can I export my data from the app?",
    "When is the next public holiday in Canada?",
    "How do I delete my browser history?",
    "What is the difference between a crocodile and an alligator?",
    "Where is the nearest petrol station?",
)
_POLITE = ("Please tell me: {}", "Hello, {}", "{} Thanks!", "Hi there! {}", "Excuse me, {}", "{} Thank you very much.")
_FILLERS = ("So, {}", "Um, {}", "Okay, {}", "Quick question: {}", "Well, {}", "Just wondering, {}")
_CHANGES: dict[str, Sequence[tuple[str, str]]] = {
    "contraction": (("What is", "What's"), ("Where is", "Where's"), ("Who is", "Who's"), ("When is", "When's")),
    "question-form": (("How do I", "How can I"), ("How do I", "How to"), ("How can I", "How do you")),
    "synonym": (
        *(("remove", "take out"), ("delete", "erase"), ("fee", "cost"), ("main", "principal")),
        *(("nearest", "closest"), ("renew", "extend"), ("petrol", "gas"), ("next", "upcoming")),
    ),
    "typo": (
        *(("difference", "diffrence"), ("library", "libary"), ("delete", "delte"), ("browser", "browsr")),
        *(("entrance", "entrence"), ("effects", "efects"), ("public", "pubilc"), ("students", "studnets")),
    ),
    "imperative": (("What is the", "Tell me the"), ("What are the", "List the"), ("How do I", "Explain how to")),
}


def near() -> Iterator[tuple[str, str, str]]:
    """Kind and two questions that have different answers."""
    dice = random.Random(_SEED)
    for kind, templates in _SLOTS.items():
        for template, values in templates:
            both = [(one, other) for at, one in enumerate(values) for other in values[at + 1 :]]
            for one, other in dice.sample(both, min(_EACH, len(both))):
                yield kind, _filled(template, one), _filled(template, other)
    for kind, swaps in _SWAPS.items():
        for template, things in swaps:
            for one, other in things:
                yield kind, template.format(one, other), template.format(other, one)
    for template, word in _NOT:
        yield "negation", template.format(""), template.format(word)


def same() -> Iterator[tuple[str, str, str]]:
    """Kind and two questions that have the same answer."""
    dice = random.Random(_SEED)
    for question in _QUESTIONS:
        for kind, frames in (("politeness", _POLITE), ("filler", _FILLERS)):
            for frame in dice.sample(frames, 3):
                yield kind, question, _framed(frame, question)
        yield "case", question, dice.choice(_CASES)(question)
        yield "punctuation", question, dice.choice((question[:-1], question[:-1] + " ?", question + "?"))
        for kind, changes in _CHANGES.items():
            for one, other in changes:
                if one in question:
                    yield kind, question, question.replace(one, other)


_CASES: Sequence[Callable[[str], str]] = (str.lower, str.upper, str.title)


def _filled(template: str, value: str) -> str:
    text = template.format(value)
    return text[0].upper() + text[1:]


def _framed(frame: str, question: str) -> str:
    begins = frame.startswith("{}") or frame.split("{}")[0].rstrip()[-1] == "!"
    return frame.format(question if begins else question[0].lower() + question[1:])
