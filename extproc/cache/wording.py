"""The words that a question may be told in without asking anything else: what agreement knows of English.

A group belongs here only where no sentence gets another answer by the exchange. When in doubt it does not: a question
that is not known again is asked again, and costs money; one that is mistaken for another gets a wrong answer.
"""


def _words(text: str) -> list[str]:
    return text.split()


WH = frozenset(_words("what which who when where why how"))
BE = frozenset(_words("is are was were"))
PASTS_OF_BE = frozenset(_words("was were"))
AUXILIARIES = frozenset(_words("is are was were do did can could may must should will would have had"))
ARTICLES = frozenset(_words("the a"))
ENGLISH = frozenset(
    _words(
        "what who where why how which when does did are should would could explain list translate write tell give show"
    )
)
"""What no other language has."""
INFLECTED = frozenset(_words("is are am was were do does have has a an what which"))
"""Forms of one word that may well stand in one text."""
OF_WORDS = frozenset(
    _words(
        "spell spells spelt spelled spelling spellings misspelled misspelt grammar grammatical grammatically "
        "word words letter letters vowel vowels consonant syllable syllables synonym synonyms antonym "
        "antonyms rhyme rhymes plural singular tense pronounce pronounced pronunciation proofread rewrite "
        "rephrase reword paraphrase typo typos punctuation capitalize capitalise uppercase lowercase "
        "abbreviation abbreviations acronym contraction etymology verb verbs noun nouns adjective adjectives "
        "adverb adverbs british american formal informal translate translation correct say said sentence "
        "sentences phrase phrases anagram anagrams hyphen apostrophe accent dialect characters"
    )
)
"""Who asks with one of these may ask for the very difference that is passed over elsewhere."""
SMALL = frozenset(
    _words("i my me you your we our they their it its this that there any some all are does please name list")
)
NEGATIONS = frozenset(_words("not no never none nobody nothing neither nor without cannot non un"))
RELATIONS = frozenset(
    _words(
        "about above across after against along among around as at before behind below beside between beyond by down "
        "during except for from if in inside into like near of off on onto or out over past per since so than that "
        "then through till to toward towards under unless until up upon via when where whether while with within "
        "without and but because although though not never only"
    )
)
QUANTIFIERS = frozenset(_words("all every each any some both most many few few+ much only nobody everybody everyone"))
"""Which reach over whatever stands behind them: where they are, nothing changes its place."""
FRONTED = frozenset(_words("in on for using if when before after during"))
"""What a part of a sentence begins with that may stand in front, with a comma, or at the end."""

