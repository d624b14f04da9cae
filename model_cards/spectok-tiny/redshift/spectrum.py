"""`Spectrum`: one observed spectrum, checked where it enters, and the axis units it may come in."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PLAUSIBLE_WAVELENGTH = (900.0, 25_000.0)  # Å, from the Lyman limit to the K band: every survey this package knows
SENTINEL_WAVELENGTH = 99_999.0  # Å, the padding of AION; the Multimodal Universe pads with -1, LAMOST with 0
SENTINEL_ERROR = 1e9  # APOGEE writes 1e10 where it has no data
USELESS_ERROR = 1e3  # errors this many times the median error carry nothing: apVisit writes 1e7 into bad pixels

WAVELENGTH_UNITS = {
    "angstrom": 1.0,
    "nm": 10.0,
    "um": 1e4,
    "log10_angstrom": None,  # not a factor
}
_UNIT_ALIASES = {
    "a": "angstrom",
    "aa": "angstrom",
    "å": "angstrom",
    "ångström": "angstrom",
    "ang": "angstrom",
    "angstroms": "angstrom",
    "nanometer": "nm",
    "nanometre": "nm",
    "µm": "um",
    "μm": "um",
    "micron": "um",
    "micrometer": "um",
    "loglam": "log10_angstrom",
    "log10(angstrom)": "log10_angstrom",
    "log10 angstrom": "log10_angstrom",
    "dex(angstrom)": "log10_angstrom",
}
CGS_UNIT = "1e-17 erg/s/cm2/Angstrom"  # of the flux of most optical surveys
# Ends of the names of units per frequency, behind any prefix.
_PER_FREQUENCY = ("jy", "jansky", "janskys", "hz", "hertz", "abmag", "mgy", "maggy", "maggies")
_REMOVED = "wavelength is padding (pixel removed)"
MEDIA = ("vacuum", "air")
FRAMES = ("observed", "rest")


@dataclass(eq=False, repr=False)
class Spectrum:
    """One observed spectrum on its own wavelength grid.

    The constructor is strict about the axis and forgiving about the pixels: a wavelength axis that cannot be meant
    raises, while a pixel that carries no information is counted in `dropped` and no longer `good`: non-finite flux is
    masked, `ivar` that is negative, not finite, or smaller than 1e-6 of its median becomes 0. Flux is kept as it came,
    also under bad pixels. Arrays are copied, in native byte order. Use `Spectrum.from_arrays` for other units, errors
    and unsorted or padded axes. What is assigned to a spectrum later is not looked at: change it by
    `dataclasses.replace`, which checks.

    Args:
        flux: Flux density, shape (L,), in `flux_unit`.
        wavelength: Wavelength in Å, shape (L,), strictly increasing, in `medium` and `frame`.
        ivar: Inverse variance of the flux, shape (L,); 0 = no information.
        mask: Bad pixels, shape (L,), True = bad (the astronomers' convention).
        survey: Name of the survey, a key of `SURVEYS` where it is one of them.
        object_id: Identifier, always text (DESI's TARGETID does not fit into a float).
        medium: "vacuum" or "air".
        frame: "observed" or "rest".
        flux_unit: Unit of the flux, as text; never converted.
        labels: What is known of the object: `class`, `redshift`, `teff` (K), `rv` (km/s), `ra`, `dec` (degrees), ....
        truth: Noise-free flux, shape (L,), of simulated spectra only.

    Attributes:
        dropped: How many good pixels each reason took, each pixel counted once, under the first reason that met it.

    Raises:
        ValueError: If shapes disagree, the axis is not strictly increasing, or it does not look like Å.
    """

    flux: np.ndarray
    wavelength: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray = None  # type: ignore[assignment]  # an array from __post_init__ on
    survey: str | None = None
    object_id: str | None = None
    medium: str = "vacuum"
    frame: str = "observed"
    flux_unit: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    truth: np.ndarray | None = None
    dropped: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.labels = dict(self.labels)
        self.object_id = None if self.object_id is None else as_text(self.object_id)
        check_choice("medium", self.medium, MEDIA)
        check_choice("frame", self.frame, FRAMES)
        missing = _masked_pixels(self.flux, self.ivar)
        axis: Any = self.wavelength
        rising = isinstance(axis, _RisingAxis)
        self.wavelength = axis.pixels if rising else _as_wavelength(axis)
        self.flux = _as_vector(self.flux, "flux", np.float32)
        self.ivar = _as_vector(self.ivar, "ivar", _own_float(self.ivar))
        self.mask = _as_mask(self.mask, len(self.flux))
        if self.truth is not None:
            self.truth = _as_vector(self.truth, "truth", np.float32)
        columns = {"flux": self.flux, "ivar": self.ivar, "mask": self.mask, "truth": self.truth}
        _check_lengths(columns, self.wavelength)
        _check_axis(self.wavelength, rising)
        self._drop_uninformative(missing)

    @classmethod
    def unchecked(cls, **fields: Any) -> "Spectrum":
        """A spectrum of fields that were those of one before, as they are: nothing is checked, copied or dropped.

        For readers of what this package wrote itself; the checks of the constructor would cost more than the reading.

        Args:
            **fields: All fields of `Spectrum`, and `dropped`; arrays of the right types, which may be read-only.
        """
        spectrum = cls.__new__(cls)
        spectrum.__dict__.update(fields)
        return spectrum

    @classmethod
    def from_arrays(
        cls,
        flux: Any,
        wavelength: Any,
        *,
        ivar: Any = None,
        error: Any = None,
        mask: Any = None,
        wavelength_unit: str = "angstrom",
        **fields: Any,
    ) -> "Spectrum":
        """A spectrum from plain arrays, lists, tensors or masked arrays, in the units they come in.

        A descending axis is reversed; pixels whose wavelength is padding (not finite, <= 0 or >= 99999 Å) are removed
        and counted in `dropped`. Nothing else is guessed: arms that overlap, repeated wavelengths and an axis in an
        unstated unit raise.

        Args:
            flux: Flux density, shape (L,).
            wavelength: Wavelength axis, shape (L,), in `wavelength_unit`.
            ivar: Inverse variance, shape (L,). Exactly one of `ivar` and `error` is needed.
            error: Standard deviation, shape (L,), or one number for all pixels; not finite, <= 0 or >= 1e9 = no
                information. "estimate" measures one noise level from the flux itself (second differences of every
                other pixel, Stoehr et al. 2008, ASPC 394, 505).
            mask: Bad pixels, shape (L,), True = bad; masks of numbers count as bad where not 0, NaN included.
            wavelength_unit: "angstrom", "nm", "um" or "log10_angstrom".
            **fields: The other fields of `Spectrum`.

        Raises:
            ValueError: As `Spectrum`, or if `ivar` and `error` are both given or both absent.
        """
        missing = _masked_pixels(flux, ivar, error)
        # Views where they are of the right type: the constructor copies.
        given, wavelength = wavelength, to_angstrom(_as_wavelength(wavelength, copy=None), wavelength_unit)
        flux = _as_vector(flux, "flux", _own_float(flux), copy=None)
        truth = fields.pop("truth", None)
        columns = {
            "flux": flux,
            "ivar": _resolve_ivar(flux, ivar, error),
            "mask": _as_mask(mask, len(flux), copy=None) | missing,
            "truth": None if truth is None else _as_vector(truth, "truth", np.float64),
        }
        _check_lengths(columns, wavelength)
        order = usable_pixels(wavelength)
        if isinstance(order, slice):  # all pixels, ascending
            axis: Any = _RisingAxis(wavelength.copy() if _may_share(wavelength, given) else wavelength)
        else:
            axis = wavelength[order]
            columns = {name: None if column is None else column[order] for name, column in columns.items()}
        spectrum = cls(wavelength=axis, **columns, **fields)
        if len(spectrum) < len(wavelength):
            spectrum.dropped[_REMOVED] = len(wavelength) - len(spectrum)
        return spectrum

    def __len__(self) -> int:
        return len(self.flux)

    def __repr__(self) -> str:
        share = f"{self.good.mean():.1%} good" if self.ivar.any() else "ivar 0 everywhere"
        span = f"{self.wavelength[0]:.1f}-{self.wavelength[-1]:.1f} Å {self.medium}, {self.frame} frame"
        return f"Spectrum({self.name}: {len(self)} pixels, {span}, {share})"

    @property
    def name(self) -> str:
        """Survey and identifier, as far as they are known."""
        return " ".join(part for part in (self.survey, self.object_id) if part) or "unnamed"

    @property
    def good(self) -> np.ndarray:
        """Pixels that carry information, shape (L,), True = good."""
        good = self.ivar > 0
        good &= ~self.mask
        return good

    @property
    def error(self) -> np.ndarray:
        """Standard deviation of the flux, shape (L,); infinite where there is no information."""
        error = np.sqrt(self.ivar, dtype=np.float64)
        with np.errstate(divide="ignore"):
            return np.divide(1, error, out=error)

    def flag(self, bad: np.ndarray, reason: str) -> None:
        """Mark pixels as bad and count those that were good before under `reason`.

        Args:
            bad: Pixels to mark, shape (L,), True or not 0 = bad.
            reason: Short text for the report.

        Raises:
            ValueError: If `bad` has another length.
        """
        bad = _as_mask(bad, len(self))
        _check_lengths({"bad": bad}, self.wavelength)
        self._count(bad, reason)
        self.mask = self.mask | bad

    def report(self) -> str:
        """What was kept, what was dropped, and why; one line per reason."""
        counted = sum(count for reason, count in self.dropped.items() if reason != _REMOVED)
        given = int((~self.good).sum()) - counted
        reasons = ({"marked in the mask that came with the spectrum": given} if given else {}) | self.dropped
        lines = [f"  {count:6d} pixels: {reason}" for reason, count in reasons.items()]
        return "\n".join([repr(self), *(lines or ["  nothing dropped"])])

    def _count(self, bad: np.ndarray, reason: str) -> None:
        new = int((bad & self.good).sum())
        if new:
            self.dropped[reason] = self.dropped.get(reason, 0) + new

    def _drop_uninformative(self, missing: np.ndarray | bool) -> None:
        """Mask pixels without a flux, set `ivar` to 0 where it says nothing, and make it float32."""
        finite = np.isfinite(self.flux)
        if isinstance(missing, np.ndarray) or not finite.all():
            self._drop_absent(missing, ~finite)
        ivar = self.ivar
        lowest, highest = float(ivar.min()), float(ivar.max())
        if not (lowest > 0 and highest < np.inf):
            bad = np.flatnonzero(~((ivar > 0) & (ivar < np.inf)))
            self._drop_impossible(bad)
            highest = float(ivar.max())  # those are 0 now
            # The lowest of the others: theirs stands for them while it is looked for.
            ivar[bad] = highest
            lowest = float(ivar.min())
            ivar[bad] = 0
        if highest > 0:
            # The median is the costliest part of a spectrum's construction, and most spectra do not need it.
            if lowest < highest / USELESS_ERROR**2:
                self._drop_useless()
            if lowest < _FLOAT32_TINY or highest > _FLOAT32_MAX:
                _check_float32_range(ivar[~self.mask])
        self.ivar = ivar if ivar.dtype == np.float32 else ivar.clip(0, _FLOAT32_MAX).astype(np.float32)

    def _drop_absent(self, missing: np.ndarray | bool, infinite: np.ndarray) -> None:
        """Mask the pixels without a flux; what their `ivar` says is looked at later, and counts as good here."""
        ivar, self.ivar = self.ivar, np.ones(len(self), dtype=np.float32)
        if isinstance(missing, np.ndarray):
            self.flag(missing, "masked by numpy.ma")
        if infinite.any():
            self.flag(infinite, "flux is not finite")
        self.ivar = ivar

    def _drop_impossible(self, bad: np.ndarray) -> None:
        """Set `ivar` to 0 at the pixels `bad`, an index, and count why."""
        ivar = np.where(self.mask[bad], np.nan, self.ivar[bad])
        infinite = int((~np.isfinite(self.ivar[bad]) & ~self.mask[bad]).sum())
        negative = int(((ivar < 0) & (ivar > -np.inf)).sum())
        self.ivar[bad] = 0
        counts = {
            "ivar is not finite": infinite,
            "ivar < 0": negative,
            "ivar = 0 (no information)": int((ivar == 0).sum()),
        }
        self.dropped |= {reason: count for reason, count in counts.items() if count}

    def _drop_useless(self) -> None:
        good = self.good
        if good.any():
            useless = self.ivar < np.median(self.ivar[good].astype(np.float64)) / USELESS_ERROR**2
            self._count(useless, f"error > {USELESS_ERROR:.0f} x median (no information)")
            self.ivar[useless] = 0


def usable_pixels(wavelength: np.ndarray) -> np.ndarray | slice:
    """The pixels of an axis that are not padding, in ascending order, as an index.

    Args:
        wavelength: Wavelength in Å, shape (L,), ascending or descending, with padding anywhere.

    Returns:
        An index, or a slice, of all, where the axis is strictly increasing and without padding.
    """
    usual = len(wavelength) and wavelength[0] > 0 and wavelength[-1] < SENTINEL_WAVELENGTH
    if usual and _is_rising(wavelength):
        return slice(None)  # views cost nothing
    order = np.flatnonzero((wavelength > 0) & (wavelength < SENTINEL_WAVELENGTH))
    return order[::-1] if len(order) > 1 and (np.diff(wavelength[order]) < 0).all() else order


def to_angstrom(wavelength: np.ndarray, unit: str) -> np.ndarray:
    """Wavelengths in Å, float64.

    Args:
        wavelength: Wavelength axis, shape (L,), in `unit`.
        unit: "angstrom", "nm", "um" or "log10_angstrom" (`loglam`), or a common spelling of one of them.

    Raises:
        ValueError: If the unit is unknown.
    """
    name = unit.strip().lower()
    name = _UNIT_ALIASES.get(name, name)
    if name not in WAVELENGTH_UNITS:
        raise ValueError(f"wavelength_unit must be one of {', '.join(WAVELENGTH_UNITS)}, found {unit!r}")
    wavelength = np.asarray(wavelength, dtype=np.float64)
    if name == "angstrom":
        return wavelength
    if name == "log10_angstrom":
        with np.errstate(over="ignore"):
            return np.where(wavelength > 0, 10.0**wavelength, np.nan)
    return wavelength * WAVELENGTH_UNITS[name]


_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT32_TINY = float(np.finfo(np.float32).tiny)
# The span of an axis in other units, told apart where it can be: (lowest, highest, what to pass).
_LIKELY_UNITS = (
    (3.4, 4.4, '"log10_angstrom" (or "um", if these are micrometres)'),
    (0.09, 30.0, '"um"'),
    (90.0, 2_500.0, '"nm"'),
)


class _RisingAxis:
    """An axis in Å that `from_arrays` made for one spectrum and found strictly increasing: for the constructor, which
    would copy it and look again.
    """

    __slots__ = ("pixels",)

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels


def _is_rising(wavelength: np.ndarray) -> bool:
    """Whether an axis is strictly increasing; not so where a pixel is NaN."""
    return bool((wavelength[1:] > wavelength[:-1]).all())


def _may_share(own: np.ndarray, given: Any) -> bool:
    """Whether an array made of `given` may be its memory; only plain arrays are known not to."""
    return type(given) is not np.ndarray or np.may_share_memory(own, given)


def _check_lengths(columns: dict[str, np.ndarray | None], wavelength: np.ndarray) -> None:
    for name, column in columns.items():
        if column is not None and len(column) != len(wavelength):
            raise ValueError(
                f"{name} and wavelength must have the same length, found {len(column)} and {len(wavelength)}: "
                "pass one value per pixel"
            )


def _check_axis(wavelength: np.ndarray, rising: bool) -> None:
    if not len(wavelength):
        raise ValueError("a spectrum needs at least one pixel, found none: check the file or the padding")
    low, high = float(wavelength[0]), float(wavelength[-1])
    if not ((rising or _is_rising(wavelength)) and math.isfinite(low) and math.isfinite(high)):
        raise ValueError(_axis_message(wavelength))
    if low < PLAUSIBLE_WAVELENGTH[0] or high > PLAUSIBLE_WAVELENGTH[1]:
        raise ValueError(_unit_message(low, high))


def _axis_message(wavelength: np.ndarray) -> str:
    if not (finite := np.isfinite(wavelength)).all():
        pixel = int(np.argmin(finite))
        return (
            f"wavelength must be finite, found {wavelength[pixel]} at pixel {pixel}: "
            "remove such pixels, or use Spectrum.from_arrays, which drops padding"
        )
    step = np.diff(wavelength)
    if (step < 0).all():
        return (
            f"wavelength must be strictly increasing, found a descending axis ({wavelength[0]:.1f} -> "
            f"{wavelength[-1]:.1f}): reverse all arrays, or use Spectrum.from_arrays, which does"
        )
    pixel = int(np.argmax(step <= 0)) + 1
    what = "a decrease" if step[pixel - 1] < 0 else "a repeat"
    return (
        f"wavelength must be strictly increasing, found {what} at pixel {pixel} ({wavelength[pixel - 1]:.1f} -> "
        f"{wavelength[pixel]:.1f}): pass the arms as separate spectra or read_spectra(..., merge_arms=True)"
    )


def _unit_message(low: float, high: float) -> str:
    message = f"wavelength spans {low:.4g}-{high:.4g}; expected Angstrom (about 900-25000)"
    for lowest, highest, unit in _LIKELY_UNITS:
        if lowest <= low and high <= highest:
            return f"{message}: pass wavelength_unit={unit} to Spectrum.from_arrays or read_spectra"
    return f"{message}: pass wavelength_unit= if it has another unit, or cut the axis"


def _check_float32_range(ivar: np.ndarray) -> None:
    known = ivar[ivar > 0]
    if len(known) and (known.max() > _FLOAT32_MAX or known.min() < _FLOAT32_TINY):
        raise ValueError(
            f"ivar of {known.min():.1e} to {known.max():.1e} does not fit float32: give flux and error in other "
            "units, for example 1e-17 erg/s/cm2/Angstrom (from erg/s/cm2/Angstrom: flux * 1e17, error * 1e17)"
        )


def _resolve_ivar(flux: np.ndarray, ivar: Any, error: Any) -> np.ndarray:
    if (ivar is None) == (error is None):
        found = "neither" if ivar is None else "both"
        raise ValueError(
            f'pass exactly one of ivar= and error=, found {found}; error="estimate" measures the noise from the flux'
        )
    if ivar is not None:
        return _as_vector(ivar, "ivar", _own_float(ivar), copy=None)
    if isinstance(error, str):
        check_choice("error", error, ("estimate",))
        error = _estimate_noise(flux.astype(np.float64))
    if np.ndim(error) == 0:
        error = np.full(len(flux), error)
    error = _as_vector(error, "error", np.float64)
    known = np.isfinite(error) & (error > 0) & (error < SENTINEL_ERROR)
    return np.where(known, 1 / np.where(known, error, 1.0) ** 2, 0.0)


def _estimate_noise(flux: np.ndarray) -> float:
    """DER_SNR: 1.482602 / sqrt(6) times the median of |2 f_i - f_(i-2) - f_(i+2)| over good pixels."""
    good = flux[np.isfinite(flux)]
    noise = 1.482602 / np.sqrt(6) * np.median(np.abs(2 * good[2:-2] - good[:-4] - good[4:])) if len(good) > 4 else 0.0
    if not noise > 0:
        raise ValueError('error="estimate" needs at least 5 finite pixels that are not all equal: pass error=')
    return float(noise)


def _as_wavelength(values: Any, copy: bool | None = True) -> np.ndarray:
    if type(values) is np.ndarray and values.dtype in (np.float32, np.float64):
        return _as_vector(values, "wavelength", np.float64, copy)
    if str(getattr(values, "dtype", "")) in ("float16", "torch.float16", "torch.bfloat16"):
        raise ValueError(
            f"wavelength must be float32 or float64, found {values.dtype}: half precision is wrong by 4-128 Å"
        )
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    return _as_vector(values, "wavelength", np.float64, copy)


def _as_vector(values: Any, name: str, dtype: type, copy: bool | None = True) -> np.ndarray:
    """A native, contiguous, writable copy of `values` as a vector; with `copy=None` a copy only where it must be."""
    if type(values) is np.ndarray and values.dtype == dtype and values.ndim == 1 and values.flags.c_contiguous:
        return values.copy() if copy else values
    if getattr(values, "unit", None) is not None:
        raise ValueError(
            f"{name} has the unit {values.unit}: pass plain numbers ({name}.to_value(...)), and say their unit with "
            "wavelength_unit= and flux_unit="
        )
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values  # numpy has none
    try:
        with np.errstate(over="ignore"):  # a float64 flux of 1e300 becomes inf, which is then marked bad
            vector: np.ndarray = np.array(np.ma.getdata(values), dtype=dtype, copy=copy)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a vector of numbers, found {type(values).__name__}: {error}") from error
    if vector.ndim != 1:
        raise ValueError(f"{name} must have one dimension, found shape {vector.shape}: pass one spectrum at a time")
    return vector


def _own_float(values: Any) -> type:
    """float32 for what is float32, so that it is not converted twice; float64 for all else, which may not fit."""
    return np.float32 if getattr(values, "dtype", None) == np.float32 else np.float64


def _as_mask(mask: Any, length: int, copy: bool | None = True) -> np.ndarray:
    if mask is None:
        return np.zeros(length, dtype=bool)
    if isinstance(mask, np.ndarray) and mask.dtype.kind == "b":
        return _as_vector(mask, "mask", bool, copy)
    return _as_vector(mask, "mask", np.float64) != 0  # an integer would make 0 of a fraction


def _masked_pixels(*columns: Any) -> np.ndarray | bool:
    """Pixels that a numpy masked array hides, True = bad; False where no column is masked."""
    masks = [np.ma.getmaskarray(column) for column in columns if isinstance(column, np.ma.MaskedArray)]
    return np.logical_or.reduce(masks) if masks else False


def as_text(identifier: Any) -> str:
    """Text of an identifier; the bytes, and the text of bytes (`"b'  123'"`), of the Multimodal Universe included.

    Args:
        identifier: Text, bytes or a number.

    Raises:
        ValueError: If it is a float that has lost digits.
    """
    if isinstance(identifier, bytes):
        identifier = identifier.decode()
    if isinstance(identifier, (float, np.floating)):
        number = float(identifier)
        if not number.is_integer() or abs(number) >= 2**53:
            raise ValueError(f"object_id {number!r} is a rounded number: read it as integer or text")
        identifier = int(number)
    text = str(identifier).strip()
    if text.startswith(("b'", 'b"')) and text[-1] == text[1]:
        text = text[2:-1]
    return text.strip()


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a `ValueError` that names the choices where `value` is none of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {value!r}")


def is_cgs_unit(unit: str) -> bool:
    """Whether a text means `CGS_UNIT`, however it is written: "1E-17 erg/cm^2/s/Ang" does.

    Args:
        unit: The text.
    """
    number = re.match(r"\s*(1(\.0*)?e-17|10\s*(\*\*|\^)\s*\(?-17\)?)(?!\d)", unit, re.IGNORECASE)
    names = re.findall(r"[^\W\d_]+", unit[number.end() :].lower()) if number else ()
    return {_UNIT_ALIASES.get(name, name) for name in names} == {"erg", "s", "cm", "angstrom"}


def is_per_frequency(unit: str) -> bool:
    """Whether a text names a flux per frequency, however it is written: "mJy", "erg/s/cm2/Hz" and "mag(AB)" do.

    Args:
        unit: The text.
    """
    names = re.findall(r"[^\W\d_]+", unit.lower())
    return any(name == "ab" or name.endswith(_PER_FREQUENCY) for name in names)


__all__ = [
    "CGS_UNIT",
    "Spectrum",
    "as_text",
    "check_choice",
    "is_cgs_unit",
    "is_per_frequency",
    "to_angstrom",
    "usable_pixels",
]
# From spectok-hf; save_pretrained writes this file.
