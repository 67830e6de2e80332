"""The words and sentence shapes of the built-in text. Everything is plain ASCII English, one phrase a slot.

Every phrase begins with a space and ends in another character, so that phrases meet at cuts, where token counts add
up. Nothing here resembles what a task plants, so a planted fact occurs once.
"""

# ruff: noqa: SIM905 - word lists read better as text

from __future__ import annotations

from itertools import product

_ADJECTIVES = """
old young quiet narrow broken distant heavy pale careful empty hidden northern southern eastern western wooden
rusted silver golden crooked patient weary cheerful stubborn modest forgotten ancient modern local foreign famous
silent gentle bitter bright dark frozen warm dusty polished painted ruined steady restless curious clever humble
proud lonely friendly nervous generous serious simple strange familiar uncertain sudden early late former second
small large tall low broad deep shallow steep smooth rough sharp dull rich poor clean bare plain rare common
""".split()

_PEOPLE = """
harbour master|schoolteacher|clockmaker|ferryman|gardener|carpenter|librarian|baker|surveyor|watchman|printer|weaver
miller|fisherman|shepherd|merchant|doctor|lawyer|engineer|painter|musician|translator|captain|sailor|messenger|widow
innkeeper|blacksmith|tailor|beekeeper|potter|mason|glazier|cartographer|archivist|botanist|geologist|photographer
signalman|postmistress|stationmaster|apprentice|clerk|judge|mayor|bishop|sergeant|traveller|stranger|neighbour
daughter of the miller|brother of the mayor|keeper of the lighthouse|owner of the mill|head of the school
""".replace("\n", "|")

_THINGS = """
compass|lantern|ledger|letter|bridge|ladder|violin|telescope|map|clock|boat|cart|fence|gate|orchard|chapel|well|barn
bell|mirror|table|window|staircase|chimney|engine|pump|wheel|rope|anchor|net|basket|blanket|kettle|stove|cupboard
bookshelf|manuscript|photograph|painting|statue|fountain|garden|cellar|attic|tower|wall|road|path|canal|tunnel|quarry
workshop|market stall|printing press|weather station|sewing machine|grain store|stone wall|boat house|water wheel
""".replace("\n", "|")

_PLACES = """
bridge|harbour|market|river|forest|station|library|chapel|school|mill|lighthouse|village|valley|hill|lake|island|coast
castle|square|museum|town hall|theatre|hospital|quarry|monastery|railway line|ferry landing|city gate|fish market
old cemetery|botanical garden|post office|observatory|customs house|shipyard|brewery|tannery|reservoir|crossroads
""".replace("\n", "|")

_FIRST_NAMES = """
Ada Mara Ivo Nell Tomas Greta Otto Ines Felix Clara Hugo Vera Anton Lena Oskar Rosa Emil Nora Karl Edith Jonas Alma
Peter Hanna Viktor Agnes Leo Marta Simon Ruth Paul Irene Walter Judith Martin Helen David Laura Robert Sarah
""".split()

_LAST_NAMES = """
Ellison Brandt Kowal Marsh Lindgren Novak Hale Ferrer Weiss Aldous Petrov Quill Sander Thorne Vance Whitlock Yates
Bauer Castell Dorn Everly Falk Garner Holm Irving Jansen Keller Lowell Mercer Norden Olsen Pryor Rusk Stroud Tilden
""".split()

_TRANSITIVE = """
repaired|painted|sold|found|described|carried|measured|borrowed|inherited|examined|restored|abandoned|photographed
admired|inspected|replaced|cleaned|hid|studied|bought|remembered|forgot|mentioned|noticed|moved|closed|opened|locked
protected|ignored|sketched|dismantled|polished|insured|lost|recovered|valued|rebuilt|designed|improved|guarded
""".replace("\n", "|")

_INTRANSITIVE = """
walked slowly|waited|returned|slept|worked all night|sat alone|spoke quietly|laughed|hesitated|listened|disappeared
arrived|stopped|stayed behind|kept walking|fell silent|grew tired|turned around|hurried home|looked up|went on reading
""".replace("\n", "|")