EXPANDED = {
    "can't": "can not",
    "cannot": "can not",
    "won't": "will not",
    "shan't": "shall not",
    "ain't": "is not",
    "i'm": "i am",
    "let's": "let us",
    "what're": "what are",
    **{
        f"{word}n't": f"{word} not"
        for word in _words("is are was were do does did has have had could should would must")
    },
    **{f"{word}nt": f"{word} not" for word in _words("is are was were does did has have had could should would")},
    "dont": "do not",
    "cant": "can not",
    "im": "i am",
    "ive": "i have",
    **{
        f"{word}'s": f"{word} is" for word in _words("what where who when how why that it there here he she this which")
    },
    **{f"{word}s": f"{word} is" for word in _words("what where who when how")},
    **{f"{word}'re": f"{word} are" for word in _words("we you they")},
    **{f"{word}'ve": f"{word} have" for word in _words("i we you they")},
    **{f"{word}'ll": f"{word} will" for word in _words("i we you they he she it what who that there")},
    "i'd": "i would",
}
SAME_WORD = {
    other: first
    for first, *others in (
        group.split()
        for group in (
            *("is am", "a an", "do does", "have has", "who whom", "ok okay", "until till"),
            *("photo photograph", "photos photographs", "allowed permitted", "maybe perhaps", "airplane aeroplane"),
            *("fridge refrigerator", "math maths", "information info", "email e-mail", "emails e-mails"),
            *("website web-site", "vs versus", "disadvantages drawbacks", "percent per-cent"),
            *("color colour", "colors colours", "center centre", "centers centres", "theater theatre"),
            *("theaters theatres", "traveler traveller", "travelers travellers", "traveling travelling"),
            *("canceled cancelled", "canceling cancelling", "aluminum aluminium", "jewelry jewellery"),
            *("catalog catalogue", "behavior behaviour", "favorite favourite", "favorites favourites"),
            *("neighbor neighbour", "neighbors neighbours", "neighborhood neighbourhood", "honor honour"),
            *("flavor flavour", "flavors flavours", "humor humour", "harbor harbour", "labor labour"),
            *("rumor rumour", "defense defence", "license licence", "licenses licences", "analyze analyse"),
            *("analyzed analysed", "analyzing analysing", "pajamas pyjamas", "modeling modelling"),
            *("labeled labelled", "fulfill fulfil", "skillful skilful", "enrollment enrolment"),
            *("liters litres", "liter litre", "kilometers kilometres", "kilometer kilometre"),
            *("centimeters centimetres", "millimeters millimetres"),
        )
    )
    for other in others
}
"""Spellings, forms and full synonyms, for words in small letters alone: a name is spelt as it likes."""
SAME_VERB = {"purchase": "buy", "repair": "fix", "compute": "calculate"}
"""Where it is done to a thing: `i` or `to` stands before it, and an article or an owner behind (a purchase order is no
order to buy)."""
SAME_UNIT = {
    other: first
    for first, *others in (
        group.split()
        for group in (
            *("kilometers km kms", "centimeters cm", "millimeters mm", "kilograms kg kilos", "milligrams mg"),
            *("minutes mins", "seconds secs", "hours hrs"),
        )
    )
    for other in others
}
"""Behind a number, and behind `many`."""
THINGS = frozenset(
    _words(
        "country city ocean lake planet island continent desert state animal mammal bird fish river sea building "
        "moon volcano forest"
    )
)
"""Of which the biggest is the largest."""
IZED = (
    "organ real recogn summar apolog custom optim minim maxim visual priorit author special standard memor categor "
    "initial normal serial synchron final character general capital emphas modern local global stabil util victim"
)
"""What -ise and -ize, with all their endings, may stand after."""
SAME_PHRASE = {
    tuple(other.split()): tuple(first.split())
    for first, *others in (
        ("contact", "get in touch with"),
        ("log in to my", "sign in to my"),
        ("log out of my", "sign out of my"),
        *((f"fill in {which} form", f"fill out {which} form") for which in ("the", "a", "this", "my")),
        ("mobile-phone", "mobile phone", "cell phone", "cellphone"),
        ("phone number", "telephone number"),
        ("what type of", "what kind of"),
        ("website", "web site"),
        ("percent", "per cent"),
        ("as soon as possible", "asap"),
        ("few+", "a few"),
        ("little+", "a little"),
        *((f"what time {do}", f"at what time {do}") for do in ("do", "did")),
        *((f"what year {did}", f"in what year {did}") for did in ("did", "was", "were")),
        ("date of birth", "birth date", "birthdate"),
        ("advantages and disadvantages", "pros and cons"),
        ("fastest way", "quickest way"),
        ("where is the nearest", "where is the closest"),
        ("is it hard to", "is it difficult to"),
        ("how hard is it to", "how difficult is it to"),
        ("how large is", "how big is"),
        ("my children", "my kids"),
        ("for children", "for kids"),
        *((f"largest {thing}", f"biggest {thing}") for thing in sorted(THINGS)),
    )
    for other in others
}

# ---- what stands around a question ----

