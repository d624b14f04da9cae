"""`write_spectra`: what is written is what is read."""

import numpy as np
import pytest

from spectok_hf import Spectrum, read_spectra, simulate_survey
from spectok_hf.data.spectrum_files import ROWS_AT_ONCE, write_spectra

pytest.importorskip("pyarrow")


def plain(number=0, **fields):
    fields = {"object_id": str(number), "survey": "mine"} | fields
    return Spectrum(np.arange(50.0) + number, 5000 + np.arange(50.0), np.ones(50), **fields)


def read(path):
    return read_spectra(path, progress=False)


@pytest.mark.parametrize("survey", ["sdss", "galah", "gaia_xp"])
def test_a_spectrum_comes_back_as_it_was(survey, tmp_path):
    spectra = simulate_survey(survey, 3, seed=981)
    assert write_spectra(spectra, tmp_path / "below" / "spectra.parquet") == 3
    for one, spectrum in zip(read(tmp_path / "below" / "spectra.parquet"), spectra, strict=True):
        for name in ("survey", "object_id", "medium", "frame", "flux_unit"):
            assert getattr(one, name) == getattr(spectrum, name)
        for name in ("flux", "ivar", "truth", "good"):
            np.testing.assert_array_equal(getattr(one, name), getattr(spectrum, name))
        np.testing.assert_allclose(one.wavelength, spectrum.wavelength, rtol=1e-12)
        assert one.labels == spectrum.labels and one.labels


def test_masks_labels_and_ids_of_any_kind(tmp_path):
    mask = np.arange(50) % 7 == 0
    spectra = [
        plain(0, mask=mask, labels={"class": "QSO", "redshift": 0}, object_id="4611686018427387904"),
        plain(1, labels={"redshift": 0.5, "note": "β ☆"}, object_id="β" * 300, survey=None),
        plain(2, labels={}, object_id=None, flux_unit="Jy"),
    ]
    write_spectra(spectra, tmp_path / "spectra.parquet")
    found = read(tmp_path / "spectra.parquet")
    assert [one.object_id for one in found] == ["4611686018427387904", "β" * 300, None]
    assert [one.survey for one in found] == ["mine", None, "mine"]
    np.testing.assert_array_equal(found[0].mask, mask)
    kept = [{name: value for name, value in one.labels.items() if value is not None} for one in found]
    assert kept == [{"class": "QSO", "redshift": 0}, {"redshift": 0.5, "note": "β ☆"}, {}]
    assert found[2].flux_unit == "Jy"


def test_spectra_without_labels_or_anything_else(tmp_path):
    bare = Spectrum(np.ones(40), 5000 + np.arange(40.0), np.ones(40))
    write_spectra([bare, bare], tmp_path / "spectra.parquet")
    found = read(tmp_path / "spectra.parquet")
    assert [(one.object_id, one.survey, one.labels, one.truth) for one in found] == [(None, None, {}, None)] * 2


def test_what_the_first_rows_lack_may_come_later(tmp_path):
    first = [plain(number, object_id=None, survey=None) for number in range(ROWS_AT_ONCE)]
    assert write_spectra([*first, plain(7, flux_unit="Jy")], tmp_path / "spectra.parquet") == ROWS_AT_ONCE + 1
    last = read(tmp_path / "spectra.parquet")[-1]
    assert (last.object_id, last.survey, last.flux_unit) == ("7", "mine", "Jy")


def test_only_the_labels_that_are_asked_for(tmp_path):
    write_spectra([plain(labels={"class": "QSO", "plate": 5})], tmp_path / "spectra.parquet", labels=["class"])
    assert read(tmp_path / "spectra.parquet")[0].labels == {"class": "QSO"}
    write_spectra([plain(labels={"class": "QSO"})], tmp_path / "spectra.parquet", labels=[])  # which replaces it
    assert read(tmp_path / "spectra.parquet")[0].labels == {}


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def spectra():
        yield plain()
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_spectra(spectra(), tmp_path / "spectra.parquet")
    with pytest.raises(ValueError, match="at least one spectrum to write"):
        write_spectra([], tmp_path / "spectra.parquet")
    for pair in ([plain(), plain(truth=np.ones(50))], [plain(truth=np.ones(50)), plain()]):
        with pytest.raises(ValueError, match="all spectra of a file must have a truth, or none"):
            write_spectra(pair, tmp_path / "spectra.parquet")
    assert list(tmp_path.iterdir()) == []
