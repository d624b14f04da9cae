"""`spectrum_card`: what stands on the page, for checkpoints and spectra of every kind."""

import itertools

import numpy as np
import pytest

from spectok_hf import (
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraProcessor,
    Spectrum,
    read_spectra,
    simulate_survey,
)
from spectok_hf.analysis.attribution import Attribution, attribute
from spectok_hf.analysis.spectrum_card import choose_windows, spectrum_card
from spectok_hf.data.domain import UNKNOWN
from spectok_hf.encoder import SpectrumEncoder

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def encoder():
    return SpectrumEncoder.from_pretrained("spectok-tiny")


class Headless:
    """An encoder that reconstructs, and has no head."""

    name = "bare"

    def __init__(self, encoder):
        self.model, self.processor, self.reconstruct = encoder.model, encoder.processor, encoder.reconstruct

    def classify(self, spectrum):
        raise ValueError("no such head")

    redshift = predict = classify


class Answering(Headless):
    """An encoder whose heads say what they are told to."""

    def __init__(self, encoder, **answers):
        super().__init__(encoder)
        for method, answer in answers.items():
            setattr(self, method, lambda spectrum, answer=answer: answer)


def facts(axes):
    return "\n".join(text.get_text() for text in axes["facts"].texts)


def names(axis):
    return {text.get_text() for text in axis.texts if text.get_gid() == "line"}


def assert_readable(axes):
    figure = axes["flux"].figure
    figure.canvas.draw()
    texts = [text for axis in axes.values() for text in axis.texts if text.get_text() not in ("", "//")]
    for axis in axes.values():
        low, high = axis.get_xlim()  # labels of ticks beyond are not drawn
        texts += [label for label in axis.get_xticklabels() if axis.axison and low <= label.get_position()[0] <= high]
    page = figure.bbox
    found = [text.get_window_extent() for text in texts if text.get_visible() and text.get_text()]
    for box in found:
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
    assert not any(one.overlaps(other) for one, other in itertools.combinations(found, 2))


def strip_of(spectrum, processor):
    patches = processor.patch(spectrum)
    values = np.where(patches["attention_mask"] > 0, np.linspace(-1, 3, len(patches["attention_mask"])), np.nan)
    first = np.arange(len(values)) * 32
    last = np.minimum(first + 31, len(spectrum) - 1)
    return Attribution(spectrum.wavelength[np.stack([first, last], -1)], values, "occlusion", "log-odds of GALAXY")


@pytest.mark.parametrize(
    ("survey", "kind"), [("sdss", "GALAXY"), ("desi", "QSO"), ("apogee", "STAR"), ("galah", "STAR")]
)
def test_every_survey_has_a_page_that_can_be_read(encoder, survey, kind):
    spectrum = simulate_survey(survey, 1, seed=921, kind=kind, snr=25)[0]
    axes = spectrum_card(spectrum, encoder, neighbours=[(spectrum.name, spectrum, 1.0)] * 4)
    assert {"flux", "residual", "quality", "facts", "zoom 1"} <= set(axes) and "attribution" not in axes
    assert names(axes["flux"]) and names(axes["zoom 1"])
    assert_readable(axes)
    assert (survey in facts(axes)) and "spectok-tiny says" in facts(axes)


def test_the_facts_are_those_of_the_spectrum(encoder):
    spectrum = simulate_survey("sdss", 1, seed=922, kind="GALAXY", snr=20)[0]
    spectrum.flag(np.arange(len(spectrum)) < 100, "a reason of our own")
    text = facts(spectrum_card(spectrum, encoder))
    valid = int(encoder.processor.patch(spectrum)["attention_mask"].sum())
    for line in (
        f"{len(spectrum):,} pixels, {spectrum.good.sum():,} good",
        "pixels: a reason of our own",
        f"{valid} of {-(-len(spectrum) // 32)} patches read",
        f"redshift: {spectrum.labels['redshift']:.4f}",
        "vacuum, observed frame",
    ):
        assert line in text
    answer = encoder.classify(spectrum)
    assert f"class: {answer['class']}, probability {answer['confidence']:.3f}" in text
    assert "teff" not in text  # a galaxy has none