GREETINGS = tuple(
    tuple(phrase.split())
    for phrase in (
        *("hi", "hello", "hey", "hi there", "hello there", "hey there", "good morning", "good afternoon"),
        *("good evening", "dear assistant", "excuse me", "sorry", "sorry to bother you but", "thanks", "thank you"),
        *("thank you very much", "thanks a lot", "many thanks", "thanks in advance", "thank you in advance", "cheers"),
        *("so", "um", "uh", "er", "well", "ok", "okay", "now then", "basically", "actually", "just", "by the way"),
        *("btw", "quick question", "one question", "a quick question", "just wondering", "just curious"),
        *("i have a question", "i have a quick question", "i need some help", "i need help", "can you help me"),
        *("could you help me", "please help", "help", "please help me", "any idea", "out of curiosity", "thanks but"),
    )
)
"""They fall away where a comma, a colon or the end of a sentence follows, or else a question."""
PLEASE = frozenset(("please", "kindly"))
ASKING = tuple(
    tuple(phrase.split())
    for phrase in (
        *("i would like to know", "i want to know", "i need to know", "i was wondering", "i am wondering"),
        *(
            "i wonder",
            "do you know",
            "tell me",
            "explain",
            "explain to me",
            "show me",
        ),
        *("i would like you to tell me", "do you happen to know", "i am curious"),
        *("have you any idea", "do you have any idea", "any idea", "just tell me", "help me understand"),
        *("can you help me understand", "could you help me understand", "i need help understanding"),
        *("i am trying to figure out", "i am trying to find out", "i am trying to understand", "i am not sure"),
    )
)
"""They fall away where a question word follows, or `if` and `whether`."""
REQUESTS = tuple(
    tuple(phrase.split())
    for phrase in (
        *("can you", "could you", "would you", "will you", "can you please", "could you please", "would you please"),
        *("will you please", "please can you", "please could you", "please would you", "i would like you to"),
        *("i want you to", "i need you to", "i would appreciate it if you could", "would you be so kind as to"),
        *("would you mind telling me",),
    )
)
"""They fall away where something follows that one asks for."""
ASKED_FOR = frozenset(
    _words(
        "tell explain give show list write translate summarize summarise define convert calculate generate draft "
        "suggest recommend provide describe compare rewrite paraphrase proofread outline"
    )
)
VERBS = {
    base: (past, participle)
    for base, past, participle in (
        verb.split()
        for verb in (
            *("write wrote written", "make made made", "build built built", "win won won", "buy bought bought"),
            *("sell sold sold", "find found found", "take took taken", "give gave given", "get got got"),
            *("speak spoke spoken", "steal stole stolen", "break broke broken", "choose chose chosen", "eat ate eaten"),
            *("drive drove driven", "fly flew flown", "grow grew grown", "know knew known", "see saw seen"),
            *("send sent sent", "spend spent spent", "lead led led", "pay paid paid", "say said said"),
            *("teach taught taught", "think thought thought", "bring brought brought", "catch caught caught"),
            *("sing sang sung", "begin began begun", "fall fell fallen", "become became become", "rise rose risen"),
            *("die died died", "end ended ended", "happen happened happened", "work worked worked"),
            *("need needed needed", "open opened opened", "mean meant meant", "cost cost cost", "keep kept kept"),
            *("lose lost lost", "hold held held", "meet met met", "run ran run", "leave left left", "feel felt felt"),
            *("invent invented invented", "discover discovered discovered", "paint painted painted"),
            *("found founded founded", "acquire acquired acquired", "approve approved approved"),
            *("direct directed directed", "design designed designed", "compose composed composed"),
            *("orbit orbited orbited", "close closed closed", "start started started", "create created created"),
            *("develop developed developed", "kill killed killed", "defeat defeated defeated", "own owned owned"),
            *("produce produced produced", "publish published published", "use used used", "cause caused caused"),
            *("destroy destroyed destroyed", "arrive arrived arrived", "change changed changed", "call called called"),
            *(
                "live lived lived",
                "play played played",
                "join joined joined",
                "sign signed signed",
                "help helped helped",
            ),
            *("erupt erupted erupted", "expire expired expired", "apply applied applied", "store stored stored"),
            *("ship shipped shipped", "form formed formed", "want wanted wanted", "like liked liked"),
            *("collapse collapsed collapsed", "move moved moved", "report reported reported", "sue sued sued"),
            *("explode exploded exploded", "protect protected protected", "measure measured measured"),
            *("control controlled controlled", "manage managed managed", "affect affected affected"),
        )
    )
}
"""Everyday verbs: their past and their participle."""
MORE_VERBS = _words(
    "return reset remove delete cancel learn install get tell change renew register update upgrade clean "
    "cook calculate convert fix replace transfer schedule book order train add edit export import upload "
    "download connect configure track request repair wash prepare verify activate deactivate enable "
    "disable plant set file"
)
"""Those whose `-ing` is known beside."""
BIDDING = _words(
    "greet remind send call wake sort check draft reply remember count solve simplify classify identify discuss "
    "create invent imagine plan prepare extract highlight shorten expand correct evaluate predict mention announce "
    "congratulate invite inform notify answer ask search look put go come let turn stop"
)
"""Other verbs that a request begins with."""

