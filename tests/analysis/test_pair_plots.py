"""`plot_retrieved` and `plot_pooling_attention`."""

import numpy as np
import pytest

from spectok_hf.analysis.pair_plots import RIGHT_COLOR, plot_pooling_attention, plot_retrieved
from spectok_hf.data.simulation.pairs import simulate_galaxy_pairs
from spectok_hf.models.sky_image import SkyImage

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(scope="module")
def pairs():
    return simulate_galaxy_pairs(4, 2512)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def edges(ax):
    return {matplotlib.colors.to_hex(spine.get_edgecolor()) for spine in ax.spines.values()}


def test_queries_stand_left_of_what_was_found_for_them(pairs):
    images, spectra = [pair.image for pair in pairs], [pair.spectrum for pair in pairs]
    axes = plot_retrieved(
        images[:2], [spectra[:3], spectra[2:] + spectra[:1]], distances=[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    )
    assert axes.shape == (2, 4)
    for row, query in zip(axes, images, strict=False):
        assert len(row[0].images) == 1 and all(ax.lines and not ax.images for ax in row[1:])
        assert row[0].get_title("left") == f"z {query.labels['redshift']:.3f}"
    titles = [ax.get_title("left") for ax in axes[0, 1:]]
    assert titles == [
        f"z {one.labels['redshift']:.3f}, d {far:.3f}" for one, far in zip(spectra[:3], (0.1, 0.2, 0.3), strict=True)
    ]
    axes[0, 0].figure.canvas.draw()


def test_the_right_answer_is_framed_and_no_other(pairs):
    spectra = [pair.spectrum for pair in pairs]
    axes = plot_retrieved([pairs[1].image], [spectra])
    framed = [RIGHT_COLOR.lower() in edges(ax) for ax in axes[0, 1:]]
    assert framed == [False, True, False, False]
    assert all(spine.get_linestyle() == "--" for spine in axes[0, 2].spines.values())


def test_images_are_shown_as_the_given_function_says(pairs):
    calls = []

    def display(image: SkyImage) -> np.ndarray:
        calls.append(image.object_id)
        return np.full((4, 4, 3), 0.25)

    axes = plot_retrieved([pairs[0].spectrum], [[pair.image for pair in pairs[:2]]], display=display)
    assert calls == [pair.image.object_id for pair in pairs[:2]]
    np.testing.assert_array_equal(axes[0, 1].images[0].get_array(), np.full((4, 4, 3), 0.25))
    given = plt.subplots(1, 3, squeeze=False)[1]
    assert plot_retrieved([pairs[0].image], [[pairs[1].image] * 2], display=display, axes=given) is given


def test_what_does_not_make_a_grid_is_refused(pairs):
    image = pairs[0].image
    for queries, found, more in (
        ([], [], {}),
        ([image], [[]], {}),
        ([image, image], [[image], [image, image]], {}),
        ([image], [[image]], {"distances": [[0.1, 0.2]]}),
    ):
        with pytest.raises(ValueError, match="each query needs as many spectra or images"):
            plot_retrieved(queries, found, **more)
    with pytest.raises(ValueError, match=r"axes must have the shape \(1, 2\), found \(1, 3\)"):
        plot_retrieved([image], [[image]], axes=plt.subplots(1, 3, squeeze=False)[1])


def make_attention(spectrum, heads=2, patches=100, on_patches=0.75):
    weights = np.ones((heads, patches))
    weights[0, 40] = 50
    return on_patches * weights / weights.sum(-1, keepdims=True), np.linspace(*spectrum.wavelength[[0, -1]], patches)


def test_weights_are_drawn_over_the_wavelength_by_head_and_mean(pairs):
    spectrum = pairs[0].spectrum
    attention, wavelength = make_attention(spectrum)
    upper, lower = plot_pooling_attention(spectrum, attention, wavelength)
    drawn = {line.get_label(): line for line in lower.lines}
    assert set(drawn) >= {"head 1", "head 2", "mean"}
    np.testing.assert_allclose(drawn["head 1"].get_xdata(), wavelength)
    np.testing.assert_allclose(drawn["head 1"].get_ydata(), 100 * attention[0])
    np.testing.assert_allclose(drawn["head 2"].get_ydata(), 0.75)
    np.testing.assert_allclose(drawn["mean"].get_ydata(), 100 * attention.mean(0))
    assert upper.get_xlim() == lower.get_xlim()
    assert "25% of the weight is on no patch" in upper.get_title("left")
    upper.figure.canvas.draw()


def test_lines_are_named_where_they_are_observed(pairs):
    spectrum = pairs[0].spectrum
    upper, _ = plot_pooling_attention(spectrum, *make_attention(spectrum))
    named = {text.get_text(): text.xy[0] for text in upper.texts}
    low, high = upper.get_xlim()
    observed = 4862.7 * (1 + spectrum.labels["redshift"])
    assert named["Hβ"] == pytest.approx((observed - low) / (high - low), abs=1e-3)  # a share of the axes


def test_patches_that_do_not_count_are_left_out(pairs):
    spectrum = pairs[0].spectrum
    attention, wavelength = make_attention(spectrum)
    valid = np.ones(100)
    valid[60:70] = 0
    attention[:, 60:70] = 0
    _, lower = plot_pooling_attention(spectrum, attention, wavelength, attention_mask=valid)
    parts = [line for line in lower.lines if line.get_color() == "#D55E00"]
    assert [len(line.get_xdata()) for line in parts] == [60, 30]
    np.testing.assert_allclose(parts[0].get_ydata(), 90 * attention.mean(0)[:60])


def test_weights_that_are_none_are_refused(pairs):
    spectrum = pairs[0].spectrum
    attention, wavelength = make_attention(spectrum)
    with pytest.raises(ValueError, match=r"found \(1, 2, 100\), \(100,\)"):
        plot_pooling_attention(spectrum, attention[None], wavelength)
    for wrong in (-attention, 3 * attention, np.full_like(attention, np.nan)):
        with pytest.raises(ValueError, match="weights of valid patches"):
            plot_pooling_attention(spectrum, wrong, wavelength)
    with pytest.raises(ValueError, match="found 0 valid patches"):
        plot_pooling_attention(spectrum, attention, np.zeros(100))
