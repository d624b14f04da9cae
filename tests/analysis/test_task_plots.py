"""Plots of task heads: what is drawn, and which figures are written."""

import re
import sys
from statistics import NormalDist

import numpy as np
import pytest

from spectok_hf.analysis.task_plots import (
    plot_confusion,
    plot_coverage,
    plot_error_by_snr,
    plot_flag_reliability,
    plot_pit,
    plot_predicted_true,
    plot_residual_boxes,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")

CLASSES = ("GALAXY", "QSO", "STAR")
TRUTH = ["GALAXY"] * 4 + ["QSO"] * 2 + ["STAR"] * 2
PREDICTED = ["GALAXY"] * 3 + ["QSO"] + ["QSO"] * 2 + ["GALAXY", "STAR"]

# Every plot from vectors alone: labels first, then what belongs to them.
PLOTS = {
    "confusion": lambda *columns, **where: plot_confusion(*columns, ("no", "yes"), **where),
    "predicted_true": lambda *columns, **where: plot_predicted_true(*columns, name="x", **where)[0],
    "error_by_snr": lambda *columns, **where: plot_error_by_snr(*columns, name="x", **where),
    "coverage": plot_coverage,
    "pit": plot_pit,
    "flag_reliability": plot_flag_reliability,
    "residual_boxes": lambda *columns, **where: plot_residual_boxes(*columns, name="x", against_name="y", **where),
}
COLUMNS = {"pit": 1, "flag_reliability": 3}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def texts(axis):
    return [text.get_text() for text in axis.texts]


def title(axis):
    return axis.get_title(loc="left")


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def line(axis, label):
    (found,) = [line for line in axis.get_lines() if str(line.get_label()).startswith(label)]
    return found


def band(collection):
    """Lower and upper edge of what fill_between has drawn, by x."""
    x, y = collection.get_paths()[0].vertices.T
    places = np.unique(x)
    return np.array([(place, y[x == place].min(), y[x == place].max()) for place in places]).T


def columns_of(name, first):
    return (first, *[np.ones(len(first))] * (COLUMNS.get(name, 2) - 1))


class TestAllPlots:
    @pytest.mark.parametrize("name", PLOTS)
    def test_they_draw_on_the_axes_given(self, name):
        axes = plt.subplots(2, 1)[1]
        where = {"axes": tuple(axes)} if name == "predicted_true" else {"ax": axes[0]}
        assert PLOTS[name](*columns_of(name, np.array([0.0, 1, 1])), **where) is axes[0]
        assert len(plt.get_fignums()) == 1

    @pytest.mark.parametrize("name", PLOTS)
    def test_missing_labels_are_left_out_and_counted(self, name):
        labels, *others = columns_of(name, np.array([0, 1, np.nan, 1, np.nan]))
        for column in others:
            column[2] = np.nan  # what belongs to no label may be anything
        axis = PLOTS[name](labels, *others)
        said = " ".join([title(axis), *texts(axis), *(legend(axis) if axis.get_legend() else [])])
        assert "n = 3 (left out: 2 without label)" in said

    @pytest.mark.parametrize("name", PLOTS)
    def test_without_a_label_there_is_nothing_to_plot(self, name):
        for labels in (np.full(3, np.nan), np.empty(0)):
            with pytest.raises(ValueError, match=rf"nothing to plot: \w+ holds {len(labels)} values, and all are mis"):
                PLOTS[name](*columns_of(name, labels))
        assert not plt.get_fignums()

    @pytest.mark.parametrize("name", [name for name in PLOTS if COLUMNS.get(name) != 1])
    def test_shapes_must_agree(self, name):
        columns = columns_of(name, np.zeros(3))
        with pytest.raises(ValueError, match=r"must be vectors of one length, found the shapes .*\(3,\).*\(2,\)"):
            PLOTS[name](*columns[:-1], np.ones(2))
        with pytest.raises(ValueError, match=r"must be vectors of one length, found the shapes \(3, 1\)"):
            PLOTS[name](*[column[:, None] for column in columns])

    @pytest.mark.parametrize("name", [name for name in PLOTS if COLUMNS.get(name) != 1])
    def test_what_belongs_to_a_label_must_be_known(self, name):
        columns = columns_of(name, np.array([0.0, 1, np.nan]))
        with pytest.raises(ValueError, match=r"must be finite where \w+ is known, found 1 of 2 that are not"):
            PLOTS[name](*columns[:-1], np.array([np.nan, 1, np.nan]))

    def test_without_matplotlib_the_error_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
        for name, plot in PLOTS.items():
            with pytest.raises(ImportError, match=r'pip install "spectok-hf\[plot\]"'):
                plot(*columns_of(name, np.array([0.0, 1])))


class TestConfusion:
    def test_counts_and_shares_of_the_true_class(self):
        axis = plot_confusion(TRUTH, PREDICTED, CLASSES)
        cells = {text.get_position(): text.get_text() for text in axis.texts}  # (column, row)
        assert cells == {
            (0, 0): "3\n75.0 %", (1, 0): "1\n25.0 %", (2, 0): "0",
            (0, 1): "0", (1, 1): "2\n100.0 %", (2, 1): "0",
            (0, 2): "1\n50.0 %", (1, 2): "0", (2, 2): "1\n50.0 %",
        }  # fmt: skip
        np.testing.assert_allclose(axis.images[0].get_array(), [[75, 25, 0], [0, 100, 0], [50, 0, 50]])
        assert [label.get_text() for label in axis.get_xticklabels()] == list(CLASSES)
        assert [label.get_text() for label in axis.get_yticklabels()] == ["GALAXY\n(4)", "QSO\n(2)", "STAR\n(2)"]

    def test_accuracy_and_macro_f1(self):
        # F1 by hand: 2 * 3 / (4 + 4), 2 * 2 / (2 + 3), 2 * 1 / (2 + 1)
        expected = (0.75 + 0.8 + 2 / 3) / 3
        axis = plot_confusion(TRUTH, PREDICTED, CLASSES)
        assert title(axis) == f"accuracy 0.750, macro F1 {expected:.3f}\nn = 8"

    def test_macro_f1_is_over_the_classes_that_occur(self):
        found = plot_confusion(["a", "a", "b"], ["a", "c", "b"], ["a", "b", "c", "d"])
        assert f"macro F1 {(2 / 3 + 1 + 0) / 3:.3f}\n" in title(found)  # c is predicted only, d nowhere

    def test_names_and_places_give_the_same_picture(self):
        table = {name: place for place, name in enumerate(CLASSES)}
        places = np.array([table[name] for name in PREDICTED])
        named, placed = (plot_confusion(np.array(TRUTH), found, CLASSES) for found in (np.array(PREDICTED), places))
        assert texts(named) == texts(placed) and title(named) == title(placed)

    def test_missing_names_are_none_or_nan(self):
        axis = plot_confusion([None, np.nan, *TRUTH], ["QSO", None, *PREDICTED], CLASSES)
        assert title(axis).endswith("n = 8 (left out: 2 without label)")
        assert texts(axis) == texts(plot_confusion(TRUTH, PREDICTED, CLASSES))

    def test_text_is_light_on_dark_only(self):
        axis = plot_confusion(TRUTH, PREDICTED, CLASSES)
        assert {text.get_position() for text in axis.texts if text.get_color() == "w"} == {(0, 0), (1, 1)}

    def test_other_classes_are_refused(self):
        with pytest.raises(ValueError, match=r"predicted must hold GALAXY, QSO, STAR, or .* 0 to 2 .*, found 'AGN'"):
            plot_confusion(TRUTH, ["AGN", *PREDICTED[1:]], CLASSES)
        with pytest.raises(ValueError, match=r"truth must hold .*found -100"):
            plot_confusion([-100, 0], [0, 0], CLASSES)
        for classes in ((), ("STAR", "STAR")):
            with pytest.raises(ValueError, match="classes must be at least one and all different"):
                plot_confusion(TRUTH, PREDICTED, classes)


class TestPredictedTrue:
    def test_the_figures_in_the_panel(self):
        truth, predicted = np.array([1.0, 2, 3, 4]), np.array([1.5, 2, 3, 3.8])
        panel, _ = plot_predicted_true(truth, predicted, name="log g", unit="dex")
        # Squared residuals 0.29 of 5; median of |residual| (0 + 0.2) / 2; mean 0.3 / 4.
        assert texts(panel) == ["n = 4\n$R^2$ = 0.942\nscaled MAD = 0.148 dex\nbias = +0.075 dex"]

    def test_points_and_labels(self):
        truth, predicted = np.array([1.0, np.nan, 3, 4]), np.array([1.5, np.nan, 3, 3.8])
        panel, lower = plot_predicted_true(truth, predicted, name="age", unit="Gyr")
        np.testing.assert_array_equal(panel.get_lines()[0].get_xydata(), [(1, 1.5), (3, 3), (4, 3.8)])
        np.testing.assert_allclose(lower.get_lines()[0].get_ydata(), [0.5, 0, -0.2], atol=1e-12)
        one_to_one = line(panel, "1:1")
        np.testing.assert_array_equal(one_to_one.get_xdata(), one_to_one.get_ydata())
        assert panel.get_ylabel() == "predicted age [Gyr]"
        assert (lower.get_xlabel(), lower.get_ylabel()) == ("true age [Gyr]", "predicted - true [Gyr]")
        assert "[" not in "".join(axis.get_ylabel() for axis in plot_predicted_true([0, 1], [0, 1], name="redshift"))

    def test_a_new_figure_shares_its_axis_of_true_values(self):
        panel, lower = plot_predicted_true([0.0, 1], [0.0, 1], name="x")
        assert panel.figure is lower.figure
        panel.set_xlim(0.2, 0.3)
        assert lower.get_xlim() == (0.2, 0.3)

    def test_running_median_band_and_claimed_uncertainty(self, rng):
        truth = rng.uniform(0, 1, 1200)
        residual, sigma = 0.1 + 0.02 * rng.normal(size=1200), np.full(1200, 0.05)
        _, lower = plot_predicted_true(truth, truth + residual, name="x", uncertainty=sigma)
        running = line(lower, "running median")
        order = np.argsort(truth).reshape(20, 60)
        np.testing.assert_allclose(running.get_xdata(), np.median(truth[order], axis=1))
        np.testing.assert_allclose(running.get_ydata(), np.median(residual[order], axis=1), atol=1e-12)
        _, low, high = band(lower.collections[0])
        np.testing.assert_allclose([low, high], np.percentile(residual[order], [16, 84], axis=1), atol=1e-12)
        below, above = (drawn.get_ydata() for drawn in lower.get_lines()[-2:])
        np.testing.assert_allclose([running.get_ydata() - below, above - running.get_ydata()], 0.05)

    def test_claimed_uncertainty_is_drawn_only_where_given(self):
        panel = plot_predicted_true([0.0, 1], [0.0, 1], name="x")[0]
        assert legend(panel) == ["1:1", "running median of residuals", "their 16-84 %"]
        panel = plot_predicted_true([0.0, 1], [0.0, 1], name="x", uncertainty=[1, 1])[0]
        assert legend(panel)[3:] == ["median claimed ±σ"]

    def test_many_points_are_drawn_as_their_density(self, rng):
        truth = rng.uniform(0, 1, 5000)
        axes = plot_predicted_true(truth, truth + 1e-3 * rng.uniform(-1, 1, 5000), name="x")
        for axis in axes:
            assert axis.collections[0].get_array().sum() == 5000
            assert all(len(drawn.get_xdata()) < 100 for drawn in axis.get_lines())
        axes[0].figure.canvas.draw()

    @pytest.mark.parametrize("count", [400, 4000])
    def test_a_wild_prediction_does_not_set_the_scale_and_is_counted(self, rng, count):
        truth = rng.uniform(0, 1, count)
        predicted = truth + 0.01 * rng.uniform(-1, 1, count)
        predicted[7] = 1e6
        panel, lower = plot_predicted_true(truth, predicted, name="x")
        assert -0.2 < panel.get_ylim()[0] < 0 and 1 < panel.get_ylim()[1] < 1.2
        assert lower.get_ylim()[1] < 0.1
        assert texts(panel)[0].endswith("\n1 beyond the axes")
        assert f"bias = {np.mean(predicted - truth):+.3g}" in texts(panel)[0]  # it counts in the figures

    def test_equal_and_perfect_values_can_be_drawn(self):
        panel, lower = plot_predicted_true(np.full(9, 0.1), np.full(9, 0.1), name="x")
        assert "no $R^2$: all true values are equal" in texts(panel)[0]
        assert panel.get_xlim()[0] < 0.1 < panel.get_xlim()[1] and lower.get_ylim()[0] < 0
        panel.figure.canvas.draw()

    def test_an_uncertainty_must_be_positive(self):
        with pytest.raises(ValueError, match="uncertainty must be positive, found values from 0 to 1"):
            plot_predicted_true([0.0, 1], [0.0, 1], name="x", uncertainty=[0, 1])
        plot_predicted_true([np.nan, 1], [0.0, 1], name="x", uncertainty=[0, 1])  # of what is left out, never mind


class TestErrorBySnr:
    def test_scaled_mad_and_band_in_bins_of_equal_counts(self, rng):
        snr = np.exp(rng.normal(3, 1, 900))
        error = 10 / snr * rng.normal(size=900)
        axis = plot_error_by_snr(error, snr, name="velocity", unit="km/s")
        order = np.argsort(snr).reshape(20, 45)
        scatter = line(axis, "scaled MAD")
        np.testing.assert_allclose(scatter.get_xdata(), np.median(snr[order], axis=1))
        np.testing.assert_allclose(scatter.get_ydata(), 1.4826 * np.median(np.abs(error[order]), axis=1))
        middle, low, high = band(axis.collections[0])
        np.testing.assert_allclose(middle, scatter.get_xdata())
        np.testing.assert_allclose([low, high], np.percentile(error[order], [16, 84], axis=1))
        assert title(axis) == "n = 900, about 45 per bin"
        assert legend(axis)[1] == f"scaled MAD (all: {1.4826 * np.median(np.abs(error)):.3g} km/s)"

    def test_a_log_axis_with_plain_numbers(self, rng):
        axis = plot_error_by_snr(rng.normal(size=100), np.geomspace(1, 300, 100), name="velocity", unit="km/s")
        axis.figure.canvas.draw()
        assert axis.get_xscale() == "log"
        assert {"2", "10", "50", "200"} <= {label.get_text() for label in axis.get_xticklabels()}
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("signal-to-noise ratio", "error of velocity [km/s]")

    def test_few_spectra_are_cut_all_the_same(self):
        for count, bins in ((1, 1), (4, 1), (10, 2), (40, 5), (300, 10), (6000, 20)):
            axis = plot_error_by_snr(np.ones(count), 1.0 + np.arange(count), name="x")
            assert len(line(axis, "scaled MAD").get_xdata()) == bins

    def test_what_is_not_above_zero_is_left_out_and_counted(self):
        axis = plot_error_by_snr([np.nan, 9, 9, 1, 2, 3], [1, 0, -2, 1, 2, 3], name="x")
        assert title(axis).startswith("n = 3 (left out: 1 without label, 2 S/N not above 0)")
        assert line(axis, "scaled MAD").get_ydata() == pytest.approx(1.4826 * 2)
        with pytest.raises(ValueError, match="snr must be positive somewhere, found values from -2 to 0"):
            plot_error_by_snr([1, 1], [0, -2], name="x")


class TestResidualBoxes:
    error = np.array([-2.0, -1, 0, 1, 2, 50, 5, 6, 7, 8])
    teff = np.array([4000.0, 4100, 4200, 4300, 4400, 4500, 5000, 5200, 5400, 6000])

    def plot(self, edges=(4000, 5000, 6000), **options):
        options = {"error": self.error, "against": self.teff} | options
        error, against = options.pop("error"), options.pop("against")
        return plot_residual_boxes(error, against, name="teff", against_name="true teff", edges=edges, **options)

    def test_quartiles_whiskers_and_points_of_each_bin(self):
        axis = self.plot(unit="K", against_unit="K")
        boxes = [line.get_ydata() for line in axis.get_lines() if line.get_color() == "#0072B2"]
        # Each: box, two whiskers, two caps. Of -2 -1 0 1 2 50 the quartiles are -0.75 and 1.75; 50 is a point.
        assert len(boxes) == 10
        spans = sorted({(min(line), max(line)) for line in boxes if np.ptp(line) > 0})
        assert spans == [(-2, -0.75), (-0.75, 1.75), (1.75, 2), (5, 5.75), (5.75, 7.25), (7.25, 8)]
        medians = [line.get_ydata()[0] for line in axis.get_lines() if line.get_color() == "#D55E00"]
        assert medians == [0.5, 6.5]  # an inner edge belongs to the bin above it, the last one to the last bin
        points = [line.get_ydata().tolist() for line in axis.get_lines() if line.get_marker() == "."]
        assert points == [[50], []]
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("true teff [K]", "error of teff [K]")

    def test_counts_and_edges_are_written(self):
        axis = self.plot()
        assert {text.get_position()[0]: text.get_text() for text in axis.texts} == {1: "6", 2: "4"}
        assert [label.get_text() for label in axis.get_xticklabels()] == ["4000\nto 5000", "5000\nto 6000"]

    def test_a_wild_error_does_not_set_the_scale_and_is_counted(self):
        axis = self.plot()
        assert axis.get_ylim()[0] < -2 and 8 < axis.get_ylim()[1] < 20
        assert title(axis) == "n = 10, 1 beyond the axes"
        axis.figure.canvas.draw()

    def test_what_is_beyond_the_edges_is_left_out_and_counted(self):
        labels = np.where(self.teff == 4200, np.nan, self.error)
        axis = self.plot(edges=(4050, 4500, 4600, 5300), error=labels)
        assert title(axis).startswith("n = 6 (left out: 1 without label, 3 beyond the bins)")
        assert texts(axis) == ["3", "1", "2"]
        axis = self.plot(edges=(4000, 4600, 4900, 6000))  # an empty bin is drawn as one
        assert texts(axis) == ["6", "0", "4"]
        axis.figure.canvas.draw()

    def test_without_edges_bins_hold_equal_numbers(self, rng):
        for count, bins in ((1, 1), (59, 1), (90, 3), (2400, 8)):
            axis = plot_residual_boxes(rng.normal(size=count), rng.normal(size=count), name="x", against_name="y")
            assert texts(axis) == [str(count // bins)] * bins
        first, second = (label.get_text().split("\nto ") for label in axis.get_xticklabels()[:2])
        assert float(first[0]) < float(first[1]) <= float(second[0])

    def test_equal_errors_can_be_drawn(self):
        for value in (0.0, 3.0):
            axis = self.plot(error=np.full(10, value))
            low, high = axis.get_ylim()
            assert low < value < high and title(axis) == "n = 10"
            axis.figure.canvas.draw()

    @pytest.mark.parametrize("edges", [(4000,), (5000, 4000), (4000, 4000, 5000)])
    def test_edges_must_ascend(self, edges):
        with pytest.raises(ValueError, match="edges must be two numbers or more, ascending"):
            self.plot(edges=edges)

    def test_edges_must_hold_something(self):
        with pytest.raises(ValueError, match=r"must hold some of the values, found values from 4000 to 6000"):
            self.plot(edges=(1, 2))
        assert not plt.get_fignums()


class TestCoverage:
    def test_the_curve_is_the_share_within_each_interval(self):
        # Residuals at the quantiles of a Gaussian of twice the claimed width.
        residual = np.array([NormalDist(0, 2).inv_cdf((place + 0.5) / 1000) for place in range(1000)])
        curve = line(plot_coverage(residual, np.ones(1000)), "observed")
        for level, share in zip(curve.get_xdata()[::10], curve.get_ydata()[::10], strict=True):
            reach = NormalDist().inv_cdf((1 + level) / 2)
            assert share == pytest.approx(2 * NormalDist(0, 2).cdf(reach) - 1, abs=2e-3)
        assert legend(plt.gca())[1].startswith("observed: 38.2 % in 1σ and 68.2 % in 2σ,\nn = 1,000")

    def test_bias_and_the_scale_of_the_uncertainty_count(self, rng):
        sigma = rng.uniform(0.1, 10, 4000)
        residual = sigma * rng.normal(size=4000)
        calibrated = line(plot_coverage(residual, sigma), "observed")
        error = np.sqrt(0.25 / 4000)
        np.testing.assert_allclose(calibrated.get_ydata(), calibrated.get_xdata(), atol=4 * error)
        biased = line(plot_coverage(residual + 2 * sigma, sigma), "observed")
        assert np.all(biased.get_ydata()[20:] < biased.get_xdata()[20:] - 0.1)

    def test_the_bands_are_binomial(self):
        axis = plot_coverage(np.linspace(-1, 1, 400), np.ones(400))
        for width, collection in enumerate(axis.collections, 1):
            level, low, high = band(collection)
            np.testing.assert_allclose((low + high) / 2, level)
            middle, outer = np.isclose(level, 0.5), np.isclose(level, 0.1)
            np.testing.assert_allclose((high - low)[middle], 2 * width * 0.025)  # sqrt(0.5 * 0.5 / 400)
            np.testing.assert_allclose((high - low)[outer], 2 * width * 0.015)  # sqrt(0.1 * 0.9 / 400)

    def test_curves_are_told_apart_on_one_diagonal(self):
        axis = plot_coverage([1, -2], [1, 1], label="small")
        assert plot_coverage([1, -2, 3], [2, 2, 2], label="large", ax=axis) is axis
        assert [text.split(":")[0] for text in legend(axis)] == ["calibrated, ±1 and ±2 binomial σ", "small", "large"]
        assert line(axis, "small").get_color() != line(axis, "large").get_color()

    def test_an_uncertainty_must_be_positive(self):
        with pytest.raises(ValueError, match="uncertainty must be positive, found values from -1 to 1"):
            plot_coverage([0, 0], [-1, 1])


class TestPit:
    def test_counts_expected_level_and_bands(self):
        pit = np.repeat([0.05, 0.3, 0.6, 1.0], [10, 20, 30, 40])  # 1 falls into the last bin
        axis = plot_pit(pit, bins=4)
        values, edges, _ = axis.patches[0].get_data()
        np.testing.assert_array_equal(values, [10, 20, 30, 40])
        np.testing.assert_array_equal(edges, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_array_equal(axis.get_lines()[0].get_ydata(), 25)
        sigma = np.sqrt(100 * 0.25 * 0.75)
        spans = {patch.get_label(): patch.get_bbox().intervaly for patch in axis.patches[2:]}
        for width in (1, 2):
            expected = (25 - width * sigma, 25 + width * sigma)
            np.testing.assert_allclose(spans[f"expected ±{width}σ (binomial)"], expected)
        assert title(axis) == "n = 100, $\\chi^2$ = 20.0 of 3 degrees of freedom"  # (225 + 25 + 25 + 225) / 25

    def test_bars_and_bands_lie_within_the_axes(self, rng):
        for pit in (rng.uniform(0, 1, 500), np.full(50, 0.5), [0.2]):
            axis = plot_pit(pit)
            top = max(*axis.patches[0].get_data().values, axis.patches[-1].get_bbox().y1)
            assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > top
            assert axis.get_xlim() == (0, 1)

    def test_probabilities_and_bins_are_checked(self):
        with pytest.raises(ValueError, match=r"pit must be between 0 and 1, found 0\.2 to 1\.5"):
            plot_pit([0.2, 1.5])
        with pytest.raises(ValueError, match="bins must be at least 2, found 1"):
            plot_pit([0.2], bins=1)


class TestFlagReliability:
    confidence = np.array([0.95, 0.97, 0.99, 1.0, 0.45, 0.41, 0.0])
    correct = np.array([1, 1, 1, 0, 1, 0, 0])
    zwarn = np.array([0, 0, 0, 0, 4, 4, 1])

    def plot(self, **changed):
        columns = {"correct": self.correct, "confidence": self.confidence, "zwarn": self.zwarn} | changed
        return plot_flag_reliability(columns["correct"], columns["confidence"], columns["zwarn"])

    def test_shares_in_bins_of_confidence(self):
        points, _, (bars,) = self.plot().containers[0]
        np.testing.assert_allclose(points.get_xdata(), [0, 0.43, 0.9775])
        np.testing.assert_allclose(points.get_ydata(), [0, 0.5, 0.75])
        bounds = np.array([segment[:, 1] for segment in bars.get_segments()])
        # Wilson's interval holds those p for which |share - p| is one standard error, sqrt(p (1 - p) / n).
        for (low, high), share, count in zip(bounds, [0, 0.5, 0.75], [1, 2, 4], strict=True):
            for bound in (low, high):
                assert (share - bound) ** 2 == pytest.approx(bound * (1 - bound) / count, abs=1e-12)
            assert 0 <= low < high <= 1

    def test_every_bin_says_how_many_it_holds(self):
        counts = {round(text.get_position()[0], 2): text.get_text() for text in self.plot().texts}
        assert counts == {place / 100: "0" for place in range(5, 100, 10)} | {0.05: "1", 0.45: "2", 0.95: "4"}

    def test_success_and_completeness_of_the_flag(self):
        axis = self.plot()
        assert legend(axis)[1:3] == [
            "zwarn == 0: 4 objects, 75.0 % right, 75.0 % of all right ones",
            "zwarn != 0: 3 objects, 33.3 % right, 25.0 % of all right ones",
        ]
        np.testing.assert_allclose(line(axis, "zwarn == 0").get_ydata(), 0.75)
        np.testing.assert_allclose(line(axis, "zwarn != 0").get_ydata(), 1 / 3)
        assert title(axis) == "57.1 % right, n = 7"

    def test_a_flag_that_does_not_occur_is_not_drawn(self):
        assert not any(text.startswith("zwarn !=") for text in legend(self.plot(zwarn=np.zeros(7))))
        wrong = legend(self.plot(correct=np.zeros(7, dtype=bool)))
        assert "zwarn == 0: 4 objects, 0.0 % right" in wrong

    def test_values_outside_of_their_range_are_refused(self):
        with pytest.raises(ValueError, match=r"confidence must lie from 0 to 1, found values from 0 to 99"):
            self.plot(confidence=100 * self.confidence - np.array([0, 0, 0, 1, 0, 0, 0]))
        with pytest.raises(ValueError, match="correct must hold 0 and 1, found values from 0 to 2"):
            self.plot(correct=2 * self.correct)
        with pytest.raises(ValueError, match=re.escape("0 = good, found truth values: pass np.where(good, 0, 1)")):
            self.plot(zwarn=self.zwarn == 0)
