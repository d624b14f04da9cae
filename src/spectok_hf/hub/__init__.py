"""Publishing: model cards, checkpoints on the Hub, a Space that shows them; checkpoints of others, converted."""

from .card_checks import check_card
from .card_facts import CardFacts, Result, TrainingSurvey, load_facts, save_facts
from .cards import model_card
from .convert_astroclip import convert_astroclip
from .figures import task_results, training_surveys, truth_results
from .publish import export, push

__all__ = [
    "CardFacts",
    "Result",
    "TrainingSurvey",
    "check_card",
    "convert_astroclip",
    "export",
    "load_facts",
    "model_card",
    "push",
    "save_facts",
    "task_results",
    "training_surveys",
    "truth_results",
]