def test_stars_have_parameters_and_no_redshift(encoder):
    spectrum = simulate_survey("lamost", 1, seed=923, kind="STAR", snr=40)[0]
    axes = spectrum_card(spectrum, encoder)
    answer = encoder.predict(spectrum)
    assert f"teff: {answer['teff']:.0f} ± {answer['teff_error']:.0f} K" in facts(axes)
    assert "zwarn" not in facts(axes)


@pytest.mark.parametrize(
    ("label", "text"), [("rv", "at the velocity of its labels"), ("redshift", "at the redshift of")]
)
def test_whether_names_of_lines_of_a_star_are_at_its_velocity_or_redshift_is_said(encoder, label, text):
    spectrum = simulate_survey("lamost", 1, seed=923, kind="STAR", snr=40)[0]
    spectrum.labels = {name: spectrum.labels[name] for name in ("class", label)}
    assert text in facts(spectrum_card(spectrum, encoder))


def test_without_heads_there_is_still_a_page(encoder):
    spectrum = simulate_survey("sdss", 1, seed=924, kind="GALAXY", snr=20)[0]
    axes = spectrum_card(spectrum, Headless(encoder))
    assert "neighbour 1" not in axes
    assert "bare says\nnothing: it has no heads" in facts(axes)
    assert names(axes["flux"])


def test_the_redshift_head_names_lines_only_where_it_is_sure(encoder):
    spectrum = simulate_survey("boss", 1, seed=925, kind="QSO", snr=20)[0]
    spectrum.labels = {}
    seen = {"classify": {"class": "QSO", "confidence": 0.99, "outside": ""}}
    redshift = {"redshift": 2.0, "redshift_error": 0.01, "confidence": 0.97, "zwarn": 0, "outside": ""}
    sure = spectrum_card(spectrum, Answering(encoder, **seen, redshift=redshift))
    assert "at z = 2.0000, of the redshift head" in facts(sure) and "C IV" in names(sure["flux"])
    unsure = spectrum_card(spectrum, Answering(encoder, **seen, redshift=redshift | {"zwarn": 1}))
    assert "none: its redshift is not known" in facts(unsure) and not names(unsure["flux"])
    assert "zwarn 1: do not trust this redshift" in facts(unsure)


@pytest.mark.parametrize(
    ("outside", "text"),
    [
        ("", "inside what it was trained on"),
        ("snr; wavelength", "! outside its training: snr, wavelength"),
        (UNKNOWN, "what it was trained on is not known"),
    ],
)
def test_what_lies_outside_is_said(encoder, outside, text):
    spectrum = simulate_survey("sdss", 1, seed=926, kind="GALAXY", snr=20)[0]
    seen = {"class": "GALAXY", "confidence": 0.9, "outside": outside}
    assert text in facts(spectrum_card(spectrum, Answering(encoder, classify=seen)))


def test_strip_and_neighbours_have_their_places(encoder):
    spectra = simulate_survey("sdss", 6, seed=927, kind="GALAXY", snr=20)
    head = encoder.head("classification")
    attribution = attribute(head.model, head.processor, spectra[0], method="gradient")
    similar = [(one.name, one, 0.9 - number / 10) for number, one in enumerate(spectra[1:])]
    axes = spectrum_card(spectra[0], encoder, attribution=attribution, neighbours=similar, paper="letter")
    assert [name for name in axes if name.startswith("neighbour")] == [f"neighbour {n}" for n in (1, 2, 3, 4)]
    assert axes["neighbour 1"].get_title(loc="left") == f"{spectra[1].name}, 0.9"
    bars = [patch for patch in axes["attribution"].patches if patch.get_gid() == "attribution"]
    assert len(bars) == np.isfinite(attribution.values).sum()
    assert axes["attribution"].get_xlim() == axes["flux"].get_xlim()
    assert tuple(axes["flux"].figure.get_size_inches()) == (11.0, 8.5)
    assert_readable(axes)


