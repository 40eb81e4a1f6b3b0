"""Word sorting: put words into the order of an alphabet that is not the usual one."""

import json
import random
import re
import string
from dataclasses import dataclass

from pear.tasks.answers import INSTRUCTION, judge, parse_json
from pear.tasks.protocol import GeneratedTask, Problem, Verdict


@dataclass(frozen=True, kw_only=True)
class _Level:
    words: int
    moved: int
    prefix: int


_LEVELS = {
    "easy": _Level(words=5, moved=1, prefix=1),
    "medium": _Level(words=10, moved=3, prefix=2),
    "hard": _Level(words=20, moved=6, prefix=3),
}
_NEIGHBORS = 4

# Families with common beginnings, so that the second, third or fourth letter has to decide.
_TEXT = """
absorb abstract accept access accident account across action active actor adapt address adjust admit adopt advance
advice afraid after again agent agree album alive allow almost alone amount anchor ancient anger angle animal answer
apart appeal appear apple apply april argue arise armor around arrange arrest arrive arrow article artist band banker
banner barber bargain bark barley barrel base basin basket bath beach beam bean bear beard beast beauty begin behave
belief belong bench black blade blame blanket blast blend bless blind block bloom board border borrow bottle bottom
bounce bound bowl brain branch brass brave bread breath breeze brick bride bridge bright broad cabin cable camel camera
canal candle candy cannon canvas canyon captain capture carbon career cargo carpet carrot castle catch cattle chain
chair chalk chance change channel chapel chapter charge charity charm chase cheap cheese chest chicken child choose
circle claim class clean clear clever cliff climate climb clock cloth cloud coast coffee collar collect color column
comedy comfort common company compare concept concert confirm connect consent consider contact contain contest control
copper corner correct cotton couch council country courage cousin danger daughter debate decade decent decide declare
defeat defend define degree delay deliver demand depart deposit depth desert design desire detail develop device dialog
diamond dinner direct discover discuss dismiss display distance early earth easily echo edge effect effort either eleven
empire employ enable energy engine enjoy enough enter equal escape event exact example excite exist expand expect expert
fabric factor family famous farmer fashion father feather female fence figure finger finish flame flavor flight float
floor flower follow forest forget formal former fortune forward frame freeze fresh friend front frozen garden gather
general gentle giant ginger glance glass global glory gold gospel grain grand grape grass gravity great green greet
ground group habit hammer handle happen harbor harvest heart heavy helmet hidden history hollow honest honor horse
hospital hotel house human hunter image impact improve inch income increase indeed index infant inform inner input
insect inside insist inspire invent invite island ivory jacket jelly jewel join journal journey judge juice jungle keep
kettle kick kind kingdom kitchen kitten knee knife knock label ladder lady lake language large later laugh lawyer leader
learn leather legend lemon lesson letter level liberty light limit linen listen little local logic lonely machine magic
manage manner marble march margin market master match matter meadow measure medal member memory mention mercy message
metal method middle minute mirror mobile modern moment monkey month morning mother motion mountain museum narrow nation
native nature nearly needle nephew nerve never noble noise normal notice novel number object obtain ocean offer office
olive onion open option orange orbit order organ origin other outer oven owner oxygen packet paint palace panel paper
parade parcel parent parrot partner party passage pasture patient pattern peace pencil people pepper perfect period
permit person piano picture pigeon pillow pilot pioneer planet plant plastic plate player plenty pocket poem polite
popular portion position powder prefer prepare present press pretty prevent price prince print prison private problem
process produce promise proper protect proud provide public pupil puzzle quality quarter queen quick quiet rabbit random
range rather reason recall record reduce reflect reform region relax remain remedy remove repair report rescue reserve
result retire return reveal reward rhythm ribbon river rocket round route royal sample scale scene school science screen
search season second secret select senior series settle shadow shape share shelter shield shine shore shoulder signal
silent silver simple single sister sketch slender smooth social soldier spare special speech spirit spread spring square
stable staff stage stair stamp standard start state statue steam steel stone storm story strange stream street stress
string strong student sudden summer supply surface switch symbol table talent target teacher temple tender theater
theory thick thing third thread throw thunder ticket timber tissue title toast tomato tongue total touch toward tower
track trade trail train transfer travel treasure treat trial tribe trick trouble truck trumpet trust tunnel turtle
twelve twist ugly umbrella uncle under uniform unique unit unknown until upper useful usual vacant valley value vapor
various velvet venture verse vessel victory village violin virtue visit vital voice volume wagon wait walnut wander warm
water wealth weather weight welcome western whale wheat wheel whisper white whole wild window winter wisdom wonder
wooden worker world worry yard year yellow yield young youth zebra zero zone
"""
_WORDS = _TEXT.split()


