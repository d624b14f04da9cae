"""What each survey observes and how, for the simulation: facts only.

"Measured" means: on the real spectra that the project keeps outside the repository: SDSS n = 14, BOSS 57, DESI 32,
LAMOST DR1 125, GALAH DR3 36, apStar 16, Gaia XP 2.
"""

from dataclasses import dataclass
from typing import Any

Window = tuple[float, float, float]  # from, to, in Å, and a number


@dataclass(frozen=True)
class Recipe:
    """What a survey observes, and what its spectra suffer from.

    Args:
        mix: Share of each class.
        snr: 5th and 95th percentile of the log-normal signal-to-noise ratio per pixel.
        noise: Error of the flux of a faint object, in the survey's unit; its scatter among objects is `noise_scatter`.
        error_curve: Error of a faint object between the sky's lines relative to its median: pairs of wavelength in Å
            and error, linear between. The sensitivity follows from it.
        noise_scatter: Scatter of the noise among objects (exposure time, sky, magnitude), in dex.
        sky_limited_snr: Signal-to-noise ratio at which an object is as bright as the sky's continuum; 0 = no sky.
        read_noise: Variance of the detector over that of the sky's continuum, at the best wavelength.
        calibrated: Whether the sensitivity was divided out of the flux (it is left in counts).
        giants: Share of giants among the stars.
        galaxy_redshift: Lowest and highest redshift of galaxies.
        quasar_redshift: Lowest and highest redshift of quasars.
        trim: Greatest number of pixels added or missing at either end of the grid of `SURVEYS`: before the start,
            after it, before the end, after the end.
        shift: Greatest relative shift of the whole grid by the barycentric correction.
        missing_arm: Probability that one arm is missing.
        tilt: Size of the smooth calibration error of an object, in natural logarithms of flux.
        ripple: Amplitude of its waves.
        joins: Where arms meet, in Å.
        join_offset: Typical step of the flux there.
        telluric: Share of the absorption by the air left in the flux, and its scatter among objects; what was
            divided out enlarges the error.
        overstatement: Stated over true error of the noise, median and scatter in dex.
        error_scatter: Scatter of the stated error among neighbouring pixels, in natural logarithms, where an object is
            much fainter than the sky; and its correlation with the noise, as errors come from the photons counted.
        noise_curve: Noise over stated error relative to its mean: pairs of wavelength in Å and ratio; none = 1.
        correlation: Width (standard deviation in pixels) of the kernel by which resampling correlates the noise.
        sky_residual: Typical scatter of what sky subtraction leaves at lines, in units of the error there.
        pedestal: Typical smooth error of the sky's continuum, in units of the error of a pixel.
        dead: Mean number and greatest length of runs of pixels without data (`ivar` 0).
        dead_block: Probability and greatest length of one long such run.
        flagged: Mean number and greatest length of runs that are flagged in the mask with a finite `ivar`.
        bright_sky: Share of pixels flagged since the sky is bright there, on average and at most.
        lost: Windows without data, and how often.
        starved: Blueward of 4600 Å, pixels below this signal-to-noise ratio have no data.
        inflated: Windows whose stated error is too large, and by which factor.
        inflated_share: How often those are.
        persistence: Probability, greatest length and error factor of a stretch of the detector that remembers.
        spikes: Probability that a spectrum has unflagged spikes, and their mean number.
    """

    mix: dict[str, float]
    snr: tuple[float, float]
    noise: float
    error_curve: tuple[tuple[float, float], ...]
    noise_scatter: float = 0.08
    sky_limited_snr: float = 10.0
    read_noise: float = 0.1
    calibrated: bool = True
    giants: float = 0.3
    galaxy_redshift: tuple[float, float] = (0.01, 0.5)
    quasar_redshift: tuple[float, float] = (0.04, 4.0)
    trim: tuple[int, int, int, int] = (0, 0, 0, 0)
    shift: float = 0.0
    missing_arm: float = 0.0
    tilt: float = 0.05
    ripple: float = 0.01
    joins: tuple[float, ...] = ()
    join_offset: float = 0.02
    telluric: tuple[float, float] = (0.0, 0.1)
    overstatement: tuple[float, float] = (1.0, 0.02)
    error_scatter: tuple[float, float] = (0.0, 0.0)
    noise_curve: tuple[tuple[float, float], ...] = ()
    correlation: float = 0.0
    sky_residual: float = 0.0
    pedestal: float = 0.05
    dead: tuple[float, int] = (0.0, 1)
    dead_block: tuple[float, int] = (0.0, 1)
    flagged: tuple[float, int] = (0.0, 1)
    bright_sky: tuple[float, float] = (0.0, 0.0)
    lost: tuple[Window, ...] = ()
    starved: float = 0.0
    inflated: tuple[Window, ...] = ()
    inflated_share: float = 0.0
    persistence: tuple[float, int, float] = (0.0, 1, 1.0)
    spikes: tuple[float, float] = (0.0, 0.0)


