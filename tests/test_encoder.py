"""`SpectrumEncoder`: whatever holds spectra goes in, and each spectrum gets its own answer, in its place."""

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import spectok_hf
from spectok_hf import (
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokModel,
    Spectrum,
    SpectrumEncoder,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.data.domain import OutOfDomainWarning
from spectok_hf.data.spectrum_files import write_spectra
from spectok_hf.inference.user_tables import WINDOW

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
# Of unlike lengths, so that batches have another order than the list.
SPECTRA = [one for survey in ("desi", "sdss", "gaia_xp") for one in simulate_survey(survey, 2, seed=951)]
SPECTRA = SPECTRA[::2] + SPECTRA[1::2]


@pytest.fixture(scope="module")
def encoder():
    return SpectrumEncoder.from_pretrained("spectok-tiny", device="cpu")


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(SPECTRA)


def small(seed=0, **settings):
    torch.manual_seed(seed)
    return SpecTokForPreTraining(SpecTokConfig(**SIZE, **settings))


def row_of(spectrum):
    fields = {name: getattr(spectrum, name) for name in ("survey", "object_id", "medium", "frame")}
    return fields | {name: getattr(spectrum, name).tolist() for name in ("flux", "wavelength", "ivar", "mask")}


def bad_spectrum():
    return Spectrum(np.ones(100), 5000 + np.arange(100.0), np.zeros(100), survey="sdss", object_id="bad")


def same(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, atol=tolerance)


def least_distance(vectors):
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=-1)
    return distances[~np.eye(len(vectors), dtype=bool)].min()


# Embeddings ---------------------------------------------------------------------------------------


def test_an_embedding_is_what_the_model_says_of_a_spectrum_alone(encoder, vectors):
    assert vectors.shape == (6, 128) and vectors.dtype == np.float32
    assert least_distance(vectors) > 0.1
    for spectrum, vector in zip(SPECTRA, vectors, strict=True):
        with torch.no_grad():
            outputs = encoder.model.base_model(**encoder.processor(spectrum, return_tensors="pt"))
        same(vector, outputs.pooler_output[0])


def test_answers_come_in_the_order_of_the_spectra(encoder, vectors):
    for order in ([5, 2, 0, 4, 1, 3], [3, 4, 5, 0, 1, 2]):
        same(encoder.encode([SPECTRA[number] for number in order]), vectors[order])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_size_of_a_batch_changes_nothing(batch_size, encoder, vectors):
    same(encoder.encode(SPECTRA, batch_size=batch_size), vectors)


def test_one_spectrum_gives_one_answer_and_a_list_of_one_a_list(encoder, vectors, tmp_path, write_sdss_file):
    one = SPECTRA[1]
    assert one.survey == "sdss"
    path = write_sdss_file(one, tmp_path)
    row, arrays = row_of(one), {"ivar": one.ivar, "mask": one.mask}
    pandas, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pandas.DataFrame([row])
    singles = {
        "spectrum": encoder.encode(one),
        "mapping": encoder.encode(row),
        "arrays": encoder.encode(one.flux, wavelength=one.wavelength, **arrays),
        "file": encoder.encode(path),
        "bytes": encoder.encode(Path(path).read_bytes()),
        "row of pandas": encoder.encode(frame.iloc[0]),
    }
    for name, found in singles.items():
        assert found.shape == (128,), name
        same(found, vectors[1], 1e-4)
    stacked = {name: values[None] for name, values in arrays.items()}
    several = {
        "list": encoder.encode([one]),
        "list of files": encoder.encode([path]),
        "folder": encoder.encode(tmp_path),
        "pattern": encoder.encode(tmp_path / "*.fits"),
        "iterator": encoder.encode(iter([one])),
        "view": encoder.encode({"one": one}.values()),
        "stack": encoder.encode(one.flux[None], wavelength=one.wavelength, **stacked),
        "pandas": encoder.encode(frame),
        "arrow": encoder.encode(pa.Table.from_pylist([row])),
    }
    for name, found in several.items():
        assert found.shape == (1, 128), name
        same(found[0], vectors[1], 1e-4)


