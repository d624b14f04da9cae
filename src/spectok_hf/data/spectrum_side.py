"""What reads spectra, of a model or processor of spectra with images, and on which grid it reads them."""

from typing import Any

from ..models.spectrum import Spectrum

PARTS = ("spectrum_config", "spectrum_processor")


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
    """Why a processor cannot read a spectrum, which is on a grid or in a unit that its model does not know.

    Args:
        processor: The processor.
        spectrum: The spectrum.

    Returns:
        The reason, without the identifier of the spectrum; empty where it can.
    """
    if not hasattr(processor, "grid_size") and getattr(processor, "flux_unit", None) is None:
        return ""  # one that reads any grid in any unit: it is not normalised in vain
    try:
        processor.good_pixels(as_read(processor, spectrum))
    except ValueError as error:
        return str(error).replace(f" (object_id={spectrum.object_id})", "")
    return ""


__all__ = ["as_read", "refusal", "spectrum_part"]