# S/N: galaxies and quasars of the main SDSS sample are fainter than those measured here (Strauss et al. 2002, AJ 124,
# 1810), GALAH stars a little brighter (means 59-94 per CCD: Buder et al. 2018, MNRAS 478, 4513), APOGEE aims at 100
# (Majewski et al. 2017, AJ 154, 94); BOSS, LAMOST and DESI as measured. LAMOST MRS: Liu et al. 2020, arXiv 2005.07210;
# Gaia XP: De Angeli et al. 2023, A&A 674, A2. Error curves, noise floors, bad pixels and trims: measured.
RECIPES = {
    "sdss": Recipe({"GALAXY": 0.5, "QSO": 0.2, "STAR": 0.3}, (4, 45), noise=0.9, noise_scatter=0.12,
        error_curve=((3780, 3.1), (3800, 2.8), (3820, 2.5), (3850, 2.2), (3930, 1.85), (4070, 1.55), (4220, 1.33),
            (4370, 1.2), (4690, 1.08), (5040, 0.97), (5400, 0.96), (5700, 1.01), (5800, 1.07), (5860, 1.08),
            (5910, 0.94), (6010, 0.87), (6230, 0.78), (6460, 0.73), (7190, 0.71), (7710, 0.79), (8280, 0.88),
            (8890, 1.12), (9215, 1.3)),
        trim=(14, 31, 10, 6), joins=(5900,), tilt=0.04, overstatement=(1.05, 0.04), error_scatter=(0.029, 0.72),
        correlation=0.51, sky_residual=2.1, dead=(0.8, 6), dead_block=(0.08, 550), flagged=(2.0, 6),
        bright_sky=(0.02, 0.07), spikes=(0.08, 1)),
    "boss": Recipe({"GALAXY": 0.5, "QSO": 0.3, "STAR": 0.2}, (1.0, 22), noise=0.25,
        error_curve=((3550, 11.5), (3561, 10.9), (3590, 8.2), (3620, 6.8), (3660, 5.4), (3720, 3.8), (3800, 2.8),
            (3880, 2.1), (4050, 1.7), (4230, 1.4), (4410, 1.27), (4610, 1.14), (5020, 0.98), (5470, 0.94),
            (5800, 1.0), (5950, 1.17), (6050, 1.08), (6220, 0.92), (6490, 0.74), (6770, 0.68), (7070, 0.63),
            (9140, 0.62), (9330, 0.7), (9540, 0.8), (9800, 0.9), (9960, 1.1), (10100, 1.7), (10200, 2.9),
            (10300, 4.7), (10400, 8.0)),
        galaxy_redshift=(0.15, 0.8), quasar_redshift=(0.3, 3.8), trim=(3, 57, 1, 33), joins=(6050,), ripple=0.015,
        overstatement=(1.08, 0.02), error_scatter=(0.043, 0.48),
        noise_curve=((3600, 1.17), (3730, 1.14), (4000, 1.05), (4450, 1.04), (4860, 1.01), (5310, 0.97), (8000, 0.96),
            (9000, 0.92)), correlation=0.49, sky_residual=0.25, pedestal=0.15, dead=(4.0, 5),
        dead_block=(0.01, 300), bright_sky=(0.05, 0.08), spikes=(0.03, 1)),
    "desi": Recipe({"GALAXY": 0.55, "QSO": 0.2, "STAR": 0.25}, (0.3, 30), noise=0.105,
        error_curve=((3600, 14.6), (3620, 12.8), (3650, 10.5), (3700, 7.7), (3760, 6.3), (3830, 4.7), (3900, 3.7),
            (4000, 3.15), (4230, 2.45), (4355, 2.25), (4385, 2.6), (4440, 2.35), (4580, 2.08), (4740, 1.93),
            (4770, 1.76), (5170, 1.58), (5600, 1.62), (5798, 1.68), (5805, 2.2), (5840, 1.53), (5870, 1.22),
            (5900, 1.13), (6070, 1.0), (6320, 0.9), (6580, 0.79), (6850, 0.74), (7400, 0.75), (7515, 0.85),
            (7540, 0.78), (7700, 0.68), (8040, 0.59), (8370, 0.55), (9270, 0.52), (9440, 0.6), (9824, 0.75)),
        galaxy_redshift=(0.02, 1.5), quasar_redshift=(0.1, 3.6), joins=(5780, 7570), join_offset=0.015, ripple=0.005,
        overstatement=(0.92, 0.02), error_scatter=(0.02, 0.0), sky_residual=1.35, pedestal=0.8, dead=(0.8, 6),
        dead_block=(0.03, 60), spikes=(0.1, 1)),
    "galah": Recipe({"STAR": 1.0}, (9, 95), noise=8.0, noise_scatter=0.15, giants=0.4, calibrated=False,
        error_curve=((4713, 1.65), (4800, 1.5), (4903, 1.42), (5649, 0.97), (5760, 0.96), (5875, 1.0), (6478, 0.76),
            (6600, 0.74), (6740, 0.76), (7585, 0.78), (7660, 0.76), (7888, 0.73)),
        sky_limited_snr=2.0, shift=1.6e-4, missing_arm=0.018, tilt=0.15, ripple=0.02, joins=(5300, 6100, 7100),
        join_offset=0.12, telluric=(0.1, 0.4), overstatement=(1.7, 0.09), error_scatter=(0.03, 0.85),
        noise_curve=((4713, 1.08), (4903, 1.08), (5649, 0.86), (5873, 0.86), (6478, 0.91), (6737, 0.91), (7585, 1.13)),
        correlation=0.62, sky_residual=2.0, dead=(0.1, 30), spikes=(0.6, 2.5)),
    "apogee": Recipe({"STAR": 1.0}, (25, 260), noise=0.9, noise_scatter=0.4, giants=0.8, sky_limited_snr=25.0,
        error_curve=((15150, 1.1), (15250, 1.01), (15400, 0.93), (15600, 0.91), (15804, 0.97), (15860, 4.0),
            (15880, 2.0), (15886, 1.0), (15920, 0.83), (16200, 0.84), (16230, 0.95), (16280, 1.1), (16340, 1.8),
            (16432, 2.0), (16470, 0.95), (16550, 0.98), (16600, 1.03), (16700, 1.2), (16800, 1.35), (16900, 1.65),
            (16945, 1.9)),
        ripple=0.004, joins=(15840, 16450), join_offset=0.03, overstatement=(1.0, 0.06), error_scatter=(0.014, 0.25),
        correlation=0.55, sky_residual=11.0, dead=(0.6, 6), flagged=(42.0, 8), persistence=(0.6, 300, 5.0),
        spikes=(0.4, 3)),
    "lamost": Recipe({"GALAXY": 0.06, "QSO": 0.04, "STAR": 0.9}, (11, 85), noise=4.7, noise_scatter=0.12,
        error_curve=((3700, 14.0), (3750, 10.5), (3840, 7.2), (3900, 5.8), (3980, 4.3), (4120, 3.0), (4280, 2.1),
            (4430, 1.7), (4590, 1.42), (4760, 1.24), (5120, 1.06), (5500, 1.0), (5640, 1.18), (5680, 1.46),
            (5705, 1.72), (5760, 1.34), (5800, 1.13), (5900, 0.96), (6000, 0.82), (6130, 0.72), (6350, 0.62),
            (6580, 0.54), (6820, 0.48), (7070, 0.44), (7600, 0.41), (8170, 0.37), (8780, 0.39), (9100, 0.48)),
        galaxy_redshift=(0.01, 0.25), quasar_redshift=(0.05, 3.0), sky_limited_snr=15.0, trim=(0, 0, 5, 0), tilt=0.2,
        ripple=0.008, joins=(5800,), join_offset=0.04, telluric=(0.5, 0.25), overstatement=(1.22, 0.08),
        error_scatter=(0.06, 0.13), correlation=0.5, sky_residual=2.1, dead=(10.0, 5), dead_block=(0.04, 150),
        lost=((5575, 5900, 0.1), (7580, 7679, 1.0), (9035, 9100, 1.0),
            (8950, 9036, 0.5)), starved=1.8, spikes=(0.02, 1), inflated=((3926, 3944, 2.9), (3961, 3980, 2.8),
            (4094, 4112, 3.1), (4295, 4314, 2.9), (4332, 4351, 2.9), (4852, 4872, 3.1), (5168, 5186, 3.1),
            (6555, 6572, 3.3), (8492, 8509, 4.0), (8533, 8553, 2.6), (8654, 8674, 4.8)), inflated_share=0.7),
    "lamost_mrs": Recipe({"STAR": 1.0}, (10, 120), noise=30.0, noise_scatter=0.3,
        error_curve=((4950, 1.5), (5050, 1.15), (5150, 1.05), (5250, 1.0), (5350, 1.15), (6300, 1.0), (6400, 0.85),
            (6550, 0.8), (6700, 0.9), (6800, 1.2)),
        sky_limited_snr=4.0, tilt=0.15, ripple=0.02, joins=(5800,), join_offset=0.1, telluric=(1.0, 0.0),
        overstatement=(1.08, 0.08), correlation=0.53, dead=(3.0, 5), dead_block=(0.03, 150), spikes=(0.1, 1)),
    "gaia_xp": Recipe({"GALAXY": 0.03, "QSO": 0.07, "STAR": 0.9}, (20, 400), noise=0.2, noise_scatter=0.4,
        error_curve=((3360, 6.0), (3700, 2.0), (4100, 1.0), (4700, 0.8), (5500, 0.8), (6400, 1.05), (7000, 0.95),
            (8500, 0.75), (9500, 1.0), (10200, 1.8)),
        galaxy_redshift=(0.01, 0.2), quasar_redshift=(0.3, 3.5), sky_limited_snr=0.0, tilt=0.02, ripple=0.005,
        joins=(6450,), join_offset=0.01, telluric=(0.0, 0.0), overstatement=(0.9, 0.08), correlation=1.2,
        pedestal=0.0),
}  # fmt: skip

# What a survey does not suffer from where errors are honest, beside persistence: see `simulate_survey`.
HONEST: dict[str, Any] = {
    "overstatement": (1.0, 0.0),
    "error_scatter": (0.0, 0.0),
    "noise_curve": (),
    "correlation": 0.0,
    "sky_residual": 0.0,
    "pedestal": 0.0,
    "inflated_share": 0.0,
    "spikes": (0.0, 0.0),
}

__all__ = ["HONEST", "RECIPES", "Recipe"]