def test_objects_of_specutils(encoder, vectors):
    specutils, units = pytest.importorskip("specutils"), pytest.importorskip("astropy.units")
    from astropy.nddata import InverseVariance

    made = [
        specutils.Spectrum(
            flux=one.flux * units.Unit("W/(m2 um)"),
            spectral_axis=one.wavelength * units.AA,
            uncertainty=InverseVariance(one.ivar),
            mask=one.mask,
        )
        for one in SPECTRA[:2]
    ]
    assert encoder.encode(made[0], medium="vacuum").shape == (128,)
    found = encoder.encode(specutils.SpectrumList(made), medium="vacuum")
    same(found, vectors[:2], 1e-4)


@pytest.mark.parametrize("output", ["tokens", "last_hidden_state"])
def test_tokens_are_those_of_valid_patches_with_their_wavelengths(output, encoder):
    spectrum = simulate_survey("sdss", 1, seed=951)[0]
    spectrum.flag((spectrum.wavelength > 5000) & (spectrum.wavelength < 5200), "a hole")
    found = encoder.encode([spectrum, SPECTRA[0]], output=output, batch_size=1)[0]
    alone = encoder.encode(spectrum, output=output)
    inputs = encoder.processor(spectrum, return_tensors="pt")
    with torch.no_grad():
        outputs = encoder.model.base_model(**inputs)
    valid = inputs["attention_mask"][0].bool()
    assert not valid.all()
    for values, wavelength in (found, alone):
        same(values, outputs[output][0][valid])
        same(wavelength, outputs.token_wavelength[0][valid], 1e-2)
        assert not ((wavelength > 5050) & (wavelength < 5150)).any()


def test_normalised_embeddings_have_length_one_and_similarity_is_their_cosine(encoder, vectors):
    unit = encoder.encode(SPECTRA, normalize_embeddings=True)
    same(np.linalg.norm(unit, axis=1), 1)
    cosines = encoder.similarity(vectors, vectors[:2])
    assert cosines.shape == (6, 2)
    same(cosines, unit @ unit[:2].T)
    assert encoder.similarity(vectors[0], vectors).shape == (1, 6)
    with pytest.raises(ValueError, match="embeddings must have one length"):
        encoder.similarity(vectors, vectors[:, :5])


def test_invalid_spectra_raise_or_are_masked(encoder, vectors):
    mixed = [SPECTRA[0], bad_spectrum(), SPECTRA[1]]
    for call in (encoder.encode, encoder.reconstruct, encoder.redshift):
        with pytest.raises(ValueError, match=r'spectrum 1 \(object_id=bad\): drop it, or pass on_invalid="mask"'):
            call(mixed)
    found = encoder.encode(mixed, on_invalid="mask")
    assert np.isnan(found[1]).all()
    same(found[[0, 2]], vectors[:2])
    tokens = encoder.encode(mixed, on_invalid="mask", output="tokens")
    assert tokens[1].values.shape == (0, 8) and tokens[1].wavelength.shape == (0,) and len(tokens[0].values)
    made = encoder.reconstruct(mixed, on_invalid="mask")
    assert made[1].mask.all() and not made[0].mask.all()
    rows = encoder.classify(mixed, on_invalid="mask")
    assert [row["object_id"] for row in rows] == [one.object_id for one in mixed]
    assert rows[1]["class"] is None and rows[0].keys() == rows[1].keys()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda encoder: encoder.encode([]), "at least one spectrum"),
        (lambda encoder: encoder.encode(SPECTRA[0], output="vectors"), "output must be one of embedding, tokens"),
        (lambda encoder: encoder.encode(SPECTRA[0], batch_size=0), "batch_size must be at least 1"),
        (lambda encoder: encoder.encode(SPECTRA[0], on_invalid="skip"), "on_invalid must be one of raise, mask"),
        (lambda encoder: encoder.encode(None), "found NoneType"),
        (lambda encoder: encoder.head("class"), "head must be one of"),
    ],
)
def test_what_cannot_be_done_is_said(call, text, encoder):
    with pytest.raises(ValueError, match=text):
        call(encoder)


def test_no_bar_is_shown_unless_it_is_asked_for(encoder, capsys):
    many = [SPECTRA[2]] * 10  # more than those that read_spectra reads without a bar
    encoder.encode(many)
    assert capsys.readouterr().err == ""
    encoder.encode(many, show_progress_bar=True)
    assert "encoding" in capsys.readouterr().err


# Answers ------------------------------------------------------------------------------------------


