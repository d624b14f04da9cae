"""What reads spectra, of a model or processor of spectra with images, on which grid it reads them, and whether as
pictures.
"""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from ..models.spectrum import Spectrum, is_per_frequency

PARTS = ("spectrum_config", "spectrum_processor")
PICTURE_TOKEN = 16  # pixels of a side of what a vision encoder makes a token of, as ViT-B/16 does


def spectrum_part(whole: Any) -> Any:
    """Of a config or processor of spectra with images, that of the spectra; of spectra alone, itself.

    Args:
        whole: The config or processor.
    """
    return next((getattr(whole, name) for name in PARTS if hasattr(whole, name)), whole)


def as_read(processor: Any, spectrum: Spectrum) -> Spectrum:
    """A spectrum on the grid on which it is read: its own, unless the processor resamples.

    Args:
        processor: The processor.
        spectrum: The spectrum.

    Raises:
        ValueError: If it has nothing on that grid.
    """
    return processor.to_grid(spectrum) if getattr(processor, "resample", False) else spectrum


def refusal(processor: Any, spectrum: Spectrum) -> str:
    """Why a processor cannot read a spectrum: on a grid or in a unit that its model does not know, or too long a one.

    Args:
        processor: The processor.
        spectrum: The spectrum.

    Returns:
        The reason, without the identifier of the spectrum; empty where it can.
    """
    strict = getattr(processor, "on_long", None) == "raise"
    choosy = strict or hasattr(processor, "grid_size") or getattr(processor, "flux_unit", None) is not None
    if not choosy and not is_per_frequency(str(spectrum.flux_unit)):
        return ""  # one that reads any grid in any unit per wavelength: it is not normalised in vain
    try:
        processor.good_pixels(as_read(processor, spectrum))
        if strict:
            processor.flux_limits(spectrum)  # of the cells of a map, of which there may be too few
    except ValueError as error:
        return str(error).replace(f" (object_id={spectrum.object_id})", "")
    return ""


def reads_pictures(processor: Any) -> bool:
    """Whether a processor draws each spectrum as one picture, no part of which has a wavelength.

    Args:
        processor: The processor.
    """
    return hasattr(processor, "draw")


def drawing_of(processor: Any) -> dict[str, Any]:
    """What a processor of pictures was made with, all of which changes what a model sees.

    Args:
        processor: The processor.
    """
    names = inspect.signature(type(processor)).parameters
    return {name: getattr(processor, name) for name in names if hasattr(processor, name)}


def reading_of(processor: Any) -> dict[str, Any]:
    """The settings by which a processor makes of a spectrum what a model sees, as JSON has them.

    Args:
        processor: The processor.
    """
    found = {name: value for name, value in drawing_of(processor).items() if name != "on_invalid"}
    return dict(json.loads(json.dumps(found)))


def other_reading(known: Mapping[str, Any] | None, processor: Any) -> str:
    """In which settings a processor differs from another one, in words; empty where in none that both have.

    Args:
        known: What `reading_of` gave of the other one; None = not known.
        processor: The processor.
    """
    found = reading_of(processor) if known and processor is not None else {}
    return ", ".join(
        f"{name}={found[name]!r} instead of {value!r}"
        for name, value in (known or {}).items()
        if name in found and found[name] != value
    )


def check_tokens(processor: Any, name: str, what: str, instead: str) -> None:
    """Refuse what reads tokens, of a model that has none with wavelengths.

    Args:
        processor: The processor of the model.
        name: Of the model.
        what: Reads tokens.
        instead: What to do.

    Raises:
        ValueError: If the model reads pictures.
    """
    if reads_pictures(processor):
        raise ValueError(
            f"{what} needs a model that reads patches of known wavelength, found {name}, which reads a spectrum as "
            f"one picture: {instead}"
        )


def tokens_per_patch(processor: Any) -> int:
    """What a patch costs beside others: 1, and a picture as much as the tokens that a vision encoder makes of it.

    Args:
        processor: The processor.
    """
    return max(processor.image_size // PICTURE_TOKEN, 1) ** 2 if reads_pictures(processor) else 1


__all__ = [
    "as_read",
    "check_tokens",
    "drawing_of",
    "other_reading",
    "reading_of",
    "reads_pictures",
    "refusal",
    "spectrum_part",
    "tokens_per_patch",
]
