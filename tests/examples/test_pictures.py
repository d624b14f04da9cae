"""`examples/pictures.py`: every figure is drawn, of real spectra where they are."""

import doctest
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib").use("agg")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import pictures

    yield pictures
    sys.modules.pop("pictures", None)


def test_smoke(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "make_map", lambda vectors, method="pca": principal_map(vectors))  # UMAP takes long
    pictures.run(pictures.parse_arguments(["--smoke", "--output", str(tmp_path)]))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["attribution_sdss.png", "card_sdss.png", "coverage.png", "latent.png", "reconstruction_sdss.png"]
    assert all(path.stat().st_size < 250_000 for path in tmp_path.iterdir())
    assert capsys.readouterr().out.count("wrote") == 5


def principal_map(vectors):
    from spectok_hf.analysis.latent_space import make_map

    return make_map(vectors, method="pca")


def test_the_real_spectrum_is_chosen_where_it_is(pictures):
    from spectok_hf import simulate_survey

    stand_in = simulate_survey("sdss", 1, seed=941)[0]
    stand_in.object_id = pictures.SUBJECTS["sdss"].object_id
    assert pictures.choose([*simulate_survey("sdss", 2, seed=942), stand_in], pictures.SUBJECTS["sdss"]) is stand_in
    assert pictures.choose([], pictures.SUBJECTS["galah"]).labels["class"] == "STAR"


def test_neighbours_are_other_objects_the_nearest_first(pictures):
    from spectok_hf import simulate_survey
    from spectok_hf.encoder import SpectrumEncoder

    encoder = SpectrumEncoder.from_pretrained("spectok-tiny")
    spectra = simulate_survey("gaia_xp", 7, seed=943)
    found = pictures.find_neighbours(spectra[0], spectra, encoder)
    assert len(found) == 4 and spectra[0] not in [spectrum for _, spectrum, _ in found]
    distances = [distance for _, _, distance in found]
    assert distances == sorted(distances) and distances[0] > 0
    assert pictures.find_neighbours(spectra[0], spectra[:3], encoder) == []


def test_every_block_of_the_page_does_what_it_says(tmp_path, monkeypatch):
    page = EXAMPLES.parent / "docs" / "pictures.md"
    monkeypatch.chdir(tmp_path)
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text(encoding="utf-8"), re.S))
    test = doctest.DocTestParser().get_doctest(blocks, {}, page.name, str(page), 0)
    assert len(test.examples) > 20
    report: list[str] = []
    assert doctest.DocTestRunner().run(test, out=report.append).failed == 0, "".join(report)
    assert (tmp_path / "card.png").stat().st_size > 10_000


def test_every_figure_of_the_page_is_there():
    page = EXAMPLES.parent / "docs" / "pictures.md"
    shown = re.findall(r"!\[.+?\]\((figures/.+?)\)", page.read_text(encoding="utf-8"))
    assert len(shown) > 10
    for name in shown:
        assert (page.parent / name).stat().st_size < 250_000