# ---- spelling ----

MISSPELT = {
    "recieve": "receive",
    "recieved": "received",
    "seperate": "separate",
    "definately": "definitely",
    "adress": "address",
    "untill": "until",
    "teh": "the",
    "wich": "which",
    "wat": "what",
    "whta": "what",
    "hwo": "how",
    "becuase": "because",
    "becasue": "because",
    "tommorow": "tomorrow",
    "tommorrow": "tomorrow",
    "occured": "occurred",
    "wierd": "weird",
    "beleive": "believe",
    "acheive": "achieve",
    "thier": "their",
    "arguement": "argument",
    "existance": "existence",
    "independant": "independent",
    "maintainance": "maintenance",
    "pronounciation": "pronunciation",
    "grammer": "grammar",
    "cemetary": "cemetery",
    "accomodate": "accommodate",
    "accomodation": "accommodation",
    "neccessary": "necessary",
    "necesary": "necessary",
    "succesful": "successful",
    "priviledge": "privilege",
    "lisence": "license",
    "liscense": "license",
    "entrence": "entrance",
    "enviornment": "environment",
}
EVERYDAY = frozenset(
    _words(
        "delete remove update download upload install register activate transfer upgrade uninstall deactivate "
        "disable enable unsubscribe subscribe purchase increase decrease account address airport algorithm "
        "alternative answer application appointment argument article artificial assistant available average "
        "avocado background balance bathroom beautiful beginner benefits between bicycle birthday breakfast "
        "browser building business calculate calendar calories capital certificate challenge change character "
        "chemical children chocolate cholesterol chicken citizenship climate colleague comfortable community "
        "company compare computer condition configure connection constitution container customer database "
        "definition delivery department describe description development device diabetes dictionary "
        "difference different difficult dinosaur disease distance document economy education electricity "
        "electron elephant employee energy engineer english environment equation everyday exactly example "
        "exercise expensive explain facebook factory february festival formula foundation frequency function "
        "furniture generate geography google government grammar guarantee guitar happiness headache healthy "
        "history holiday hospital household hydrogen identity immediately important improve inflation "
        "information ingredients insurance intelligence interest internet interview introduction investment "
        "invoice island january javascript keyboard kitchen kubernetes language laptop library license "
        "literature location machine magazine management manager material mathematics measure medicine "
        "membership message microwave minimum mortgage mountain movement multiple museum network newspaper "
        "notification november number october opposite orchestra organize original oxygen package paragraph "
        "parameter parliament passport password payment percentage permission philosophy photograph "
        "photosynthesis physics politics pollution population possible postgresql potato pregnancy president "
        "pressure previous printer probability problem process product professor program programming project "
        "pronounce property protein psychology public python quarter question receipt receive recipe "
        "recommend recycle reference refrigerator refund regression relationship religion remember replace "
        "request required requirement resolution restaurant revolution rhythm salary sandwich satellite "
        "saturday schedule science scientist screenshot secretary security sentence separate september "
        "settings signature similar situation smartphone software solution something spreadsheet stadium "
        "statistics strategy student students subscription summarize sunlight supermarket symptoms synonym "
        "technology telephone temperature theorem thursday together tomorrow tournament traffic translate "
        "transport treatment triangle tuesday university vaccine vacation vegetable vegetables vegetarian "
        "velocity version vitamin volcano voltage warranty weather website wednesday weekend whatsapp "
        "wireless wonderful yesterday youtube"
    )
)
"""Words that a slip of the finger does not make another word of, in which one letter too many, one too few, or two that
changed places, are read over. (A letter for another one never is: `employer` and `employee`.)"""

