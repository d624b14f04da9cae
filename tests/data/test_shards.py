"""Arrow shards: what goes in comes out, and what is not whole is refused."""

import json
import os
import pickle
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spectok_hf import Spectrum, SpectrumProcessor, simulate_survey
from spectok_hf.data.collators import DataCollatorForPackedSpectra
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.data.shards import SpectrumShards, write_shards

PROCESSOR = SpectrumProcessor()


def make_spectrum(length=100, seed=0, **fields):
    rng = np.random.default_rng(seed)
    wavelength = 4000 + 1.5 * np.arange(length) + rng.random() * 1e-6  # not float32
    ivar = np.where(rng.random(length) < 0.1, 0, rng.uniform(1, 2, length))
    return Spectrum(5 + rng.normal(size=length), wavelength, ivar, mask=rng.random(length) < 0.1, **fields)


SPECTRA = [
    *simulate_survey("galah", 2, seed=1),
    make_spectrum(survey="desi", object_id=2**53 + 1, labels={"redshift": float("nan"), "TARGETID": 2**63 - 1}),
    make_spectrum(
        33, 1, medium="air", frame="rest", flux_unit="counts", labels={"class": "QSO", "snr": np.float32(0.1)}
    ),
    make_spectrum(1, 2),
    *simulate_survey("sdss", 2, seed=2),
]


def assert_same(first, second):
    for name in ("flux", "wavelength", "ivar", "mask", "truth"):
        values, others = getattr(first, name), getattr(second, name)
        np.testing.assert_array_equal(values, others)
        assert getattr(values, "dtype", None) == getattr(others, "dtype", None)
    for name in ("survey", "object_id", "medium", "frame", "flux_unit", "dropped"):
        assert getattr(first, name) == getattr(second, name)
    assert str(dict(first.labels)) == str({k: getattr(v, "item", lambda v=v: v)() for k, v in second.labels.items()})


