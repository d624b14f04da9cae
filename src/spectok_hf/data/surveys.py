"""`SURVEYS`: what is known of each survey's spectra, as a table; facts only, the code that uses them is elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..models.spectrum import CGS_UNIT


@dataclass(frozen=True)
class Arm:
    """One contiguous wavelength grid.

    Args:
        start: Wavelength of the first pixel, in Å, or in log10 Å for a logarithmic grid.
        step: Pixel width, in Å, or in dex for a logarithmic grid.
        pixels: Number of pixels.
        log: Whether the grid is uniform in log10 of the wavelength.
    """

    start: float
    step: float
    pixels: int
    log: bool = False


@dataclass(frozen=True)
class Survey:
    """Facts about the spectra of one survey.

    Args:
        arms: The grid of a typical spectrum, in order of wavelength. SDSS, BOSS and LAMOST trim every spectrum a
            little differently (SDSS 3809-3850 pixels, BOSS 4565-4625); the pixel centres stay on the same grid.
        medium: "vacuum" or "air".
        frame: "observed" (heliocentric or barycentric) or "rest".
        flux_unit: Unit of the flux, as text.
        resolving_power: Typical lambda / delta lambda (FWHM).
        resolving_curve: Where it changes along the spectrum: pairs of wavelength in Å, ascending, and resolving power
            there; between them it is linear, beyond them constant.
        typical_snr: Typical signal-to-noise ratio per pixel; a rule of thumb, it varies by more than ten.
        bad_bits: Bits of the survey's pixel mask that make a pixel bad, name to bit number. Zero inverse variance
            is bad in every survey, besides. LAMOST names no bits: any bit of its and-mask means that the pixel was
            bad in all exposures.
        reference: Data model or paper.
        native_arms: The arms as the instrument has them, where `arms` is a merged grid.
        label_columns: Labels to the columns or header cards that may hold them, the first that is there counts.
    """

    arms: tuple[Arm, ...]
    medium: str
    frame: str
    flux_unit: str
    resolving_power: float
    typical_snr: float
    bad_bits: Mapping[str, int] = field(default_factory=dict)
    reference: str = ""
    native_arms: tuple[Arm, ...] = ()
    label_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resolving_curve: tuple[tuple[float, float], ...] = ()


_SDSS_LABELS = {  # of the tables SPECOBJ and SPALL, in lower case
    "class": ("class",),
    "subclass": ("subclass",),
    "redshift": ("z",),
    "zwarn": ("zwarning",),
    "ra": ("plug_ra",),
    "dec": ("plug_dec",),
    "snr": ("sn_median_all",),
}

SURVEYS: dict[str, Survey] = {
    "sdss": Survey(
        arms=(Arm(3.5800, 1e-4, 3840, log=True),),  # 3802-9203 Å
        medium="vacuum",
        frame="observed",
        flux_unit=CGS_UNIT,
        resolving_power=2000,
        resolving_curve=((3800, 1850), (9200, 2200)),
        typical_snr=15,
        bad_bits={"BRIGHTSKY": 23},
        label_columns=_SDSS_LABELS,
        reference="SDSS data model, spec files, RUN2D 26, 103, 104; Abazajian et al. 2009, ApJS 182, 543",
    ),
    "boss": Survey(
        arms=(Arm(3.5517, 1e-4, 4620, log=True),),  # 3562-10318 Å
        medium="vacuum",
        frame="observed",
        flux_unit=CGS_UNIT,
        resolving_power=2000,
        resolving_curve=((3700, 1560), (9000, 2650)),
        typical_snr=5,
        bad_bits={"BRIGHTSKY": 23},
        label_columns=_SDSS_LABELS,
        reference="SDSS data model, spec files, RUN2D v5_*; Dawson et al. 2013, AJ 145, 10",
    ),
    "desi": Survey(
        arms=(Arm(3600.0, 0.8, 7781),),  # 3600-9824 Å
        medium="vacuum",
        frame="observed",
        flux_unit=CGS_UNIT,
        resolving_power=3500,
        resolving_curve=((3600, 2000), (9800, 5500)),
        typical_snr=2,
        bad_bits={  # every bit of desispec's specmask is bad, these and any added later; ivar is 0 there as well
            "SOMEBADPIX": 0,
            "ALLBADPIX": 1,
            "COSMIC": 2,
            "LOWFLAT": 3,
            "BADFIBERFLAT": 4,
            "BRIGHTSKY": 5,
            "BADSKY": 6,
            "BAD2DFIT": 7,
            "NODATA": 8,
            "BADFIBER": 9,
        },
        label_columns={"ra": ("TARGET_RA",), "dec": ("TARGET_DEC",)},
        reference="DESI data model, coadd and spectra files; Guy et al. 2023, AJ 165, 144",
        native_arms=(Arm(3600.0, 0.8, 2751), Arm(5760.0, 0.8, 2326), Arm(7520.0, 0.8, 2881)),
    ),
    "galah": Survey(
        arms=(  # medians of 36 DR3 stars: the origin shifts by up to 1.5 Å with the barycentric correction
            Arm(4713.427, 0.0460115, 4096),
            Arm(5648.731, 0.0546845, 4096),
            Arm(6478.253, 0.0631306, 4096),
            Arm(7585.400, 0.0735593, 4096),
        ),
        medium="air",
        frame="observed",
        flux_unit="counts",
        resolving_power=28_000,
        typical_snr=40,
        # Of the dr6.0 reductions. RVCOM is of all CCDs and in the frame of the spectrum, RV of one CCD only (by more
        # than 10 km/s different between the CCDs of a noisy star).
        label_columns={
            "rv": ("RVCOM",),
            "teff": ("TEFF_R",),
            "logg": ("LOGG_R",),
            "feh": ("FE_H_R",),
            "ra": ("RA_ICRS",),
            "dec": ("DEC_ICRS",),
        },
        reference="Buder et al. 2021 (GALAH DR3), MNRAS 506, 150",
    ),
    "apogee": Survey(
        arms=(  # apStar pixels 246-3273, 3585-6079 and 6344-8334: the three chips without the gaps between them
            Arm(4.179 + 246 * 6e-6, 6e-6, 3028, log=True),
            Arm(4.179 + 3585 * 6e-6, 6e-6, 2495, log=True),
            Arm(4.179 + 6344 * 6e-6, 6e-6, 1991, log=True),
        ),
        medium="vacuum",
        frame="rest",
        flux_unit=CGS_UNIT,
        resolving_power=22_500,
        typical_snr=100,
        bad_bits={
            "BADPIX": 0,
            "CRPIX": 1,
            "SATPIX": 2,
            "UNFIXABLE": 3,
            "BADDARK": 4,
            "BADFLAT": 5,
            "BADERR": 6,
            "NOSKY": 7,
            "NOT_ENOUGH_PSF": 14,
        },
        label_columns={  # header cards of the files, and columns of aspcapStar and of SDSS-V's mwmStar and mwmVisit
            "teff": ("TEFF",),
            "logg": ("LOGG",),
            "feh": ("FE_H",),
            "m_h": ("M_H",),
            "rv": ("VHBARY", "VHELIO", "XCSAO_V_RAD", "V_RAD"),
            "ra": ("RA",),
            "dec": ("DEC",),
            "snr": ("SNR",),
            "telescope": ("TELESCOPE", "TELESCOP"),
            # Of the template that fits best when the velocity is measured: in steps of 100 K and more.
            "rv_teff": ("RVTEFF", "DOPPLER_TEFF", "XCSAO_TEFF"),
            "rv_logg": ("RVLOGG", "DOPPLER_LOGG", "XCSAO_LOGG"),
            "rv_feh": ("RVFEH", "DOPPLER_FE_H", "XCSAO_FE_H"),
        },
        reference="SDSS data model, apStar files; Nidever et al. 2015, AJ 150, 173; Holtzman et al. 2015, AJ 150, 148",
    ),
    "lamost": Survey(
        arms=(Arm(3.5682, 1e-4, 3909, log=True),),  # 3700-9099 Å
        medium="vacuum",
        frame="observed",
        flux_unit="relative",
        resolving_power=1800,
        typical_snr=20,
        # Not HELIO_RV: it is the correction for the motion of the Earth, already applied, and no velocity of the star.
        label_columns={
            "class": ("CLASS",),
            "subclass": ("SUBCLASS",),
            "redshift": ("Z",),
            "rv": ("RV",),
            "ra": ("RA",),
            "dec": ("DEC",),
            "snr_g": ("SN_G", "SNRG"),
            "snr_r": ("SN_R", "SNRR"),
        },
        reference="LAMOST LRS data release, spec files; Luo et al. 2015, RAA 15, 1095",
    ),
    "lamost_mrs": Survey(
        # 4950-5350 and 6300-6800 Å. The step is not in the documentation (nor is a real file here): 7 km/s, six pixels
        # per resolution element. Files are read on their own grid, whatever it is.
        arms=(Arm(3.6946, 1e-5, 3376, log=True), Arm(3.7994, 1e-5, 3316, log=True)),
        medium="vacuum",
        frame="observed",
        flux_unit="relative",
        resolving_power=7500,
        typical_snr=20,
        label_columns={"ra": ("RA",), "dec": ("DEC",)},
        reference="LAMOST MRS data release (DR7-DR9), med files; Liu et al. 2020, arXiv:2005.07210",
    ),
    "vipers": Survey(
        arms=(Arm(5514.28, 7.14, 557),),  # 5514-9484 Å
        medium="air",
        frame="observed",
        flux_unit=CGS_UNIT,
        resolving_power=220,
        typical_snr=5,
        # The files have codes 0 to 3 instead of bits; any but 0 is bad.
        reference="VIPERS PDR-2, spectra of VIMOS, grism LR-Red; Scodeggio et al. 2018, A&A 609, A84",
    ),
    "gaia_xp": Survey(
        arms=(Arm(3360.0, 20.0, 343),),  # 3360-10200 Å
        medium="vacuum",
        frame="observed",
        flux_unit=CGS_UNIT,  # converted from W m-2 nm-1; errors of neighbouring samples are strongly correlated
        resolving_power=60,
        resolving_curve=((3300, 100), (6400, 30), (6401, 100), (10500, 70)),  # BP, then RP; sampled about 6 times
        typical_snr=50,
        reference="Gaia DR3 datalink, XP_SAMPLED; De Angeli et al. 2023, A&A 674, A2; resolving "
        "power: Gaia Collaboration, Prusti et al. 2016, A&A 595, A1",
    ),
}

__all__ = ["SURVEYS", "Arm", "Survey"]