TWO_MEANINGS = frozenset(
    _words(
        "amazon android apple august bill blackberry boston bush buffalo china chrome cuba delta denver dell "
        "excel explorer fedora fiat flash ford frank galaxy gap german go grace hamburg heroku hope iris java "
        "jersey jordan kindle lincoln march mark mercury mini nice node notion oracle orange outlook paris "
        "pascal polish python rails reading reuters ruby rust safari scratch shell signal slack spark spring "
        "square stata sterling swift swiss target teams tiger turkey ubuntu victoria visa wales washington "
        "will may windows word zoom"
    )
)
"""What is a name with a capital letter, and something else without."""
ACRONYMS = frozenset(
    _words(
        "api apis atm bbc ceo cia cnn cpu css csv cv diy dna dns eu eur fbi faq fifa gdp gif gps gpu hiv html "
        "http https imf ios jpeg json kpi mba mp3 nasa nato nba nfl pc pdf pdfs php png rna sim sms sql ssd "
        "ssh ssl tcp tv tvs udp uk un unesco url urls usa usb usd vat vip vpn wifi xml yaml"
    )
)
"""What is the same in small letters."""
FOREIGN = frozenset(
    _words(
        "der das und ist nicht ich wie ein eine mit für auf dem den zu von le les est une des du que qui dans "
        "pour pas avec el los las una por para con como está qué cómo cuál il che di della sono per non het "
        "een niet van wat hoe ik de la och är det att som jag og ikke jeg på os uma não em é"
    )
)
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        _words(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty"
        )
    )
}
TENS = {word: 10 * (at + 2) for at, word in enumerate(_words("twenty thirty forty fifty sixty seventy eighty ninety"))}
ORDINALS = {
    word: f"{number}{ending}"
    for number, (word, ending) in enumerate(
        zip(
            _words("first second third fourth fifth sixth seventh eighth ninth tenth"),
            ["st", "nd", "rd"] + ["th"] * 7,
            strict=True,
        ),
        1,
    )
}
NAMES = frozenset(
    _words(
        "monday tuesday wednesday thursday friday saturday sunday january february april june july september october "
        "november december france germany spain italy portugal england scotland ireland norway sweden finland denmark "
        "belgium netherlands austria switzerland hungary romania bulgaria greece ukraine russia estonia latvia "
        "lithuania slovakia slovenia croatia serbia albania iceland canada mexico brazil argentina peru chile bolivia "
        "ecuador colombia venezuela uruguay paraguay egypt morocco algeria tunisia libya nigeria kenya ethiopia ghana "
        "tanzania uganda zimbabwe israel iraq iran india pakistan bangladesh afghanistan nepal thailand vietnam "
        "cambodia malaysia singapore indonesia japan australia europe africa asia antarctica london berlin munich "
        "madrid barcelona lisbon rome vienna oslo stockholm copenhagen helsinki warsaw prague budapest athens moscow "
        "dublin edinburgh amsterdam brussels zurich tokyo kyoto beijing shanghai seoul delhi mumbai bangkok cairo "
        "nairobi toronto chicago seattle california texas florida alaska hawaii everest english spanish italian "
        "portuguese russian korean arabic microsoft youtube whatsapp instagram netflix wikipedia linkedin spotify "
        "github gitlab iphone ipad macos linux javascript typescript postgresql mysql mongodb kubernetes wifi "
        "bluetooth christmas thanksgiving halloween"
    )
)
"""Names that are nothing else, and stay the same in small letters. Any other name counts with its capitals."""
REAL = frozenset(_words("manger deplete depletes decease pervious wether heathy"))
"""Words, however near to another."""
LOUD = frozenset(_words("who it us may will aids led ram sad pet act pin lame nice"))
"""What may be short for something else where all is in capitals."""