@pytest.mark.parametrize("spectra_per_shard", [1, 3, 100])
def test_spectra_come_back_as_they_were(spectra_per_shard, tmp_path):
    manifest = write_shards(iter(SPECTRA), tmp_path / "new", spectra_per_shard=spectra_per_shard)
    shards = SpectrumShards(tmp_path / "new")
    assert len(shards) == len(SPECTRA) == manifest["spectra"]
    assert len(manifest["files"]) == -(-len(SPECTRA) // spectra_per_shard)
    for restored, spectrum in zip(shards, SPECTRA, strict=True):
        assert_same(restored, spectrum)
        assert restored.report() == spectrum.report()
    assert_same(shards[-1], SPECTRA[-1])
    assert [spectrum.name for spectrum in shards[1:3]] == [spectrum.name for spectrum in SPECTRA[1:3]]
    with pytest.raises(IndexError, match="spectrum 7 of 7"):
        shards[7]


def test_many_spectra_come_back_in_order(tmp_path):
    spectra = [make_spectrum(10 + seed, seed, object_id=str(seed)) for seed in range(150)]
    write_shards(spectra, tmp_path, spectra_per_shard=100)
    shards = SpectrumShards(tmp_path)
    assert [spectrum.object_id for spectrum in shards] == [str(seed) for seed in range(150)]
    for index in (0, 63, 64, 99, 100, 149):
        assert_same(shards[index], spectra[index])


def test_what_the_manifest_and_the_shards_say(tmp_path):
    write_shards(SPECTRA, tmp_path)
    shards = SpectrumShards(tmp_path)
    assert shards.manifest["surveys"] == {"galah": 2, "desi": 1, "unnamed": 2, "sdss": 2}
    assert shards.manifest["pixels"] == sum(map(len, SPECTRA))
    assert shards.surveys == [spectrum.survey for spectrum in SPECTRA]
    assert shards.num_pixels.tolist() == [len(spectrum) for spectrum in SPECTRA]
    assert shards.num_patches(PROCESSOR).tolist() == [len(PROCESSOR.patch(s)["flux"]) for s in SPECTRA]
    assert repr(shards).endswith("7 spectra, 2 galah, 1 desi, 2 unnamed, 2 sdss)")


def test_pixels_are_slices_of_the_memory_map(tmp_path):
    write_shards(SPECTRA, tmp_path)
    shards = SpectrumShards(tmp_path)
    for name in ("flux", "wavelength", "ivar", "mask"):
        values = getattr(shards[3], name)
        assert np.shares_memory(values, getattr(shards[3], name)) and not values.flags.writeable


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loaders_read_shards(workers, context, tmp_path):
    spectra = [spectrum for spectrum in SPECTRA if len(spectrum) > 32]
    write_shards(spectra, tmp_path)
    dataset = SpectrumDataset(SpectrumShards(tmp_path), PROCESSOR, lazy=True)
    collator = DataCollatorForPackedSpectra(PROCESSOR, hide="runs")
    options = {"num_workers": workers, "multiprocessing_context": context} if workers else {}
    batches = list(DataLoader(dataset, batch_size=3, collate_fn=collator, **options))
    for batch, first in zip(batches, (0, 3), strict=True):
        expected = collator(spectra[first : first + 3])
        assert torch.equal(batch["flux"], expected["flux"])
        assert torch.equal(batch["bool_masked_pos"], expected["bool_masked_pos"])


def test_shards_are_opened_anew_where_they_are_sent(tmp_path):
    write_shards(SPECTRA, tmp_path)
    again = pickle.loads(pickle.dumps(SpectrumShards(tmp_path)))
    assert len(pickle.dumps(again)) < 2000
    assert_same(again[2], SPECTRA[2])


def test_shards_are_never_overwritten(tmp_path):
    write_shards(SPECTRA[:1], tmp_path)
    with pytest.raises(ValueError, match=r"must hold no shards yet, found manifest.json: choose another folder"):
        write_shards(SPECTRA, tmp_path)
    assert len(SpectrumShards(tmp_path)) == 1


def failing():
    yield from SPECTRA[:3]
    raise RuntimeError("the disk is full")


def test_what_was_interrupted_is_not_read(tmp_path):
    with pytest.raises(RuntimeError, match="disk is full"):
        write_shards(failing(), tmp_path, spectra_per_shard=2)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.arrow"]
    with pytest.raises(ValueError, match=r"found no manifest.json in it: check the path, or, .* delete the folder"):
        SpectrumShards(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "needs at least one spectrum"),
        (([make_spectrum(labels={"image": np.ones(3)})],), "labels of .* must be plain numbers and text.*image"),
        ((SPECTRA, 0), "spectra_per_shard must be at least 1, found 0"),
    ],
)
def test_what_cannot_be_written_is_refused(arguments, message, tmp_path):
    spectra, *count = arguments
    options = {"spectra_per_shard": count[0]} if count else {}
    with pytest.raises(ValueError, match=message):
        write_shards(spectra, tmp_path / "new", **options)
    assert not list(tmp_path.glob("new/*"))


def damage(folder, how):
    path = folder / "shard-00000.arrow"
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        path.write_text("not an Arrow file, but long enough to be taken for one")
    elif how == "absent":
        path.unlink()
    elif how == "other count":
        content["files"][0]["spectra"] = 5
        manifest.write_text(json.dumps(content))
    elif how == "other format":
        manifest.write_text(json.dumps(content | {"format": "spectok_hf.shards/9"}))
    elif how == "no manifest":
        manifest.write_text("[]")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"shard-00000.arrow must be a complete Arrow file, found"),
        ("empty", r"shard-00000.arrow must be a complete Arrow file, found"),
        ("foreign", r"shard-00000.arrow must be a complete Arrow file, found"),
        ("absent", r"manifest.json lists shard-00000.arrow, which is not there"),
        ("other count", r"shard-00000.arrow must hold 5 spectra .by its manifest., found 7"),
        ("other format", r"must have the format spectok_hf.shards/2, found spectok_hf.shards/9"),
        ("no manifest", r"manifest.json must be the manifest of write_shards"),
    ],
)
def test_damaged_shards_are_named(how, message, tmp_path):
    write_shards(SPECTRA, tmp_path)
    damage(tmp_path, how)
    with pytest.raises(ValueError, match=f"{message}.*delete the folder and write it again"):
        SpectrumShards(tmp_path)


