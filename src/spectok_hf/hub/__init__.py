"""Publishing: model cards, checkpoints on the Hub, and a Space that shows them."""

from .card_checks import check_card
from .card_facts import CardFacts, Result, TrainingSurvey, load_facts, save_facts
from .cards import model_card
from .figures import task_results, training_surveys, truth_results
from .publish import export, push

__all__ = [
    "CardFacts",
    "Result",
    "TrainingSurvey",
    "check_card",
    "export",
    "load_facts",
    "model_card",
    "push",
    "save_facts",
    "task_results",
    "training_surveys",
    "truth_results",
]
