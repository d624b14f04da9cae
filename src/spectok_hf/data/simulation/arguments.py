"""What a caller may ask of the simulation, checked, and made into a recipe."""

import operator
from dataclasses import replace
from typing import Any

import numpy as np

from .recipes import HONEST, RECIPES, Recipe


def as_recipe(survey: str, honest: bool) -> Recipe:
    """The recipe of a survey, on request without what makes its errors untrue.

    Args:
        survey: A key of `RECIPES`.
        honest: Whether errors are true.
    """
    recipe = RECIPES[survey]
    if not honest:
        return recipe
    probability, longest, _ = recipe.persistence  # kept, at no effect: else other numbers would be drawn after it
    return replace(recipe, persistence=(probability, longest, 1.0), **HONEST)


def as_count(name: str, value: Any) -> int:
    """A non-negative integer.

    Args:
        name: Name of the argument.
        value: What was given.

    Raises:
        ValueError: If it is none.
    """
    try:
        count = operator.index(value)
    except TypeError:
        count = -1
    if count < 0:
        raise ValueError(f"{name} must be a non-negative integer, found {value!r}")
    return count


def as_snr_range(snr: Any) -> tuple[float, float]:
    """Lowest and highest signal-to-noise ratio.

    Args:
        snr: One number, or two.

    Raises:
        ValueError: If they are not positive and in ascending order.
    """
    bounds = np.atleast_1d(np.asarray(snr, dtype=np.float64))
    if bounds.shape not in ((1,), (2,)) or not np.isfinite(bounds).all() or not 0 < bounds[0] <= bounds[-1]:
        raise ValueError(f"snr must be a positive number, or two in ascending order, found {snr!r}")
    return float(bounds[0]), float(bounds[-1])


def stream_of_visit(seed: np.random.SeedSequence, number: int) -> np.random.Generator:
    """What is drawn anew at each visit of an object; that of the first visit is the stream of the seed itself.

    Args:
        seed: Seed of the object's noise.
        number: Number of the visit, from 0.
    """
    key = (*seed.spawn_key, number) if number else seed.spawn_key
    return np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=key))


__all__ = ["as_count", "as_recipe", "as_snr_range", "stream_of_visit"]
