"""`plot_picture_sheet`: the pictures of several spectra, pixel by pixel, in every way that is asked for."""

import io

import numpy as np
import pytest

from spectok_hf import SpectrumImageProcessor, SpectrumProcessor, simulate_survey
from spectok_hf.analysis.picture_plots import plot_picture_sheet

plt = pytest.importorskip("matplotlib.pyplot")
SPECTRA = simulate_survey("sdss", 1, seed=1205, kind="GALAXY") + simulate_survey("apogee", 1, seed=1205, kind="STAR")
PROCESSORS = {name: SpectrumImageProcessor(name, image_size=60) for name in ("simple", "overlap", "map")}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_a_saved_sheet_holds_every_picture_as_it_was_drawn():
    axes = plot_picture_sheet(SPECTRA, PROCESSORS)
    figure, buffer = axes[0, 0].figure, io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi="figure")
    width, height = figure.canvas.get_width_height()
    pixels = np.frombuffer(buffer.getvalue(), dtype=np.uint8).reshape(height, width, 4)[..., :3]
    for row, processor in zip(axes, PROCESSORS.values(), strict=True):
        for ax, spectrum in zip(row, SPECTRA, strict=True):
            left, bottom = (round(place) for place in ax.get_window_extent().min)
            shown = pixels[height - bottom - 60 : height - bottom, left : left + 60]
            assert np.array_equal(shown, processor.draw(spectrum))


def test_rows_are_named_by_the_processors_and_columns_by_the_spectra():
    axes = plot_picture_sheet(SPECTRA, PROCESSORS)
    assert axes.shape == (3, 2) and [row[0].get_ylabel() for row in axes] == list(PROCESSORS)
    titles = [ax.get_title(loc="left") for ax in axes[0]]
    assert [title.splitlines()[0] for title in titles] == [spectrum.name for spectrum in SPECTRA]
    redshift, teff = SPECTRA[0].labels["redshift"], SPECTRA[1].labels["teff"]
    assert f"galaxy, z {redshift:.2f}, 3,830 pixels" in titles[0] and f"star, {teff:.0f} K" in titles[1]


@pytest.mark.parametrize(
    ("spectra", "processors", "found"),
    [
        ([], PROCESSORS, "found 0 spectra"),
        (SPECTRA, {}, "pictures of none"),
        (SPECTRA, PROCESSORS | {"large": SpectrumImageProcessor()}, "pictures of 60, 224"),
        (SPECTRA, {"patches": SpectrumProcessor()}, "found SpectrumProcessor"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(spectra, processors, found):
    with pytest.raises(ValueError, match=found):
        plot_picture_sheet(spectra, processors)
    assert not plt.get_fignums()