def test_reconstructions_have_the_grid_and_unit_of_the_input(encoder):
    air = simulate_survey("galah", 1, seed=951)[0]
    for spectrum, made in zip([SPECTRA[0], air], encoder.reconstruct([SPECTRA[0], air]), strict=True):
        same(made.wavelength, spectrum.wavelength, 0)
        for name in ("medium", "frame", "flux_unit", "survey", "object_id"):
            assert getattr(made, name) == getattr(spectrum, name)
        good = spectrum.good & ~made.mask
        chi2 = np.mean((spectrum.flux[good] - made.flux[good]) ** 2 * spectrum.ivar[good])
        nothing = np.mean((spectrum.flux[good] - np.median(spectrum.flux[good])) ** 2 * spectrum.ivar[good])
        assert chi2 < 5 and chi2 < nothing
    assert isinstance(encoder.reconstruct(SPECTRA[0]), Spectrum)


@pytest.mark.filterwarnings("ignore::spectok_hf.data.domain.OutOfDomainWarning")  # each head saw other surveys
def test_rows_of_the_heads_are_what_their_models_say(encoder):
    spectra = [one for one in SPECTRA if one.survey != "gaia_xp"]  # which the heads were not trained on
    rows = {name: getattr(encoder, name)(spectra) for name in ("classify", "predict", "redshift")}
    for found in rows.values():
        assert [row["object_id"] for row in found] == [one.object_id for one in spectra]
        assert len({str({**row, "object_id": ""}) for row in found}) == len(spectra)  # no two are equal
    for row in rows["classify"]:
        chances = {name: row[f"p_{name}"] for name in ("GALAXY", "QSO", "STAR")}
        assert sum(chances.values()) == pytest.approx(1)
        assert row["class"] == max(chances, key=chances.get) and row["confidence"] == max(chances.values())
    assert {"teff", "teff_error", "logg", "feh_error"} <= rows["predict"][0].keys()
    assert {"redshift", "redshift_error", "confidence", "zwarn"} <= rows["redshift"][0].keys()
    with torch.no_grad():
        outputs = encoder.head("redshift").model(**encoder.processor(spectra[3], return_tensors="pt"))
    assert rows["redshift"][3]["redshift"] == pytest.approx(float(outputs.redshift), abs=1e-5)
    assert isinstance(encoder.redshift(SPECTRA[0]), dict)


def test_a_head_is_a_checkpoint_of_its_own():
    encoder = SpectrumEncoder.from_pretrained("spectok-tiny/redshift")
    whole = SpectrumEncoder.from_pretrained("spectok-tiny")
    assert encoder.heads == ["redshift"] and "heads: redshift" in repr(encoder)
    assert encoder.redshift(SPECTRA[:2])[1]["redshift"] == pytest.approx(whole.redshift(SPECTRA[1])["redshift"])
    assert encoder.encode(SPECTRA[0]).shape == (128,)
    with pytest.raises(ValueError, match="has no head for classification"):
        encoder.classify(SPECTRA[0])
    with pytest.raises(ValueError, match="has no decoder"):
        encoder.reconstruct(SPECTRA[0])


def test_a_model_in_memory_has_no_heads_elsewhere():
    encoder = SpectrumEncoder(small(), SpectrumProcessor())
    assert encoder.heads == [] and "heads: none" in repr(encoder) and "not said" in repr(encoder)
    with pytest.raises(ValueError, match="the model has no head for redshift: load a checkpoint"):
        encoder.redshift(SPECTRA[0])
    assert SpectrumEncoder(SpecTokModel(SpecTokConfig(**SIZE)), SpectrumProcessor()).encode(SPECTRA[0]).shape == (16,)


def test_a_folder_of_ones_own(tmp_path, monkeypatch):
    model = small()
    model.save_pretrained(tmp_path / "model")
    SpectrumProcessor().save_pretrained(tmp_path / "model")
    encoder = SpectrumEncoder.from_pretrained(tmp_path / "model")
    same(encoder.encode(SPECTRA), SpectrumEncoder(model, SpectrumProcessor()).encode(SPECTRA), 0)
    assert encoder.heads == []
    # What lies about under the name of a shipped checkpoint, such as results, is none.
    (tmp_path / "spectok-tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert SpectrumEncoder.from_pretrained("spectok-tiny").heads


def test_checkpoints_that_miss_weights_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    from spectok_hf.inference.answers import load_answers

    small().save_pretrained(tmp_path)
    SpectrumProcessor().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for part in ("encoder", "decoder"):
        lost = next(name for name in weights if ("decoder" in name) == (part == "decoder"))
        kept = {name: values for name, values in weights.items() if name != lost}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"must hold all weights of SpecTok.*{re.escape(lost.split('.')[-1])}"):
            SpectrumEncoder.from_pretrained(tmp_path)
        if part == "encoder":
            with pytest.raises(ValueError, match="must hold all weights"):
                load_answers("encode", tmp_path)
    with pytest.raises(OSError, match=r"no checkpoint .*none can be loaded: pass a folder"):
        SpectrumEncoder.from_pretrained(tmp_path / "none")
    (tmp_path / "results").mkdir()
    with pytest.raises(FileNotFoundError, match=r"results must hold config\.json"):
        SpectrumEncoder.from_pretrained(tmp_path / "results")


