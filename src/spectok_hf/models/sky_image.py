"""`SkyImage`: one image of the sky in several bands, checked where it enters, and what such images come in."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .spectrum import as_text

BANDS = ("u", "g", "r", "i", "z", "y")  # from the bluest to the reddest
# Before a band's letter, as in "des-g" and "HSC-R".
_CAMERAS = ("90prime", "bass", "decam", "des", "hsc", "legacysurvey", "lsst", "mzls", "ps1", "sdss")
NANOMAGGIES = 22.5  # AB magnitude of a flux of 1
ZERO_POINTS = {"hsc": 27.0}  # of images in other units; the Multimodal Universe keeps those of HSC as they come
PLAUSIBLE_PIXEL_SCALE = (0.005, 10.0)  # arcsec, from adaptive optics to unWISE and GALEX
_OWN_KEYS = {"flux", "bands", "pixel_scale", "mask", "ivar", "object_id", "labels"}
# The Multimodal Universe's names for what we call bands, flux, pixel_scale and mask; the rest has ours.
_COLUMNS = {
    "bands": ("band",),
    "flux": ("flux", "array"),
    "pixel_scale": ("scale",),
    "mask": ("mask", "bit_mask"),
    "ivar": ("ivar",),
}
_LABELS = ("ra", "dec", "redshift")


@dataclass(frozen=True, eq=False, repr=False)
class SkyImage:
    """One image of the sky in several bands, on one grid of square pixels.

    A pixel that carries no information is bad: masked, of no finite flux, or of no positive `ivar`. Flux is kept as it
    came, also under bad pixels. Arrays are copied. Use `SkyImage.from_arrays` for other layouts and units.

    Args:
        flux: Flux per pixel in nanomaggies, shape (bands, height, width).
        bands: Letter of each band, "g", "r", "z", ..., also as "des-g" or "HSC-G".
        pixel_scale: Size of a pixel in arcsec.
        mask: Bad pixels, shape (bands, height, width) or, for all bands, (height, width), True = bad.
        ivar: Inverse variance of the flux, shape (bands, height, width); 0 = no information.
        object_id: Identifier of what is in its middle, always text.
        labels: What is known of it, as in `Spectrum`.
        truth: Noise-free flux, shape (bands, height, width), of simulated images only.

    Raises:
        ValueError: If shapes disagree, a band is unknown or named twice, or the scale does not look like arcsec.
    """

    flux: np.ndarray
    bands: tuple[str, ...]
    pixel_scale: float
    mask: np.ndarray = None  # type: ignore[assignment]  # an array from __post_init__ on
    ivar: np.ndarray | None = None
    object_id: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    truth: np.ndarray | None = None

    def __post_init__(self) -> None:
        flux, bands = _as_floats("flux", self.flux), check_bands(self.bands)
        if flux.ndim != 3 or len(flux) != len(bands) or not flux.size:
            raise ValueError(
                f"flux must have the shape (bands, height, width), found {flux.shape} for {len(bands)} bands "
                f"({', '.join(bands)}): SkyImage.from_arrays takes (height, width, bands) as well"
            )
        ivar = None if self.ivar is None else _as_floats("ivar", self.ivar)
        if ivar is not None:
            _check_shape("ivar", ivar, flux)
            ivar = np.where(np.isfinite(ivar) & (ivar > 0), ivar, np.float32(0))
        truth = None if self.truth is None else _as_floats("truth", self.truth)
        if truth is not None:
            _check_shape("truth", truth, flux)
        mask = _as_flags("mask", self.mask, flux) | ~np.isfinite(flux)
        checked = {"flux": flux, "bands": bands, "pixel_scale": _check_pixel_scale(self.pixel_scale), "mask": mask}
        checked |= {"ivar": ivar, "labels": dict(self.labels), "truth": truth}
        checked["object_id"] = None if self.object_id is None else as_text(self.object_id)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_arrays(
        cls,
        flux: Any,
        *,
        bands: Iterable[str],
        pixel_scale: float,
        mask: Any = None,
        ivar: Any = None,
        zero_point: float = NANOMAGGIES,
        **fields: Any,
    ) -> "SkyImage":
        """An image from arrays, lists or tensors, with its bands first or last.

        Args:
            flux: Flux per pixel, shape (bands, height, width), (height, width, bands), or (height, width) of one band.
            bands: Letter of each band, in the order of the flux.
            pixel_scale: Size of a pixel in arcsec.
            mask: Bad pixels, True = bad, of the shape of flux or (height, width). One by which more than half of the
                image is bad is warned about: it may be one of good pixels.
            ivar: Inverse variance, of the shape of flux.
            zero_point: AB magnitude of a flux of 1; converted to nanomaggies.
            **fields: The other fields of `SkyImage`; `truth` is of the shape and unit of flux.

        Raises:
            ValueError: As `SkyImage`, or if either end of the shape could be the bands.
        """
        image = _arrange(flux, bands, pixel_scale, mask, ivar, zero_point, fields)
        if mask is not None:
            _warn_of_polarity(image, "pass mask=~mask if its True is good")
        return image

    def __repr__(self) -> str:
        height, width = self.shape
        size = f"{height} x {width} pixels of {self.pixel_scale:.3g} arcsec"
        return f"SkyImage({self.object_id or 'unnamed'}: {', '.join(self.bands)}, {size}, {self.good.mean():.1%} good)"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.flux.shape[1], self.flux.shape[2]

    @property
    def good(self) -> np.ndarray:
        """Pixels that carry information, shape (bands, height, width), True = good."""
        return ~self.mask if self.ivar is None else ~self.mask & (self.ivar > 0)

    @property
    def bad(self) -> np.ndarray:
        """Pixels that carry no information, shape (bands, height, width), True = bad."""
        return ~self.good


def read_image(
    source: Any, *, mask_is_clean: bool | None = None, zero_point: float | None = None, **fields: Any
) -> SkyImage:
    """The image of a source.

    The masks of the Multimodal Universe's image columns are True where a pixel is CLEAN, the contrary of those of its
    spectra, and of ours; they are inverted here. Its HSC images count in units of 27 mag, which become nanomaggies.

    Args:
        source: A `SkyImage`; a mapping with flux, bands and pixel_scale, and optionally mask (True = bad), ivar,
            object_id and labels; or an image column of the Multimodal Universe, a mapping of lists or a list with a
            mapping for each band, with band, flux (or array), scale, and optionally mask and ivar; or a row that has
            either below the key `image`, or such columns with `image_` before their names.
        mask_is_clean: Whether True in a mask means good; None = as said above.
        zero_point: AB magnitude of a flux of 1; None = 22.5, which are nanomaggies, and 27 of bands of HSC.
        **fields: Fields of `SkyImage` that count instead of what the source holds.

    Raises:
        ValueError: If it holds no image, or an impossible one.
    """
    if is_image(source):
        if fields or mask_is_clean is not None or zero_point is not None:
            raise ValueError(f"an image that is one already has all fields, found {source!r}: pass it alone")
        return source
    columns, clean, about = _columns(source)
    given = {**about, **columns, **fields}
    if missing := [name for name in ("flux", "bands", "pixel_scale") if given.get(name) is None]:
        found = ", ".join(map(str, source)) if isinstance(source, Mapping) else type(source).__name__
        raise ValueError(f"an image needs flux, bands and pixel_scale, found no {missing[0]} in {found}: pass it")
    clean = clean if mask_is_clean is None else mask_is_clean
    if given.get("mask") is not None and clean:
        given["mask"] = _inverted(given["mask"])
    zero_point = _zero_point(given["bands"]) if zero_point is None else zero_point
    arrays = {name: given.pop(name, None) for name in ("flux", "bands", "pixel_scale", "mask", "ivar")}
    image = _arrange(**arrays, zero_point=zero_point, fields=given)
    if arrays["mask"] is not None:
        _warn_of_polarity(image, f"its True was taken for {'good' if clean else 'bad'}: see mask_is_clean=")
    return image


def read_images(sources: Any) -> list[SkyImage]:
    """The images of a list of sources, or of a single one.

    Args:
        sources: As for `read_image`, or a list of such.

    Raises:
        ValueError: As `read_image`.
    """
    several = isinstance(sources, (list, tuple)) or (isinstance(sources, np.ndarray) and sources.dtype == object)
    if several and not _is_column(sources):
        return [read_image(source) for source in sources]
    return [read_image(sources)]


def is_image(source: Any) -> bool:
    """Whether a source is a `SkyImage`, by its attributes: one that came with a checkpoint is of another class.

    Args:
        source: Anything.
    """
    return all(hasattr(source, name) for name in ("flux", "bands", "pixel_scale", "good"))


def band_letter(name: Any) -> str:
    """The letter of a band.

    Args:
        name: The letter in either case, or with a camera before it, "des-g" or "HSC-G"; bytes as well.

    Raises:
        ValueError: If it is none that is known.
    """
    text = as_text(name).lower().replace("_", "-")
    camera, _, letter = text.rpartition("-")
    if letter not in BANDS or (camera and camera not in _CAMERAS):
        raise ValueError(
            f"a band must be one of {', '.join(BANDS)}, or such a letter behind a camera as in des-g, found {name!r}"
        )
    return letter


def check_bands(bands: Iterable[Any]) -> tuple[str, ...]:
    """The letters of bands.

    Args:
        bands: Names of bands, as for `band_letter`.

    Raises:
        ValueError: If one is unknown or named twice, or there is none.
    """
    letters = tuple(band_letter(name) for name in bands)
    if not letters or len(set(letters)) < len(letters):
        raise ValueError(f"bands must be named once each, found {', '.join(letters) or 'none'}: pass one per image")
    return letters


# What images come in -------------------------------------------------------------------------------------------------


def _columns(source: Any) -> tuple[dict[str, Any], bool, dict[str, Any]]:
    """What a source holds by our names, whether True in its mask is good, and what is known of the object."""
    if _is_column(source):
        return _from_universe({name: [band.get(name) for band in source] for name in source[0]}), True, {}
    if not isinstance(source, Mapping):
        raise ValueError(
            f"expected a SkyImage, a mapping with flux, bands and pixel_scale, or an image column of the Multimodal "
            f"Universe, found {type(source).__name__}: SkyImage.from_arrays takes arrays"
        )
    if source.get("image") is not None:
        image, about = source["image"], _about(source)
        if is_image(image):
            return {name: value for name in _OWN_KEYS if (value := getattr(image, name)) is not None}, False, about
        columns, clean, _ = _columns(image)
        return columns, clean, about
    if "bands" in source:
        if unknown := sorted(set(map(str, source)) - _OWN_KEYS):
            raise ValueError(f"an image was given {', '.join(unknown)}, which it does not know: leave it out")
        return {name: value for name, value in source.items() if value is not None}, False, {}
    flat = {name.removeprefix("image_"): value for name, value in source.items() if name.startswith("image_")}
    if flat:
        return _from_universe({"bit_mask": source.get("bit_mask"), **flat}), True, _about(source)
    return _from_universe(source), True, {}


def _is_column(source: Any) -> bool:
    """Whether a source is a list, or an array of pandas, with a mapping for each band of one image."""
    listed = isinstance(source, (list, tuple, np.ndarray)) and len(source) > 0
    return listed and all(isinstance(band, Mapping) and isinstance(band.get("band"), (str, bytes)) for band in source)


def _from_universe(column: Mapping[str, Any]) -> dict[str, Any]:
    """An image column of the Multimodal Universe, as lists of what belongs to each band."""
    found: dict[str, Any] = {}
    for ours, theirs in _COLUMNS.items():
        values = next((column[name] for name in theirs if column.get(name) is not None), None)
        absent = [value is None for value in values] if isinstance(values, Iterable) else [True]
        if any(absent) and not all(absent):
            raise ValueError(f"all bands must have {ours} or none, found none for {sum(absent)} of {len(absent)}")
        if not all(absent):
            found[ours] = values
    if "pixel_scale" in found:
        scales = np.unique(_as_array("scale", found["pixel_scale"]))
        if len(scales) != 1:
            raise ValueError(f"all bands must have one pixel scale, found {scales.tolist()} arcsec: resample them")
        found["pixel_scale"] = float(scales[0])
    return found


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    """The identifier and the labels of a row."""
    plain = {str(name).lower(): value for name, value in row.items()}
    labels = {name: float(plain[name]) for name in _LABELS if isinstance(plain.get(name), (int, float, np.number))}
    known = {} if plain.get("object_id") is None else {"object_id": plain["object_id"]}
    return known | ({"labels": labels} if labels else {})


def _zero_point(bands: Any) -> float:
    cameras = {as_text(band).lower().replace("_", "-").rpartition("-")[0] for band in bands}
    found = {ZERO_POINTS.get(camera, NANOMAGGIES) for camera in cameras}
    if len(found) > 1:
        raise ValueError(
            f"all bands must have one unit, found those of {', '.join(sorted(cameras))}: pass zero_point="
        )
    return found.pop() if found else NANOMAGGIES


def _inverted(mask: Any) -> np.ndarray:
    found = _as_array("mask", mask)
    if found.dtype != bool and not np.isin(found, (0, 1)).all():
        raise ValueError(
            f"a mask whose True is clean must hold 0 and 1, found up to {found.max()}: pass mask=(bits & yours) != 0 "
            "and mask_is_clean=False"
        )
    return ~found.astype(bool)


def _warn_of_polarity(image: SkyImage, advice: str) -> None:
    finite = np.isfinite(image.flux)
    share = float((image.mask & finite).sum() / max(finite.sum(), 1))
    if share > 0.5:
        warnings.warn(
            f"the mask of {image.object_id or 'an image'} calls {share:.0%} of its finite pixels bad: in "
            f"the Multimodal Universe's images True is clean, here it is bad; {advice}",
            stacklevel=3,
        )


# Arrays --------------------------------------------------------------------------------------------------------------


def _arrange(
    flux: Any, bands: Any, pixel_scale: Any, mask: Any, ivar: Any, zero_point: float, fields: Mapping[str, Any]
) -> SkyImage:
    """An image of arrays whose bands are first or last."""
    bands, values = check_bands(bands), _as_array("flux", flux)
    axis, count = _band_axis(values.shape, bands), len(bands)
    factor = 10 ** (0.4 * (NANOMAGGIES - zero_point))
    if (truth := fields.get("truth")) is not None:
        fields = {**fields, "truth": _bands_first(_as_array("truth", truth), axis, count) * np.float64(factor)}
    return SkyImage(
        _bands_first(values, axis, count) * np.float64(factor),
        bands,
        pixel_scale,
        None if mask is None else _bands_first(_as_array("mask", mask), axis, count),  # type: ignore[arg-type]
        None if ivar is None else _bands_first(_as_array("ivar", ivar), axis, count) / np.float64(factor**2),
        **fields,
    )


def _band_axis(shape: Sequence[int], bands: tuple[str, ...]) -> int:
    """Which end of a shape the bands are: 0, or -1; 1 where there is a single one and no axis for it."""
    if len(shape) == 2 and len(bands) == 1:
        return 1
    first, last = (len(shape) == 3 and shape[end] == len(bands) for end in (0, -1))
    if first == last:
        found = "both ends" if first else "neither end"
        raise ValueError(
            f"flux must have the shape (bands, height, width) or (height, width, bands), found {tuple(shape)}, of "
            f"which {found} could be the {len(bands)} bands {', '.join(bands)}: "
            + ("move them to the front and use SkyImage(...)" if first else "pass the band of each image")
        )
    return 0 if first else -1


def _bands_first(values: np.ndarray, axis: int, count: int) -> np.ndarray:
    if values.ndim == 2:  # of the one band there is, or a mask for all of them
        return np.broadcast_to(values, (count, *values.shape))
    return np.moveaxis(values, axis, 0) if values.ndim == 3 and axis != 1 else values


def _as_array(name: str, values: Any) -> np.ndarray:
    if getattr(values, "unit", None) is not None:
        raise ValueError(f"{name} has the unit {values.unit}: pass plain numbers, in nanomaggies")
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values  # numpy has none
    nested = isinstance(values, np.ndarray) and values.dtype == object  # as pandas holds lists of lists
    try:
        if (nested or isinstance(values, (list, tuple))) and len(values) and hasattr(values[0], "__len__"):
            return np.stack([_as_array(name, value) for value in values])
        array = np.asarray(values)
        return array if array.dtype.kind in "biuf" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, found {type(values).__name__}: {error}") from error


def _as_floats(name: str, values: Any) -> np.ndarray:
    """A copy, float32; what does not fit becomes infinite, and so bad."""
    with np.errstate(over="ignore"):
        return np.array(_as_array(name, values), dtype=np.float32)


def _as_flags(name: str, flags: Any, flux: np.ndarray) -> np.ndarray:
    if flags is None:
        return np.zeros(flux.shape, dtype=bool)
    found = _as_array(name, flags)
    found = np.broadcast_to(found, flux.shape) if found.shape == flux.shape[1:] else found
    _check_shape(name, found, flux)
    return found.astype(bool)


def _check_shape(name: str, values: np.ndarray, flux: np.ndarray) -> None:
    if values.shape != flux.shape:
        raise ValueError(f"{name} must have the shape of flux, found {values.shape} and {flux.shape}")


def _check_pixel_scale(scale: Any) -> float:
    low, high = PLAUSIBLE_PIXEL_SCALE
    number = float(scale)
    if not low <= number <= high:
        advice = "multiply degrees by 3600" if 0 < number < low else "pass the size of one pixel"
        raise ValueError(f"pixel_scale must be in arcsec, {low:g} to {high:g}, found {number:g}: {advice}")
    return number


__all__ = ["BANDS", "SkyImage", "band_letter", "check_bands", "is_image", "read_image", "read_images"]
