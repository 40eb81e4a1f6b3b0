"""Tasks: problems and verifiers. One file per task, one line here."""

from pear.tasks.maths.competitions import Aime24, Aime25, Amc23, Math500
from pear.tasks.maths.dapo import Dapo17k
from pear.tasks.maths.file import MathsFile
from pear.tasks.maths.gsm8k import Gsm8k
from pear.tasks.maths.minerva import Minerva
from pear.tasks.maths.olympiadbench import OlympiadBench
from pear.tasks.maths.synthetic2 import Synthetic2
from pear.tasks.protocol import FileTask, GeneratedTask, Problem, Task, Verdict
from pear.tasks.reasoning_gym import REASONING_GYM
from pear.tasks.synlogic.arc_agi import ArcAgi
from pear.tasks.synlogic.arrow_maze import ArrowMaze
from pear.tasks.synlogic.boolean_expressions import BooleanExpressions
from pear.tasks.synlogic.buggy_tables import BuggyTables
from pear.tasks.synlogic.calcudoko import Calcudoko
from pear.tasks.synlogic.campsite import Campsite
from pear.tasks.synlogic.cipher import Cipher
from pear.tasks.synlogic.cryptarithm import Cryptarithm
from pear.tasks.synlogic.dyck_language import DyckLanguage
from pear.tasks.synlogic.dyck_language_errors import DyckLanguageErrors
from pear.tasks.synlogic.dyck_language_reasoning_errors import DyckLanguageReasoningErrors
from pear.tasks.synlogic.futoshiki import Futoshiki
from pear.tasks.synlogic.game_of_24 import GameOf24
from pear.tasks.synlogic.goods_exchange import GoodsExchange
from pear.tasks.synlogic.kukurasu import Kukurasu
from pear.tasks.synlogic.math_path import MathPath
from pear.tasks.synlogic.minesweeper import Minesweeper
from pear.tasks.synlogic.norinori import Norinori
from pear.tasks.synlogic.number_wall import NumberWall
from pear.tasks.synlogic.numbrix import Numbrix
from pear.tasks.synlogic.object_counting import ObjectCounting
from pear.tasks.synlogic.object_properties import ObjectProperties
from pear.tasks.synlogic.operation import Operation
from pear.tasks.synlogic.published import PublishedRows
from pear.tasks.synlogic.skyscraper_puzzle import SkyscraperPuzzle
from pear.tasks.synlogic.space_reasoning import SpaceReasoning
from pear.tasks.synlogic.space_reasoning_tree import SpaceReasoningTree
from pear.tasks.synlogic.star_placement_puzzle import StarPlacementPuzzle
from pear.tasks.synlogic.sudoku import Sudoku
from pear.tasks.synlogic.survo import Survo
from pear.tasks.synlogic.time_sequence import TimeSequence
from pear.tasks.synlogic.web_of_lies import WebOfLies
from pear.tasks.synlogic.word_sorting import WordSorting
from pear.tasks.synlogic.word_sorting_mistake import WordSortingMistake
from pear.tasks.synlogic.wordscapes import Wordscapes
from pear.tasks.synlogic.zebra_puzzle import ZebraPuzzle
from pear.tasks.tiny.affine_chain import AffineChain
from pear.tasks.tiny.permutation_chain import PermutationChain

TASKS: dict[str, GeneratedTask | FileTask] = {
    "tiny/affine_chain": AffineChain(),
    "tiny/permutation_chain": PermutationChain(),
    "synlogic/arc_agi": ArcAgi(),
    "synlogic/arrow_maze": ArrowMaze(),
    "synlogic/boolean_expressions": BooleanExpressions(),
    "synlogic/buggy_tables": BuggyTables(),
    "synlogic/calcudoko": Calcudoko(),
    "synlogic/campsite": Campsite(),
    "synlogic/cipher": Cipher(),
    "synlogic/cryptarithm": Cryptarithm(),
    "synlogic/dyck_language": DyckLanguage(),
    "synlogic/dyck_language_errors": DyckLanguageErrors(),
    "synlogic/dyck_language_reasoning_errors": DyckLanguageReasoningErrors(),
    "synlogic/futoshiki": Futoshiki(),
    "synlogic/game_of_24": GameOf24(),
    "synlogic/goods_exchange": GoodsExchange(),
    "synlogic/kukurasu": Kukurasu(),
    "synlogic/math_path": MathPath(),
    "synlogic/minesweeper": Minesweeper(),
    "synlogic/norinori": Norinori(),
    "synlogic/number_wall": NumberWall(),
    "synlogic/numbrix": Numbrix(),
    "synlogic/object_counting": ObjectCounting(),
    "synlogic/object_properties": ObjectProperties(),
    "synlogic/operation": Operation(),
    "synlogic/rows": PublishedRows(),
    "synlogic/skyscraper_puzzle": SkyscraperPuzzle(),
    "synlogic/space_reasoning": SpaceReasoning(),
    "synlogic/space_reasoning_tree": SpaceReasoningTree(),
    "synlogic/star_placement_puzzle": StarPlacementPuzzle(),
    "synlogic/sudoku": Sudoku(),
    "synlogic/survo": Survo(),
    "synlogic/time_sequence": TimeSequence(),
    "synlogic/web_of_lies": WebOfLies(),
    "synlogic/word_sorting": WordSorting(),
    "synlogic/word_sorting_mistake": WordSortingMistake(),
    "synlogic/wordscapes": Wordscapes(),
    "synlogic/zebra_puzzle": ZebraPuzzle(),
    "maths/aime24": Aime24(),
    "maths/aime25": Aime25(),
    "maths/amc23": Amc23(),
    "maths/dapo17k": Dapo17k(),
    "maths/file": MathsFile(),
    "maths/gsm8k": Gsm8k(),
    "maths/math500": Math500(),
    "maths/minerva": Minerva(),
    "maths/olympiadbench": OlympiadBench(),
    "maths/synthetic2": Synthetic2(),
    **REASONING_GYM,
}

__all__ = ["TASKS", "FileTask", "GeneratedTask", "Problem", "Task", "Verdict"]
