"""A plain classifier to measure others against: what binned, continuum-normalised flux alone tells of the class.

Nothing of the instrument shall help it: no colours (the continuum is divided out), no units, no count of bad pixels, and
no coverage beyond the bins that its user chooses, to be those that all surveys concerned observe.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..models.spectrum import Spectrum
from ..models.wavelength import air_to_vacuum

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline
