"""The usual quality cuts of catalogues: what a row must meet, how it is identified, and which columns are labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..models.spectrum import as_text
from .formats.layout import MISSING_NUMBER

Names = str | tuple[str, ...]  # of a column; of several the first that the catalogue has, in any case


@dataclass(frozen=True)
class Cut:
    """One condition that a row of a catalogue must meet. A row that lacks one of the values does not meet it.

    Args:
        name: What it is called in reports.
        columns: The columns that `keep` asks for, each a name or alternatives of which the first that is there counts.
        keep: From an array (n,) per column, none of its values missing, to which rows stay, bool (n,). Text comes
            stripped, bit masks and flags as integers.
        reason: Why, and who says so, in one line.
    """

    name: str
    columns: tuple[Names, ...]
    keep: Callable[..., Any]
    reason: str = ""


@dataclass(frozen=True)
class Key:
    """How the identifier of a row is written.

    Args:
        columns: The columns that it is made of.
        text: Their format, for integers, where there is more than one.
    """

    columns: tuple[Names, ...]
    text: str = "{}"


@dataclass(frozen=True)
class Preset:
    """What is usual for a catalogue.

    Args:
        cuts: Its quality cuts, in order.
        keys: Its identifiers; the first by which a spectrum is found counts.
        labels: Label names to columns; those that the catalogue has are read.
        best: The column that is highest in the best row of an object.
        missing: Numbers that stand for a missing value.
        note: What it is for, and what is doubtful.
    """

    cuts: tuple[Cut, ...]
    keys: tuple[Key, ...]
    labels: Mapping[str, Names]
    best: Names | None = None
    missing: tuple[float, ...] = (MISSING_NUMBER,)
    note: str = ""

    def without(self, *names: str) -> "Preset":
        """The same without some of its cuts.

        Args:
            *names: Names of cuts.

        Raises:
            ValueError: If there is no such cut.
        """
        known = [cut.name for cut in self.cuts]
        if unknown := set(names) - set(known):
            raise ValueError(f"cuts must be among {', '.join(known)}, found {', '.join(sorted(unknown))}")
        return replace(self, cuts=tuple(cut for cut in self.cuts if cut.name not in names))


@dataclass(frozen=True)
class CutCount:
    """What a cut did.

    Args:
        name: Name of the cut.
        removed: Rows that it removed of those that the cuts before it had left.
        alone: Rows that it would remove if it were the only cut.
        reason: Why there is such a cut.
    """

    name: str
    removed: int
    alone: int
    reason: str = ""


# Cuts ---------------------------------------------------------------------------------------------


def equal(column: Names, value: str | float, reason: str = "") -> Cut:
    """Rows in which a column has one value.

    Args:
        column: Name of the column, or alternatives.
        value: Number, text, or True for a column of booleans (or of 0 and 1).
        reason: Why.
    """
    kind = bool if isinstance(value, bool) else str if isinstance(value, str) else float

    def keep(values: np.ndarray) -> np.ndarray:
        return _KINDS[kind](values, first_name(column)) == value

    return Cut(f"{first_name(column)} == {value}", (column,), keep, reason)


def above(column: Names, limit: float, reason: str = "") -> Cut:
    """Rows in which a column is greater than a limit.

    Args:
        column: Name of the column, or alternatives.
        limit: The limit, in the column's unit.
        reason: Why.
    """
    return Cut(
        f"{first_name(column)} > {limit:g}", (column,), lambda values: check_numbers(values, column) > limit, reason
    )


def between(column: Names, low: float, high: float, reason: str = "") -> Cut:
    """Rows in which a column lies between two limits, which belong to the range.

    Args:
        column: Name of the column, or alternatives.
        low: Lower limit, in the column's unit.
        high: Upper limit.
        reason: Why.
    """

    def keep(values: np.ndarray) -> np.ndarray:
        numbers = check_numbers(values, column)
        return (numbers >= low) & (numbers <= high)

    return Cut(f"{low:g} <= {first_name(column)} <= {high:g}", (column,), keep, reason)


def bits_clear(column: Names, bits: Mapping[str, int], reason: str = "") -> Cut:
    """Rows in which none of some bits of a bit mask is set.

    Args:
        column: Name of the column, or alternatives.
        bits: Names of the bits to their numbers, such as a part of `APOGEE_ASPCAPFLAG`.
        reason: Why.
    """
    mask = np.int64(sum(1 << bit for bit in bits.values()))

    def keep(values: np.ndarray) -> np.ndarray:
        if values.dtype.kind == "f" and (values == np.round(values)).all() and (np.abs(values) < 2**53).all():
            values = values.astype(np.int64)  # pandas makes floats of integers where one is missing
        if values.dtype.kind not in "iu":
            raise ValueError(
                f"{first_name(column)} must be an integer bit mask, found {describe(values)}: read it as integers"
            )
        return (values.astype(np.int64) & mask) == 0

    return Cut(f"{first_name(column)} without {', '.join(bits)}", (column,), keep, reason)


def apply_cuts(
    cuts: Sequence[Cut], columns: Sequence[Sequence[np.ma.MaskedArray]], rows: int
) -> tuple[np.ndarray, tuple[CutCount, ...]]:
    """The rows that pass all cuts, and what each cut removed.

    Args:
        cuts: The cuts, in order.
        columns: For each cut the columns that it asks for, each (rows,), masked where a value is missing. Text may
            be padded, or bytes.
        rows: Number of rows.

    Returns:
        Which rows pass, bool (rows,), and a count for each cut.

    Raises:
        ValueError: If a column holds something else than a cut needs, or a cut does not give one bool per row.
    """
    passed, counts = np.ones(rows, dtype=bool), []
    for cut, asked in zip(cuts, columns, strict=True):
        keep = ~np.logical_or.reduce([np.ma.getmaskarray(column) for column in asked])
        met = np.asarray(cut.keep(*(_plain(column.data[keep]) for column in asked)))
        if met.shape != (keep.sum(),) or met.dtype != bool:
            raise ValueError(f"cut {cut.name!r} must give one bool per row, found {met.dtype} of shape {met.shape}")
        keep[keep] = met
        counts.append(CutCount(cut.name, int((passed & ~keep).sum()), int((~keep).sum()), cut.reason))
        passed &= keep
    return passed, tuple(counts)


def _plain(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "O":  # text and bytes
        return np.array([as_text(value) for value in values.tolist()], dtype=str)
    return np.char.strip(values).astype(str) if values.dtype.kind in "US" else values


def first_name(column: Names) -> str:
    """The name of a column for messages, of alternatives the first.

    Args:
        column: Name, or alternatives.
    """
    return column if isinstance(column, str) else column[0]


def describe(values: np.ndarray) -> str:
    """The kind of a column's values and one of them, for messages.

    Args:
        values: The values, shape (n,).
    """
    kind = {"b": "booleans", "i": "integers", "u": "integers", "f": "floats"}.get(values.dtype.kind, "text")
    return f"{kind} such as {values.flat[0]}" if values.size else kind


def check_numbers(values: np.ndarray, column: Names) -> np.ndarray:
    """The values of a column that must hold numbers.

    Args:
        values: The values, shape (n,).
        column: Name of the column, or alternatives.

    Raises:
        ValueError: If they are booleans or text.
    """
    if values.dtype.kind not in "iuf":
        # A boolean ZWARN means "good" in one generation of the Multimodal Universe's DESI and "warning" in the other.
        raise ValueError(f"{first_name(column)} must hold numbers, found {describe(values)}: convert the column first")
    return values


def _booleans(values: np.ndarray, column: Names) -> np.ndarray:
    if values.dtype.kind not in "biuf" or not ((values == 0) | (values == 1)).all():
        raise ValueError(
            f"{first_name(column)} must be true or false, found {describe(values)}: convert the column first"
        )
    return values.astype(bool)


def _words(values: np.ndarray, column: Names) -> np.ndarray:
    if values.dtype.kind not in "USO":
        raise ValueError(f"{first_name(column)} must hold text, found {describe(values)}: convert the column first")
    return values


_KINDS: dict[type, Callable[[np.ndarray, Names], np.ndarray]] = {float: check_numbers, bool: _booleans, str: _words}


# Presets ------------------------------------------------------------------------------------------

# Bits 0-14 of ASPCAPFLAG only warn. SDSS DR17, bitmasks; apogee/utils/bitmask.py of the pipeline.
APOGEE_ASPCAPFLAG = {"TEFF_BAD": 16, "LOGG_BAD": 17, "M_H_BAD": 19, "STAR_BAD": 23, "NO_ASPCAP_RESULT": 31}
APOGEE_EXTRATARG = {"NOT_MAIN": 0, "COMMISSIONING": 1, "TELLURIC": 2, "APO1M": 3, "DUPLICATE": 4}
_APOGEE_ELEMENTS = ("C", "N", "O", "NA", "MG", "AL", "SI", "S", "K", "CA", "TI", "V", "CR", "MN", "CO", "NI", "CE")
_APOGEE_LABELS: Mapping[str, Names] = {
    "teff": "TEFF",
    "logg": "LOGG",
    "feh": "FE_H",
    "m_h": "M_H",
    "alpha_m": "ALPHA_M",
    "rv": "VHELIO_AVG",
    "ra": "RA",
    "dec": "DEC",
    "snr": "SNR",
} | {f"{element.lower()}_fe": f"{element}_FE" for element in _APOGEE_ELEMENTS}
_ASTRONN = "Leung & Bovy 2019, MNRAS 483, 3255 (arXiv:1808.04428); defaults of astroNN's H5Compiler"
_MMU = "as the Multimodal Universe"
_GALAH_KEYS = (Key(("sobject_id",)), Key(("object_id",)))
_DESI_KEYS = (Key(("TARGETID",)), Key(("object_id",)))


def _from_25m(telescope: np.ndarray) -> np.ndarray:
    return np.isin(_words(telescope, "TELESCOPE"), ("apo25m", "lco25m"))


def _galah_labels(**own: Names) -> dict[str, Names]:
    return {"teff": "teff", "logg": "logg", "feh": "fe_h", **own}


CUTS: dict[str, Preset] = {
    "sdss-dr17": Preset(
        cuts=(
            equal("SPECPRIMARY", True, f"the best of several observations; {_MMU}"),
            equal("TARGETTYPE", "SCIENCE", f"no sky fibres, no standards; {_MMU}"),
            equal("PLATEQUALITY", "good", f"no bad or marginal plates; {_MMU}"),
            equal("ZWARNING", 0, "no known problem of the redshift; SDSS DR17, catalogs"),
            above("Z_ERR", 0, "-1, -4, -6 are codes of failures; SDSS DR17, data model of specObj"),
            above("SN_MEDIAN_ALL", 5, "a rule of thumb for spectra that show their lines"),
        ),
        keys=(
            Key(("PLATE", "MJD", ("FIBERID", "FIBER")), "{:04d}-{:05d}-{:04d}"),  # as read_spectra writes them
            Key(("SPECOBJID",)),
            Key(("object_id",)),
        ),
        labels={"class": "CLASS", "subclass": "SUBCLASS", "redshift": "Z", "zwarn": "ZWARNING"}
        | {"ra": "PLUG_RA", "dec": "PLUG_DEC", "snr": "SN_MEDIAN_ALL"},
        best="SN_MEDIAN_ALL",
        note="specObj-dr17.fits. MANY_OUTLIERS (bit 4 of ZWARNING) is often tolerated for SDSS-I/II: replace the cut "
        "by bits_clear. For galaxies of BOSS and eBOSS Z_NOQSO is the better redshift.",
    ),
    "apogee-dr17": Preset(
        cuts=(
            Cut("TELESCOPE is apo25m or lco25m", ("TELESCOPE",), _from_25m, f"no 1 m telescope; {_MMU}"),
            bits_clear("EXTRATARG", {"DUPLICATE": 4}, "one row per star; SDSS DR17, APOGEE bitmasks"),
            bits_clear("ASPCAPFLAG", APOGEE_ASPCAPFLAG, "stellar parameters that failed; SDSS DR17, APOGEE bitmasks"),
            above("SNR", 30, _MMU),
        ),
        keys=(Key(("APOGEE_ID",)), Key(("object_id",))),
        labels=_APOGEE_LABELS,
        best="SNR",
        note="allStar-dr17-synspec_rev1.fits. EXTRATARG == 0 would keep the main survey only. An abundance is to be "
        "used where its X_FE_FLAG is 0, which is not among the cuts.",
    ),
    "apogee-leung-bovy-2018": Preset(
        cuts=(
            above("SNR", 200, _ASTRONN),
            equal("STARFLAG", 0, _ASTRONN),
            equal("ASPCAPFLAG", 0, _ASTRONN),
            Cut(
                "VSCATTER < 1",
                ("VSCATTER",),
                lambda values: check_numbers(values, "VSCATTER") < 1,
                f"km/s; {_ASTRONN}",
            ),
            between("TEFF", 4000, 5500, f"K; {_ASTRONN}"),
            above(("FE_H", "X_H_FE"), -3, _ASTRONN),
            Cut("LOGG is there", ("LOGG",), lambda values: np.ones(len(values), bool), f"-9999 = missing; {_ASTRONN}"),
        ),
        keys=(Key(("APOGEE_ID",)), Key(("object_id",))),
        labels=_APOGEE_LABELS,
        best="SNR",
        note="The training set of astroNN, made for DR14 (missing = -9999) and PARAM, X_H; of other releases the same "
        "cuts select other stars. Its cuts on LOCATION_ID and K are left out.",
    ),
    "galah-dr3": Preset(
        cuts=(
            equal("flag_sp", 0, "stellar parameters without a problem; GALAH DR3, flags"),
            equal("flag_fe_h", 0, "[Fe/H] without a problem; GALAH DR3, flags"),
            above("snr_c3_iraf", 30, "per pixel; GALAH DR3, flags"),
        ),
        keys=_GALAH_KEYS,
        labels=_galah_labels(rv=("rv_galah", "rv"), ra=("ra_dr2", "ra"), dec=("dec_dr2", "dec"), snr="snr_c3_iraf"),
        best="snr_c3_iraf",
        note='GALAH_DR3_main_allstar_v2.fits. An abundance X_fe needs equal("flag_X_fe", 0) besides.',
    ),
    "galah-dr4": Preset(
        cuts=(
            equal("flag_sp", 0, "stellar parameters without a problem (other bits than in DR3); GALAH DR4, flags"),
            above("snr_px_ccd3", 30, "per pixel; GALAH DR4, flags"),
        ),
        keys=_GALAH_KEYS,
        labels=_galah_labels(rv="rv_comp_1", ra="ra", dec="dec", snr="snr_px_ccd3"),
        best="snr_px_ccd3",
        note='galah_dr4_allstar. An abundance X_fe needs equal("flag_X_fe", 0) besides; flag_fe_h is of no use here.',
    ),
    "desi-dr1": Preset(
        cuts=(
            equal("ZCAT_PRIMARY", True, "the best of several coadds; DESI DR1, zall-pix"),
            equal("OBJTYPE", "TGT", f"no sky fibres; {_MMU}"),
            equal("COADD_FIBERSTATUS", 0, f"no problem of the fibre; {_MMU}"),
            equal("ZWARN", 0, "no known problem of the redshift; DESI DR1"),
        ),
        keys=_DESI_KEYS,
        labels={"class": "SPECTYPE", "subclass": "SUBTYPE", "redshift": "Z", "zwarn": "ZWARN"}
        | {"ra": "TARGET_RA", "dec": "TARGET_DEC"},
        best="DELTACHI2",
        note="zall-pix-iron.fits. DELTACHI2 > 25 or > 40 is common besides [not verified], and not among the cuts.",
    ),
    "provabgs": Preset(
        cuts=(
            above(("PROVABGS_LOGMSTAR_BF", "LOG_MSTAR"), 0, "a fit was made; AstroCLIP"),
            above("MAG_G", 0, "photometry is there; AstroCLIP"),
            above("MAG_R", 0, "photometry is there; AstroCLIP"),
            above("MAG_Z", 0, "photometry is there; AstroCLIP"),
        ),
        keys=_DESI_KEYS,
        labels={"redshift": ("Z_HP", "Z"), "log_stellar_mass": ("PROVABGS_LOGMSTAR_BF", "LOG_MSTAR")}
        | {"age": "TAGE_MW", "ra": "RA", "dec": "DEC"},
        note="BGS_ANY_full.provabgs.sv3.v0.hdf5 as a table, or the Multimodal Universe's. Add columns for the other "
        "labels: log10(Z_MW / Z_sun) as metallicity, log10(AVG_SFR) - LOGMSTAR as log_ssfr.",
    ),
    "vipers": Preset(
        cuts=(
            Cut(
                "zflg is 2 or better",
                (("zflg", "REDFLAG"),),
                lambda values: (check_numbers(values, "zflg") >= 2) & (values % 10 >= 2),
                "2 = usable, 3-4 = secure, + 10 = broad lines, + 20 = by chance in the slit [not verified]",
            ),
        ),
        keys=(Key(("object_id",)), Key(("num",)), Key(("ID",)), Key(("id_IAU",))),
        labels={"redshift": ("zspec", "REDSHIFT"), "ra": ("alpha", "RA"), "dec": ("delta", "DEC")},
        note="PDR-2. All of it [not verified]: names of columns and identifiers, and what the flags mean. The "
        "Multimodal Universe writes its identifiers as floats, which are refused.",
    ),
}


__all__ = [
    "APOGEE_ASPCAPFLAG",
    "APOGEE_EXTRATARG",
    "CUTS",
    "Cut",
    "CutCount",
    "Key",
    "Names",
    "Preset",
    "above",
    "apply_cuts",
    "between",
    "bits_clear",
    "check_numbers",
    "describe",
    "equal",
    "first_name",
]