def test_it_says_what_it_is(encoder):
    facts = encoder.facts()
    assert facts["embedding"] == 128 and facts["pixels_per_token"] == 32 and facts["numbers_per_token"] == 8
    assert facts["heads"] == ["classification", "stellar-parameters", "redshift"]
    assert facts["parameters"] == sum(values.numel() for values in encoder.model.parameters())
    assert set(facts["surveys"]) >= {"sdss", "desi", "galah", "apogee"} and facts["surveys"]["sdss"]["tokens"] == 120
    text = repr(encoder)
    for part in ("spectok-tiny", "1.3 M parameters", "embeddings of 128", "stellar-parameters", "sdss", "vacuum"):
        assert part in text
    assert encoder.fingerprint != SpectrumEncoder(small(), SpectrumProcessor()).fingerprint


@pytest.fixture(scope="module")
def masked():
    torch.manual_seed(0)
    size = {name: value for name, value in SIZE.items() if name != "decoder_num_hidden_layers"}
    model = OmniSpectraForPreTraining(OmniSpectraConfig(**size, initializer_range=0.2))
    return SpectrumEncoder(model, OmniSpectraProcessor(), name="masked", device="cpu")


def test_the_other_family_says_what_its_overlapping_patches_are(masked):
    facts = masked.facts()
    assert (facts["pixels_per_token"], facts["pixels_between_tokens"], facts["numbers_per_token"]) == (20, 10, 16)
    assert "a token of 16 per 10 pixels from 20" in repr(masked)
    (tokens, *_) = masked.encode(SPECTRA, output="tokens")
    spectrum = SPECTRA[0]
    valid = masked.processor(spectrum, return_tensors="pt")["attention_mask"].sum()
    assert tokens.values.shape == (valid, 16) and abs(len(spectrum) / 10 - valid) < 25


def test_the_processor_of_another_family_is_refused(masked):
    encoder = SpectrumEncoder(masked.model, SpectrumProcessor(patch_size=20), device="cpu")
    with pytest.raises(ValueError, match="needs the processor OmniSpectraProcessor, found SpectrumProcessor"):
        encoder.encode(SPECTRA)
    with pytest.raises(ValueError, match="needs the processor SpectrumProcessor, found OmniSpectraProcessor"):
        SpectrumEncoder(small(), OmniSpectraProcessor(patch_size=32), device="cpu").encode(SPECTRA)


def test_the_other_family_gives_each_spectrum_its_own_answer(masked):
    vectors = masked.encode(SPECTRA, batch_size=3)
    for spectrum, vector in zip(SPECTRA, vectors, strict=True):
        np.testing.assert_allclose(masked.encode(spectrum), vector, atol=2e-5)
    assert np.abs(vectors[:, None] - vectors[None]).max(-1)[~np.eye(len(vectors), dtype=bool)].min() > 1e-3


def test_the_other_family_predicts_each_patch_from_others(masked):
    found = masked.reconstruct(SPECTRA, batch_size=3)
    for spectrum, made in zip(SPECTRA, found, strict=True):
        inputs = masked.processor(spectrum, return_tensors="pt")
        with torch.no_grad():
            outputs = masked.model.reconstruct(**inputs)
            shown = masked.model(**inputs, return_loss=False)
        (expected,) = masked.processor.post_process_reconstruction(outputs, spectrum)
        spread = expected.flux.std()
        np.testing.assert_allclose(made.flux, expected.flux, atol=1e-4 * spread)
        np.testing.assert_array_equal(made.mask, expected.mask)
        (seen,) = masked.processor.post_process_reconstruction(shown, spectrum)
        assert np.abs(made.flux - seen.flux).max() > 1e-2 * spread  # not what the model says of what it was shown


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device must be one of this machine, found 'nowhere'"):
        SpectrumEncoder(small(), SpectrumProcessor(), device="nowhere")