_ADVERBS = """
slowly|quietly|carefully|almost by accident|without a word|for the third time|with great care|as usual|once again
reluctantly|in silence|before breakfast|after a long argument|against all advice|in good spirits|at last|by hand
""".replace("\n", "|")

_SEASONS = ["spring", "summer", "autumn", "winter", "first week", "last days"]
_MONTHS = "January February March April May June July August September October November December".split()
_PREPOSITIONS = "near behind beside above below outside inside opposite beyond towards past around".split()
_REASONS = """
because nobody had asked|because the rain had stopped|although it was already dark|while the others were asleep
since the road was closed|because the wind had turned|although the price had doubled|while the snow was melting
as the letters had promised|because the river had risen|until the lamps were lit|before the market opened
although few people believed it|while the bells were ringing|since the winter had been long|as the custom required
""".replace("\n", "|")
_OPENINGS = """
In those days|Some years later|That morning|On most evenings|According to the records|By the end of the month|At first
Not long afterwards|For a while|Until then|As far as anyone knew|Every other week|In the following year|Most of the time
""".replace("\n", "|")


_CLOSINGS = """
Nothing more was said|That was all|So it remained|Nobody objected|The matter was settled|And that was that
""".replace("\n", "|")


def _phrases(block: str) -> list[str]:
    return [phrase for phrase in block.split("|") if phrase]


def _article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _slots() -> dict[str, list[str]]:
    people = [f"{adjective} {noun}" for adjective, noun in product(_ADJECTIVES, _phrases(_PEOPLE))]
    things = [f"{adjective} {noun}" for adjective, noun in product(_ADJECTIVES, _phrases(_THINGS))]
    years = range(1790, 1990)
    openings = _phrases(_OPENINGS)
    return {
        "Person": [f"The {person}" for person in people],
        "Someone": [_article(person).capitalize() for person in people],
        "Name": [f"{first} {last}" for first, last in product(_FIRST_NAMES, _LAST_NAMES)],
        "Opening": openings,
        "Break": [f"{closing}.\n\n{opening}" for closing, opening in product(_phrases(_CLOSINGS), openings)],
        "person": [f"the {person}" for person in people],
        "someone": [_article(person) for person in people],
        "thing": [f"the {thing}" for thing in things] + [_article(thing) for thing in things],
        "place": [f"{where} the {place}" for where, place in product(_PREPOSITIONS, _phrases(_PLACES))],
        "did": _phrases(_TRANSITIVE),
        "went": _phrases(_INTRANSITIVE),
        "adverb": _phrases(_ADVERBS),
        "when": [f"in the {season} of {year}" for season, year in product(_SEASONS, years)]
        + [f"in {month} {year}" for month, year in product(_MONTHS, years)],
        "reason": _phrases(_REASONS),
        "money": [f"for {amount} crowns" for amount in range(12, 960)],
        "distance": [f"some {count} paces away" for count in range(11, 400)],
        "and": ["and", "but", "so", "while"],
        "who": ["who had once", "who never", "who had often"],
    }


# Slots with the punctuation that follows them. `Break` ends a paragraph and opens the next.
SENTENCES = tuple(
    sentence.split()
    for sentence in (
        "Person did thing place.",
        "Person went adverb, reason.",
        "Name did thing when.",
        "Name did thing money, and person went.",
        "Someone did thing place, reason.",
        "Opening, person did thing adverb.",
        "Opening, Name went place when.",
        "Opening, someone did thing, distance.",
        "Person, who did thing, went place.",
        "Name went place, and person did thing.",
        "Person did thing, and Name did thing adverb.",
        "Name, who did thing, did thing money.",
        "Someone went place when.",
        "Opening, person went adverb, and someone did thing.",
        "Person did thing, reason!",
        "Break, someone did thing place.",
        "Break, Name did thing adverb, reason.",
    )
)


def categories() -> dict[str, list[str]]:
    """Return the phrases of every slot that occurs in the sentences, punctuation included."""
    slots = _slots()
    used = dict.fromkeys(slot for sentence in SENTENCES for slot in sentence)
    found = {}
    for slot in used:
        name = slot.rstrip(",.!")
        found[slot] = [f" {phrase}{slot[len(name) :]}" for phrase in slots[name]]
    return found
