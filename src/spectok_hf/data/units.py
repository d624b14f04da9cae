"""Units at the door: columns with an astropy unit become plain numbers in Å and in one flux unit."""

from typing import Any

import numpy as np

from ..models.spectrum import to_angstrom


def strip_units(row: dict[str, Any]) -> dict[str, Any]:
    """A row of plain numbers: wavelengths in Å, flux in its own unit, which `flux_unit` then names.

    Args:
        row: Pixel columns by name, some with a `unit` (Quantity, astropy column).

    Raises:
        ValueError: If a unit is not one of wavelength, or errors have another unit than the flux.
    """
    units = {name: value.unit for name, value in row.items() if getattr(value, "unit", None) is not None}
    if not units:
        return row
    plain = row | {name: plain_numbers(row[name]) for name in units}
    if "wavelength" in units:
        plain |= {"wavelength": spectral_to_angstrom(plain["wavelength"], units["wavelength"])}
        plain.pop("wavelength_unit", None)
    if "flux" in units:
        plain.setdefault("flux_unit", unit_text(units["flux"]))
    for name, power in (("error", 1), ("ivar", -2), ("truth", 1)):
        if name in units:
            plain[name] = plain[name] * flux_factor(name, units[name], units.get("flux"), power)
    return plain


def plain_numbers(values: Any) -> Any:
    """The numbers of a Quantity or column; masked pixels stay masked.

    Args:
        values: Quantity, masked Quantity or astropy column.
    """
    mask = getattr(values, "mask", None)
    data = values.unmasked if hasattr(values, "unmasked") else values
    data = np.ma.getdata(data.value if hasattr(data, "value") else data)
    return np.asarray(data) if mask is None or not np.any(mask) else np.ma.MaskedArray(data, mask=np.asarray(mask))


def spectral_to_angstrom(values: Any, unit: Any) -> Any:
    """Wavelengths in Å from numbers in any spectral unit: lengths, frequencies, energies, wave numbers.

    Args:
        values: The axis, shape (L,) or (n, L).
        unit: Its unit, an astropy unit.

    Raises:
        ValueError: If the unit is none of those; velocities need a rest wavelength that nobody gave.
    """
    if isinstance(values, np.ma.MaskedArray):  # a missing wavelength is padding, whatever stands below the mask
        values = np.ma.filled(values.astype(np.float64), np.nan)
    try:
        return to_angstrom(values, str(unit))  # the usual units, and spellings that astropy does not know
    except ValueError:
        pass
    from astropy import units

    try:
        return unit.to(units.AA, values, equivalencies=units.spectral())
    except (units.UnitConversionError, units.UnitTypeError, TypeError, ValueError) as error:
        raise ValueError(
            f"wavelength has the unit {unit}: expected one of length, frequency, energy or wave number; "
            "convert it first (a velocity axis needs the rest wavelength of its line)"
        ) from error


def unit_text(unit: Any) -> str | None:
    """A unit as text; None for a number without one.

    Args:
        unit: An astropy unit, known or not.
    """
    return unit.to_string().strip() or None


def flux_factor(name: str, unit: Any, flux_unit: Any, power: int) -> float:
    """What turns the numbers of an error, variance or inverse variance into the unit of the flux.

    Args:
        name: What the numbers are, for the message.
        unit: Their unit.
        flux_unit: Unit of the flux, None where it has none.
        power: 1 for errors, 2 for variances, -2 for inverse variances.

    Raises:
        ValueError: If the units do not go together.
    """
    if flux_unit is None:
        raise ValueError(f"{name} has the unit {unit} and flux has none: give both units, or neither")
    from astropy import units

    try:
        return float(unit.to(flux_unit**power))
    except (units.UnitConversionError, units.UnitTypeError, TypeError, ValueError) as error:
        if str(unit) == str(flux_unit) and power == 1:  # a unit that astropy does not know, twice
            return 1.0
        expected = "the unit of the flux" + (f" to the power of {power}" if power != 1 else "")
        raise ValueError(
            f"{name} has the unit {unit}, which does not go with the flux in {flux_unit}: expected {expected}"
        ) from error


__all__ = ["flux_factor", "plain_numbers", "spectral_to_angstrom", "strip_units", "unit_text"]