class WordSorting(GeneratedTask):
    """Sorts words by an alphabet of which some letters were moved to the front, forwards or backwards.

    Levels differ in the number of words, of moved letters, and of first letters that groups of words share:
    easy 5, 1, 1; medium 10, 3, 2; hard 20, 6, 3.

    The answer is the words separated by commas or spaces, or a JSON list of them; nothing else.
    """

    name = "synlogic/word_sorting"
    levels = tuple(_LEVELS)
    source = "the rules of SynLogic's task `word_sorting` (arXiv 2505.19641); words and generator are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = _LEVELS[level]
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        words = _draw_words(draw, knobs)
        moved, alphabet = _draw_alphabet(draw, words, knobs.moved)
        descending = draw.random() < 0.5
        state = {"words": words, "alphabet": alphabet, "descending": descending}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(words, moved, descending)},),
            state=state,
            answer=", ".join(_sorted(words, alphabet, descending)),
        )

    def verify(self, problem: Problem, completion: str) -> Verdict:
        words = problem.state["words"]

        def check(answer: str) -> tuple[str, str]:
            found = _read_words(answer)
            reason = ""
            if sorted(found) != sorted(words):
                reason = "the words are not those to be sorted"
            elif found != _sorted(words, problem.state["alphabet"], problem.state["descending"]):
                reason = "the order is wrong"
            return ", ".join(found), reason

        return judge(completion, check)

    def canonical(self, problem: Problem) -> str:
        """The words in usual order, the order of the letters that occur in them, and the direction."""
        words, letters = sorted(problem.state["words"]), set("".join(problem.state["words"]))
        alphabet = "".join(letter for letter in problem.state["alphabet"] if letter in letters)
        return f"{self.name}:{json.dumps([words, alphabet, problem.state['descending']])}"

    def solve(self, problem: Problem) -> str:
        words, alphabet = problem.state["words"], problem.state["alphabet"]
        steps: list[str] = []
        _note_letters(words, alphabet, 0, steps)
        if problem.state["descending"]:
            steps.append("Descending, so the other way round.")
        return f"<think> {' '.join(steps)} </think> <answer> {problem.answer} </answer>"


def _draw_words(draw: random.Random, knobs: _Level) -> list[str]:
    """Distinct words, in groups of up to `_NEIGHBORS` that share their first letters."""
    words: list[str] = []
    while len(words) < knobs.words:
        start = draw.choice(_WORDS)[: knobs.prefix]
        family = [word for word in _WORDS if word.startswith(start) and word not in words]
        words += draw.sample(family, min(_NEIGHBORS, len(family), knobs.words - len(words)))
    draw.shuffle(words)
    return words


def _draw_alphabet(draw: random.Random, words: list[str], count: int) -> tuple[list[str], str]:
    """Letters moved to the front and the alphabet they make: one that changes the order of the words."""
    letters = sorted(set("".join(words)))
    while True:
        moved = draw.sample(letters, count)
        alphabet = "".join(moved) + "".join(letter for letter in string.ascii_lowercase if letter not in moved)
        if _sorted(words, alphabet, False) != sorted(words):
            return moved, alphabet


def _question(words: list[str], moved: list[str], descending: bool) -> str:
    first = f"the first is {moved[0]}" if len(moved) == 1 else f"the first {len(moved)} are {', '.join(moved)}"
    return (
        f"{INSTRUCTION}\n\n"
        f"Consider a new alphabet. Its letters have the same order as in the English alphabet, except that {first}. "
        f"Sort these words in {'descending' if descending else 'ascending'} order by the new alphabet, as in a "
        f"dictionary:\n\n{', '.join(words)}\n\n"
        "The answer is the sorted words, separated by commas."
    )


def _sorted(words: list[str], alphabet: str, descending: bool) -> list[str]:
    return sorted(words, key=lambda word: [alphabet.index(letter) for letter in word], reverse=descending)


def _read_words(answer: str) -> list[str]:
    if not answer.startswith("["):
        return re.split(r"\s*,\s*|\s+", answer)
    value = parse_json(answer)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("the answer is not a list of words")
    return value


def _note_letters(words: list[str], alphabet: str, position: int, steps: list[str]) -> None:
    """Groups words by the letter at a position, in the alphabet's order, then each group by the next letter."""
    groups = {letter: [word for word in words if word[position : position + 1] == letter] for letter in ["", *alphabet]}
    groups = {letter: group for letter, group in groups.items() if group}
    parts = [f"{letter or 'end'}: {', '.join(group)}" for letter, group in groups.items()]
    steps.append(f"Letter {position + 1}: {'; '.join(parts)}.")
    for group in groups.values():
        if len(group) > 1:
            _note_letters(group, alphabet, position + 1, steps)
