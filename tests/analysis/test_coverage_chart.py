"""`plot_coverage_chart`: what surveys cover, and what a checkpoint saw of it."""

import pytest

from spectok_hf import SURVEYS, simulate_survey
from spectok_hf.analysis.plots import plot_coverage_chart
from spectok_hf.data.domain import TrainingDomain

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_every_survey_has_a_bar_per_arm_where_it_observes():
    axis = plot_coverage_chart()
    assert axis.get_xscale() == "log"
    assert {text.get_text() for text in axis.get_yticklabels()} == set(SURVEYS)
    assert len(axis.patches) == sum(len(facts.native_arms or facts.arms) for facts in SURVEYS.values())
    row = [text.get_text() for text in axis.get_yticklabels()].index("apogee")
    bars = [patch for patch in axis.patches if patch.get_y() < row < patch.get_y() + patch.get_height()]
    assert min(bar.get_x() for bar in bars) == pytest.approx(15_152, abs=1)
    assert max(bar.get_x() + bar.get_width() for bar in bars) == pytest.approx(16_943, abs=1)


def test_resolving_powers_are_written_and_in_order():
    axis = plot_coverage_chart(["galah", "gaia_xp", "sdss"])
    assert [text.get_text() for text in axis.get_yticklabels()] == ["galah", "sdss", "gaia_xp"]
    assert {text.get_text() for text in axis.texts} == {"R 28,000", "R 1,850-2,200", "R 30-100"}


def test_nothing_is_cut_off():
    axis = plot_coverage_chart()
    axis.figure.canvas.draw()
    frame = axis.get_window_extent()
    assert all(text.get_window_extent().x1 < frame.x1 for text in axis.texts)


def test_what_a_checkpoint_saw_is_drawn_below():
    domain = TrainingDomain.of(simulate_survey("sdss", 3, seed=912))
    axis = plot_coverage_chart(["sdss", "desi"], domain=domain)
    (line,) = axis.get_lines()
    assert list(line.get_xdata()) == list(domain.surveys["sdss"].wavelength[0])
    assert axis.get_title(loc="left") == "black lines: what the checkpoint was trained on"


def test_given_axes_are_used_and_unknown_surveys_refused():
    axis = plt.subplots()[1]
    assert plot_coverage_chart(["sdss"], ax=axis) is axis
    with pytest.raises(ValueError, match=r"surveys must be among sdss, .*, found 'sdss9'"):
        plot_coverage_chart(["sdss9"])
    with pytest.raises(ValueError, match="at least one survey"):
        plot_coverage_chart([])
