"""`mark_lines`: names that can be read, each at its line."""

import itertools

import numpy as np
import pytest

from spectok_hf import Spectrum
from spectok_hf.analysis.plots import mark_lines, set_wavelength_axis
from spectok_hf.data.lines import LINES, find_lines

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")

SPANS = {"galaxy": (3600, 9800), "quasar": (3600, 9800), "star": (3700, 9000), "apogee": (15_150, 16_950)}
REDSHIFTS = {"galaxy": 0.05, "quasar": 2.2, "star": 0.0, "apogee": 0.0}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def new_axis(width=10.0, span=(3600, 9800), title=""):
    axis = plt.subplots(figsize=(width, 3), layout="constrained")[1]
    axis.plot(span, [0, 1])
    axis.set_xlim(*span)
    if title:
        axis.set_title(title, loc="left", fontsize=9)
    return axis


def names(axis):
    return [text for text in axis.texts if text.get_gid() == "line"]


def dotted(axis):
    return {line.get_xdata()[0] for line in axis.get_lines() if line.get_linestyle() == "--" and line.get_zorder() < 1}


def boxes(axis):
    axis.figure.canvas.draw()
    return [text.get_window_extent() for text in names(axis)]


@pytest.mark.parametrize("width", [3.4, 7.0, 12.0])
@pytest.mark.parametrize("kind", LINES)
def test_no_name_lies_upon_another_or_leaves_the_figure(kind, width):
    axis = mark_lines(new_axis(width, SPANS[kind]), redshift=REDSHIFTS[kind], kind=kind)
    found = boxes(axis)
    assert len(found) >= 5
    assert not any(one.overlaps(other) for one, other in itertools.combinations(found, 2))
    frame = axis.get_window_extent()
    for box in found:
        assert box.y0 > frame.y1 and box.y1 <= axis.figure.bbox.y1
        assert frame.x0 - 5 <= box.x0 and box.x1 <= frame.x1 + 5


def test_dotted_lines_stand_at_the_lines():
    axis = mark_lines(new_axis(12), redshift=0.1, kind="galaxy", medium="air")
    expected = {line.wavelength for line in find_lines("galaxy", (3600, 9800), redshift=0.1, medium="air")}
    drawn = dotted(axis)
    assert len(drawn) > 10 and drawn <= expected


def test_where_there_is_little_room_the_most_telling_stay():
    few = mark_lines(new_axis(1.8), kind="galaxy")
    many = mark_lines(new_axis(12), kind="galaxy")
    texts = [text.get_text() for text in names(few)]
    assert len(texts) < len(names(many)) / 2
    assert {"Hα", "Hβ", "[O III]"} <= set(texts)


def test_lines_of_one_name_share_it_until_they_part():
    close_by, apart = new_axis(6), new_axis(6, (6650, 6800))
    assert [text.get_text() for text in names(mark_lines(close_by))].count("[S II]") == 1
    assert [text.get_text() for text in names(mark_lines(apart))].count("[S II]") == 2
    doublet = mark_lines(new_axis(6), kind="galaxy")
    assert [text.get_text() for text in names(doublet)].count("[O II]") == 1
    assert {round(place, 1) for place in dotted(doublet)} >= {3727.1, 3729.9}


def test_titles_move_above_the_names_and_keep_their_size():
    axis = mark_lines(new_axis(title="a title"))
    top = max(box.y1 for box in boxes(axis))
    (title,) = [child for child in axis.get_children() if getattr(child, "get_text", str)() == "a title"]
    assert title.get_window_extent().y0 >= top
    assert title.get_fontsize() == 9


def test_a_spectrum_says_what_and_where_and_in_its_gaps_nothing_is_named():
    wavelength = np.concatenate([np.arange(4800.0, 4900), np.arange(6500.0, 6600)])
    labels = {"class": "STAR", "rv": 0.0}
    spectrum = Spectrum(np.ones(200), wavelength, np.ones(200), medium="air", labels=labels)
    axis = new_axis()
    set_wavelength_axis(axis, spectrum)
    texts = {text.get_text() for text in names(mark_lines(axis, spectrum=spectrum))}
    assert {"Hα", "Hβ"} <= texts and not texts & {"Mg b", "Na D"}
    assert any(abs(place - 6562.8) < 0.1 for place in dotted(axis))  # in air


def test_what_nobody_knows_is_not_marked():
    spectrum = Spectrum(np.ones(50), 5000.0 + np.arange(50), np.ones(50), labels={"class": "GALAXY"})
    axis = new_axis()
    assert mark_lines(axis, spectrum=spectrum) is axis
    assert not names(axis)
    assert names(mark_lines(new_axis(span=(4900, 5300)), spectrum=spectrum, redshift=0.0)) != []


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="found 'planet'"):
        mark_lines(new_axis(), kind="planet")