def test_bad_pixels_and_unread_patches_are_in_the_bar(encoder):
    spectrum = simulate_survey("sdss", 1, seed=928, kind="GALAXY", snr=20)[0]
    spectrum.flag(np.isin(np.arange(len(spectrum)) // 32, [10]), "a hole")
    patches = spectrum_card(spectrum, encoder)["quality"].patches
    hatched = [patch for patch in patches if patch.get_hatch()]
    middle = spectrum.wavelength[10 * 32 + 16]
    assert any(patch.get_x() < middle < patch.get_x() + patch.get_width() for patch in hatched)
    filled = [patch for patch in patches if not patch.get_hatch()]
    assert any(patch.get_x() < middle < patch.get_x() + patch.get_width() for patch in filled)


def test_what_one_of_two_patches_shows_was_read():
    config = OmniSpectraConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    masked = SpectrumEncoder(OmniSpectraForPreTraining(config), OmniSpectraProcessor(), device="cpu")
    spectrum = simulate_survey("gaia_xp", 1, seed=1004)[0]
    spectrum.flag(np.isin(np.arange(len(spectrum)), np.arange(100, 135)), "a hole")
    axes = spectrum_card(spectrum, masked)
    (hatched,) = (patch for patch in axes["quality"].patches if patch.get_hatch())
    # Of patches at 90, 100, ... those at 90 to 120 have half of their pixels or more bad; 80 to 99 shows up to 99, 130
    # to 149 from 130 on.
    assert (hatched.get_x(), hatched.get_x() + hatched.get_width()) == pytest.approx(spectrum.wavelength[[100, 129]])
    assert f"of {masked.processor.count_patches(spectrum.wavelength)} patches read" in facts(axes)


def test_zooms_lie_at_lines_and_apart():
    spectrum = simulate_survey("sdss", 1, seed=929, kind="GALAXY", snr=20)[0]
    redshift = 0.05
    windows = choose_windows(spectrum, "galaxy", redshift)
    assert len(windows) == 3 and windows == sorted(windows)
    assert any(low < 6564.6 * 1.05 < high for low, high in windows)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(windows))
    assert len(choose_windows(spectrum, None, None)) == 3
    nothing = Spectrum(np.ones(90), 5000.0 + np.arange(90), np.zeros(90))
    assert choose_windows(nothing, "galaxy", 0.0) == []


def test_what_cannot_be_read_or_printed_is_refused(encoder):
    spectrum = simulate_survey("sdss", 1, seed=930)[0]
    with pytest.raises(ValueError, match="paper must be one of a4, letter, found 'a5'"):
        spectrum_card(spectrum, encoder, paper="a5")
    spectrum.flag(np.ones(len(spectrum)), "all of it")
    with pytest.raises(ValueError, match="are bad"):
        spectrum_card(spectrum, encoder)


def test_a_name_with_a_formula_is_text(encoder):
    spectrum = simulate_survey("sdss", 1, seed=931, kind="GALAXY", snr=20)[0]
    spectrum.object_id = r"50 $\frac"
    assert_readable(spectrum_card(spectrum, encoder))


def test_a_real_galaxy(encoder, spectra_dir):
    pytest.importorskip("astropy")
    spectrum = read_spectra(spectra_dir / "sdss" / "firefly" / "spec-1045-52725-0628.fits", progress=False)[0]
    axes = spectrum_card(spectrum, encoder, attribution=strip_of(spectrum, encoder.processor))
    assert {"Hα", "[N II]"} <= names(axes["zoom 3"])
    assert "62 pixels: BRIGHTSKY" in facts(axes)
    assert_readable(axes)
