"""What each survey observes, for the simulation: classes, redshifts, signal-to-noise, calibration; facts only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What a survey observes.

    Args:
        mix: Share of each class.
        snr: Lowest and highest signal-to-noise ratio per pixel, drawn uniformly in its logarithm.
        noise: Standard deviation of the flux of a faint object, in the survey's unit.
        edge: Throughput at the ends of an arm, relative to its middle.
        giants: Share of giants among the stars.
        galaxy_redshift: Lowest and highest redshift of galaxies.
        quasar_redshift: Lowest and highest redshift of quasars.
        tilt: Size of the smooth calibration error of an object, in natural logarithms of flux.
        calibrated: Whether the throughput was divided out of the flux (it is left in counts).
    """

    mix: dict[str, float]
    snr: tuple[float, float]
    noise: float
    edge: float
    giants: float = 0.3
    galaxy_redshift: tuple[float, float] = (0.01, 0.5)
    quasar_redshift: tuple[float, float] = (0.1, 4.0)
    tilt: float = 0.05
    calibrated: bool = True


# S/N and noise as met in real spectra of each survey: S/N 5-40 in SDSS, 1-14 in BOSS, 1-16 in DESI, 6-150 in GALAH.
RECIPES = {
    "sdss": Recipe({"GALAXY": 0.5, "QSO": 0.2, "STAR": 0.3}, (3, 60), noise=1.0, edge=0.4),
    "boss": Recipe({"GALAXY": 0.5, "QSO": 0.3, "STAR": 0.2}, (1, 40), noise=0.35, edge=0.15,
        galaxy_redshift=(0.15, 0.8), quasar_redshift=(0.5, 3.8)),
    "desi": Recipe({"GALAXY": 0.55, "QSO": 0.2, "STAR": 0.25}, (0.5, 60), noise=0.2, edge=0.15,
        galaxy_redshift=(0.02, 1.5), quasar_redshift=(0.3, 3.6)),
    "galah": Recipe({"STAR": 1.0}, (8, 150), noise=20.0, edge=0.5, giants=0.4, tilt=0.15, calibrated=False),
    "apogee": Recipe({"STAR": 1.0}, (20, 300), noise=1.0, edge=0.5, giants=0.8),
    "lamost": Recipe({"GALAXY": 0.06, "QSO": 0.04, "STAR": 0.9}, (5, 120), noise=10.0, edge=0.15, tilt=0.2,
        galaxy_redshift=(0.01, 0.25), quasar_redshift=(0.1, 3.0)),
}  # fmt: skip

__all__ = ["RECIPES", "Recipe"]