def test_it_is_a_public_name():
    assert spectok_hf.SpectrumEncoder is SpectrumEncoder


# What lies outside of the training ----------------------------------------------------------------


def test_spectra_unlike_the_training_are_said_to_be(encoder):
    infrared = Spectrum(np.ones(2000), np.linspace(20_000, 22_000, 2000), np.ones(2000), object_id="infrared")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder.redshift(SPECTRA[0])["outside"] == ""
    with pytest.warns(
        OutOfDomainWarning,
        match=r"1 of 2 spectra lie outside what the redshift head of spectok-tiny.*infrared.*good pixels",
    ):
        rows = encoder.redshift([SPECTRA[0], infrared])
    assert [row["outside"] for row in rows] == ["", "wavelength"]


def test_a_checkpoint_that_does_not_know_says_unknown_and_does_not_warn():
    encoder = SpectrumEncoder(small(), SpectrumProcessor())
    pandas = pytest.importorskip("pandas")
    table = encoder.encode_table(pandas.DataFrame([row_of(SPECTRA[0])]))
    assert table["outside"].tolist() == ["unknown"]


def test_of_a_table_one_warning_counts_all_rows(encoder, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr("spectok_hf.encoder.TABLE_WINDOW", 2)
    far = [Spectrum(np.ones(64), 20_000 + np.arange(64.0), np.ones(64)) for _ in range(3)]
    table = pandas.DataFrame([row_of(one) for one in (*SPECTRA[4:], *far)])
    with pytest.warns(
        OutOfDomainWarning, match="^3 of 5 spectra lie outside what spectok-tiny saw .*: row 2: "
    ) as all:
        found = encoder.encode_table(table)
    assert len(all) == 1 and Path(all[0].filename) == Path(__file__)
    assert [bool(flag) for flag in found["outside"]] == [False, False, True, True, True]


# Tables -------------------------------------------------------------------------------------------


def table_rows(count=4):
    names = ["Sirius β ☆", "4611686018427387904", "x" * 300, "7", "8", "9"]
    spectra = SPECTRA[:count]
    return [row_of(one) | {"object_id": names[at], "note": at} for at, one in enumerate(spectra)]


def make_table(kind, rows):
    if kind in ("pandas", "parquet"):
        return pytest.importorskip("pandas").DataFrame(rows)
    if kind == "datasets":
        return pytest.importorskip("datasets").Dataset.from_list(rows)
    if kind == "arrow":
        return pytest.importorskip("pyarrow").Table.from_pylist(rows)
    table = pytest.importorskip("astropy.table").Table({"object_id": [row["object_id"] for row in rows]})
    table["note"] = [row["note"] for row in rows]
    for name in ("survey", "medium", "frame"):
        table[name] = [row[name] for row in rows]
    for name in ("flux", "wavelength", "ivar", "mask"):
        table[name] = np.array([*[np.array(row[name]) for row in rows], None], dtype=object)[:-1]
    return table


def column(table, name):
    values = table[name]
    return values.to_pylist() if hasattr(values, "to_pylist") else list(values)


@pytest.mark.parametrize("kind", ["pandas", "parquet", "datasets", "arrow", "astropy"])
def test_a_table_comes_back_with_embeddings_beside_its_ids(kind, encoder, vectors, tmp_path):
    rows = table_rows()
    given = make_table(kind, rows)
    if kind == "parquet":
        given.to_parquet(tmp_path / "table.parquet")
        given = tmp_path / "table.parquet"
    found = encoder.encode_table(given, batch_size=3)
    assert column(found, "object_id") == [row["object_id"] for row in rows]
    assert column(found, "note") == [0, 1, 2, 3]
    same(np.array([np.asarray(value) for value in column(found, "embedding")]), vectors[:4], 1e-4)
    assert column(found, "reason") == [""] * 4 and column(found, "outside") == [""] * 4
    names = getattr(found, "column_names", None) or getattr(found, "colnames", None) or list(found.columns)
    assert not {"flux", "wavelength", "ivar", "mask"} & set(names)


def test_rows_that_cannot_be_read_keep_their_place(encoder, vectors):
    pandas = pytest.importorskip("pandas")
    good = table_rows()
    nothing = np.zeros(len(good[1]["flux"])).tolist()
    rows = [
        good[0],
        good[1] | {"ivar": nothing},
        good[1] | {"flux": "no numbers"},
        good[1] | {"wavelength": [3.0]},
        good[1] | {"flux": None},
        good[1],
    ]
    frame = pandas.DataFrame(rows, index=list("abcdef"))
    with pytest.warns(UserWarning, match="4 of 6 rows have no embedding, but a reason: row 1: no patch has enough"):
        found = encoder.encode_table(frame)
    assert found.index.tolist() == list("abcdef")
    assert [bool(reason) for reason in found["reason"]] == [False, True, True, True, True, False]
    assert found["reason"].iloc[1] == "no patch has enough good pixels" and "length" in found["reason"].iloc[3]
    same(np.stack(found["embedding"].iloc[[0, 5]]), vectors[:2], 1e-4)
    assert np.isnan(np.stack(found["embedding"].iloc[1:5])).all()


def test_a_table_of_names_of_files(encoder, vectors, tmp_path, write_sdss_file):
    pandas = pytest.importorskip("pandas")
    path = write_sdss_file(SPECTRA[1], tmp_path)
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE  = ")
    frame = pandas.DataFrame({"file": [str(tmp_path / "none.fits"), path, None, str(tmp_path / "broken.fits")]})
    with pytest.warns(UserWarning, match="3 of 4 rows have no embedding"):
        found = encoder.encode_table(frame, path_column="file")
    assert found["file"].tolist()[1] == path
    assert [bool(reason) for reason in found["reason"]] == [True, False, True, True]
    assert found["reason"].iloc[2] == "no file is named"
    same(found["embedding"].iloc[1], vectors[1], 1e-4)
    with pytest.raises(ValueError, match="path_column must be one of file"):
        encoder.encode_table(frame, path_column="path")


def test_a_shuffled_data_set_and_one_that_gives_tensors(encoder, vectors):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(table_rows()).select([2, 0, 3])
    for given in (table, table.with_format("torch")):
        found = encoder.encode_table(given).with_format("numpy")
        same(np.stack(found["embedding"][:]), vectors[[2, 0, 3]], 1e-4)
        assert list(found["note"][:]) == [2, 0, 3]


def test_columns_of_the_same_names_are_not_overwritten(encoder):
    pandas = pytest.importorskip("pandas")
    for name in ("embedding", "outside", "reason"):
        with pytest.raises(ValueError, match=f"has a column {name} already"):
            encoder.encode_table(pandas.DataFrame([row_of(SPECTRA[2]) | {name: 1}]))


@pytest.mark.parametrize("kind", ["pandas", "datasets", "arrow"])
def test_tables_of_no_row_and_of_nothing_but_pixels(kind, encoder, vectors):
    rows = [{name: row_of(one)[name] for name in ("flux", "wavelength", "ivar", "mask")} for one in SPECTRA[:2]]
    found = encoder.encode_table(make_table(kind, rows))
    same(np.array([np.asarray(value) for value in column(found, "embedding")]), vectors[:2], 1e-4)
    whole = make_table(kind, table_rows(1))
    empty = {"pandas": lambda: whole[:0], "datasets": lambda: whole.select([]), "arrow": lambda: whole[:0]}[kind]()
    found = encoder.encode_table(empty)
    assert len(found) == 0 and column(found, "object_id") == []


def test_unknown_fields_and_columns_of_one_name_are_refused(encoder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([row_of(SPECTRA[2])])
    with pytest.raises(TypeError, match=r"encode_table got unknown keywords \['mediun'\]"):
        encoder.encode_table(frame, mediun="air")
    with pytest.raises(ValueError, match="columns must have different names, found 'flux' 2 times"):
        encoder.encode_table(pandas.concat([frame, frame[["flux"]]], axis=1))


def test_what_a_table_does_not_say_can_be_said(encoder):
    pandas = pytest.importorskip("pandas")
    spectrum = simulate_survey("galah", 1, seed=955)[0]
    frame = pandas.DataFrame([{name: row_of(spectrum)[name] for name in ("flux", "wavelength", "ivar", "mask")}])
    expected = encoder.encode(spectrum)
    same(encoder.encode_table(frame, medium="air")["embedding"].iloc[0], expected, 1e-4)
    assert np.abs(encoder.encode_table(frame)["embedding"].iloc[0] - expected).max() > 1e-3


def test_columns_may_have_names_of_any_kind(encoder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([row_of(SPECTRA[2])])
    frame[2026] = 5
    assert encoder.encode_table(frame)[2026].tolist() == [5]


def test_more_rows_than_are_read_at_once():
    pandas = pytest.importorskip("pandas")
    encoder = SpectrumEncoder(small(), SpectrumProcessor())
    spectra = simulate_survey("gaia_xp", 7, seed=952)
    rows = [row_of(spectra[number % 7]) | {"note": number} for number in range(WINDOW + 40)]
    found = encoder.encode_table(pandas.DataFrame(rows), batch_size=64)
    expected = encoder.encode(spectra)
    same(np.stack(found["embedding"]), expected[np.arange(len(rows)) % 7], 1e-4)
    assert least_distance(expected) > 1e-4


@pytest.mark.parametrize("given", [[1, 2], "table.csv"])
def test_what_is_no_table_is_refused(given, encoder):
    with pytest.raises(ValueError, match=r"encode_table takes|must end in \.parquet"):
        encoder.encode_table(given)


def test_a_table_of_no_spectra_is_refused(encoder):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="must have a column flux"):
        encoder.encode_table(pandas.DataFrame({"object_id": ["1"]}))


def test_files_whose_rows_are_corrected_are_no_tables(encoder, tmp_path):
    """`encode` corrects the known errors of the Multimodal Universe: two ways must not give two answers, silently."""
    from spectok_hf.data.multimodal_universe_writer import write_universe

    path = write_universe(simulate_survey("sdss", 2, seed=954), tmp_path, generation="preview")[0]
    assert encoder.encode(path).shape[1] == 128
    with pytest.raises(ValueError, match="is of the Multimodal Universe"):
        encoder.encode_table(path)


def test_written_spectra_give_the_same_embeddings(encoder, vectors, tmp_path):
    path = tmp_path / "spectra.parquet"
    write_spectra(SPECTRA, path)
    same(encoder.encode(path), vectors, 1e-5)
    same(np.stack(encoder.encode_table(path)["embedding"]), vectors, 1e-5)
    shutil.copy(path, tmp_path / "copy.parquet")
    same(encoder.encode([path, tmp_path / "copy.parquet"]), np.concatenate([vectors, vectors]), 1e-5)


# Heads of one's own -------------------------------------------------------------------------------


def test_a_head_is_fitted_to_embeddings_or_spectra(encoder):
    pytest.importorskip("sklearn")
    stars, quasars = (simulate_survey("sdss", 12, seed=953, kind=kind, snr=(20, 40)) for kind in ("STAR", "QSO"))
    spectra, classes = stars + quasars, ["STAR"] * 12 + ["QSO"] * 12
    embedded = encoder.encode(spectra)
    head = encoder.fit_head(embedded[::2], classes[::2])
    assert head.score(embedded[1::2], classes[1::2]) > 0.8
    assert (head.checkpoint, head.fingerprint) == ("spectok-tiny", encoder.fingerprint)
    column = pytest.importorskip("pandas").Series(list(embedded[::2]))  # as encode_table gives it
    for given in (column, list(embedded[::2])):
        same(encoder.fit_head(given, classes[::2]).predict_proba(embedded), head.predict_proba(embedded))
    with pytest.raises(ValueError, match=r"found \(1, 24, 128\)"):
        encoder.fit_head(embedded[None], classes)
    with pytest.raises(ValueError, match=r"embeddings of spectok-tiny, shape \(n, 128\), found \(24, 500\)"):
        encoder.fit_head(np.stack([one.flux[:500] for one in spectra]), classes)
    other = encoder.fit_head(spectra[::2], classes[::2])
    same(other.predict_proba(embedded), head.predict_proba(embedded), 1e-3)


def test_the_device_may_be_said_with_the_call(encoder, vectors):
    moved = encoder.encode(SPECTRA, device="cpu")
    assert np.array_equal(moved, vectors) and encoder.device == torch.device("cpu")
    assert encoder.to("cpu") is encoder and encoder.classify(SPECTRA[0])["class"]
    with pytest.raises(ValueError, match="device must be one of this machine, found 'nowhere'"):
        encoder.encode(SPECTRA, device="nowhere")
    assert encoder.device == torch.device("cpu")