def test_a_file_with_other_columns_is_refused(tmp_path):
    import pyarrow as pa

    write_shards(SPECTRA, tmp_path)
    table = pa.table({"flux": [[1.0]] * len(SPECTRA)})
    with pa.ipc.new_file(str(tmp_path / "shard-00000.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"shard-00000.arrow must have the columns flux, ivar, wavelength"):
        SpectrumShards(tmp_path)


def test_a_spectrum_whose_arrays_no_longer_fit_is_refused(tmp_path):
    for name, values in (("ivar", np.ones(3)), ("mask", np.zeros(3, dtype=bool))):
        spectrum = simulate_survey("sdss", 1)[0]
        setattr(spectrum, name, values.astype(getattr(spectrum, name).dtype))
        with pytest.raises(ValueError, match="must have one length"):
            write_shards([spectrum], tmp_path / name)
    spectrum = simulate_survey("sdss", 1)[0]
    spectrum.mask = spectrum.mask * 256
    with pytest.raises(ValueError, match="mask be bool"):
        write_shards([spectrum], tmp_path / "bits")


def test_damage_is_found_by_size_and_by_checksum(tmp_path):
    write_shards(simulate_survey("sdss", 2), tmp_path)
    path = tmp_path / "shard-00000.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checksum of its manifest"):
        SpectrumShards(tmp_path, verify=True)
    write_shards(simulate_survey("desi", 2), tmp_path / "other")
    path.write_bytes((tmp_path / "other/shard-00000.arrow").read_bytes())
    with pytest.raises(ValueError, match=r"must have \d+ bytes, found \d+"):
        SpectrumShards(tmp_path)


def test_positions_must_be_whole(tmp_path):
    write_shards(simulate_survey("sdss", 3), tmp_path)
    with pytest.raises(TypeError):
        SpectrumShards(tmp_path)[1.7]


def test_columns_are_read_without_pixels(tmp_path):
    positions = [{"ra": 10.5, "dec": -3}, {"ra": "17:45", "dec": None}, {"ra": float("inf")}, {}]
    made = [make_spectrum(10, seed, object_id=str(seed), labels=labels) for seed, labels in enumerate(positions)]
    simulated = simulate_survey("sdss", 70, seed=1)
    write_shards([*made, *simulated], tmp_path, spectra_per_shard=66)
    shards = SpectrumShards(tmp_path)
    nothing = [np.nan] * 73
    np.testing.assert_array_equal(shards.column("ra"), [10.5, *nothing])
    np.testing.assert_array_equal(shards.column("dec"), [-3.0, *nothing])
    assert shards.column("ra").dtype == np.float64
    assert shards.column("simulated").tolist() == [False] * 4 + [True] * 70
    assert shards.column("object_id").tolist() == [*"0123", *(spectrum.object_id for spectrum in simulated)]
    assert shards.column("survey").tolist() == shards.surveys == [None] * 4 + ["sdss"] * 70
    codes, names = shards.survey_codes
    assert (codes.dtype, codes.tolist(), names) == (np.int32, [0] * 4 + [1] * 70, [None, "sdss"])
    assert shards.num_pixels.dtype == np.int64
    with pytest.raises(ValueError, match="name must be one of"):
        shards.column("flux")


def test_folders_are_read_one_after_another(tmp_path):
    write_shards(SPECTRA[:3], tmp_path / "a", spectra_per_shard=2)
    write_shards(SPECTRA[3:], tmp_path / "b")
    for shards in (both := SpectrumShards([tmp_path / "a", tmp_path / "b"]), pickle.loads(pickle.dumps(both))):
        assert len(shards) == len(SPECTRA) == shards.manifest["spectra"]
        assert shards.manifest["surveys"] == {"galah": 2, "desi": 1, "unnamed": 2, "sdss": 2}
        for restored, spectrum in zip(shards, SPECTRA, strict=True):
            assert_same(restored, spectrum)
        assert shards.surveys == [spectrum.survey for spectrum in SPECTRA]
    with pytest.raises(ValueError, match="at least one folder"):
        SpectrumShards([])


@pytest.mark.parametrize("how", ["truncated", "absent", "foreign"])
def test_damaged_shards_are_left_out_where_that_is_asked_for(how, tmp_path):
    write_shards(SPECTRA, tmp_path, spectra_per_shard=3)
    damage(tmp_path, how)
    with pytest.warns(UserWarning, match=r"left out 1 of 3 shards, 3 of 7 spectra: .*shard-00000.arrow"):
        shards = SpectrumShards(tmp_path, on_damage="skip")
    assert len(shards) == 4 == len(pickle.loads(pickle.dumps(shards)))
    assert shards.manifest["surveys"] == {"unnamed": 2, "sdss": 2}
    for restored, spectrum in zip(shards, SPECTRA[3:], strict=True):
        assert_same(restored, spectrum)
    for number in (1, 2):
        (tmp_path / f"shard-0000{number}.arrow").unlink()
    with (
        pytest.warns(UserWarning, match="left out 3 of 3 shards, 7 of 7 spectra"),
        pytest.raises(ValueError, match=r"no shard of .* can be read"),
    ):
        SpectrumShards(tmp_path, on_damage="skip")


def test_damage_that_only_a_checksum_finds_is_left_out_too(tmp_path):
    write_shards(simulate_survey("sdss", 4), tmp_path, spectra_per_shard=2)
    path = tmp_path / "shard-00001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(
        UserWarning, match=r"left out 1 of 2 shards, 2 of 4 spectra: \S*shard-00001.arrow must have the"
    ):
        assert len(SpectrumShards(tmp_path, verify=True, on_damage="skip")) == 2
    with pytest.raises(ValueError, match="on_damage must be one of"):
        SpectrumShards(tmp_path, on_damage="mend")


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    fd = Path("/proc/self/fd")
    if not fd.exists():
        pytest.skip("open files are counted in /proc")
    monkeypatch.setattr("spectok_hf.data.shards.OPEN_SHARDS", 3)
    monkeypatch.setattr("spectok_hf.data.shards.OPEN_BATCHES", 2)
    write_shards([make_spectrum(10, seed) for seed in range(40)], tmp_path, spectra_per_shard=1)
    shards = SpectrumShards(tmp_path)
    kept = shards[0].flux
    expected = kept.copy()
    assert shards.num_pixels.sum() == 400
    assert [len(spectrum) for spectrum in shards] == [10] * 40
    opened = [file for file in fd.iterdir() if file.is_symlink() and str(tmp_path) in os.readlink(file)]
    assert len(opened) <= 3 + 2 + 1, "those of the caches, and the one that a slice keeps"
    np.testing.assert_array_equal(kept, expected)


def test_decimal_numbers_are_written_as_others(tmp_path):
    labels = {"redshift": Decimal("0.5"), "ra": Decimal("10.25"), "dec": 10**400}
    write_shards([make_spectrum(labels=labels)], tmp_path)
    shards = SpectrumShards(tmp_path)
    assert shards[0].labels["redshift"] == 0.5 and shards.column("ra").tolist() == [10.25]
    assert np.isnan(shards.column("dec")).all()


def test_a_manifest_whose_files_lack_something_is_refused(tmp_path):
    write_shards(SPECTRA, tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    del content["files"][0]["crc32"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest.json must be the manifest of write_shards"):
        SpectrumShards(tmp_path)
