"""`SpectrumEncoder` and the commands on Specformer, which reads one grid, and AstroCLIP, which has images too."""

import json

import numpy as np
import pytest
import torch
from transformers import pipeline
from typer.testing import CliRunner

from spectok_hf import (
    AstroClipConfig,
    AstroClipModel,
    AstroClipProcessor,
    SkyImage,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecformerForRedshift,
    SpecformerProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    Spectrum,
    SpectrumEncoder,
    SpectrumProcessor,
    embed_spectra,
    simulate_survey,
)
from spectok_hf.analysis.attribution import attribute
from spectok_hf.cli import app
from spectok_hf.data.pairs import DataCollatorForPairs
from spectok_hf.data.spectrum_files import write_spectra
from spectok_hf.inference.answers import load_processor
from spectok_hf.models.handler import EndpointHandler

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {"model_type": "vit", "image_size": 24, "patch_size": 12, **SIZE}
SPECTRA = simulate_survey("desi", 3, seed=1101)
(FOREIGN,) = simulate_survey("boss", 1, seed=1101)
ONE_GRID = "Specformer reads spectra on one grid, 7781 pixels from 3600 to 9824 Å"


def saved(model, folder, processor=None):
    model.remember_processor(processor or model.config.new_processor())
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def specformer(tmp_path_factory):
    torch.manual_seed(0)
    folder = saved(SpecformerForPreTraining(SpecformerConfig(**SIZE)), tmp_path_factory.mktemp("specformer"))
    saved(SpecformerForRedshift(SpecformerConfig(**SIZE, redshift_bins=32)), folder / "redshift")
    return SpectrumEncoder.from_pretrained(folder, device="cpu")


def astroclip_model(**changes):
    torch.manual_seed(0)
    fields = {"spectrum_config": {"model_type": "specformer", **SIZE}, "vision_config": VISION, "projection_dim": 8}
    return AstroClipModel(AstroClipConfig(**fields | changes))


@pytest.fixture(scope="module")
def astroclip(tmp_path_factory):
    folder = saved(astroclip_model(), tmp_path_factory.mktemp("astroclip"))
    return SpectrumEncoder.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def images():
    flux = np.random.default_rng(1102).normal(0, 1, (3, 3, 30, 30))
    return [SkyImage(one, ("g", "r", "z"), 0.262, object_id=str(i)) for i, one in enumerate(flux)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("spectra") / "desi.parquet"
    write_spectra(SPECTRA, path)
    return path


def done(*arguments):
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result


# Specformer ---------------------------------------------------------------------------------------


def test_embeddings_of_a_batch_are_those_of_the_model(specformer):
    vectors = specformer.encode(SPECTRA)
    inputs = specformer.processor(SPECTRA, return_tensors="pt")
    assert inputs["loc"].shape == (3,)
    with torch.no_grad():
        expected = specformer.model.base_model(**inputs).pooler_output.numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    tokens = specformer.encode(SPECTRA[0], output="tokens")
    assert tokens.values.shape[1] == 16 and np.all(np.diff(tokens.wavelength) == pytest.approx(8, abs=0.01))


def test_mean_and_deviation_tell_spectra_apart_that_are_alike_without_them(specformer):
    louder = simulate_survey("desi", 1, seed=1101)[0]
    object.__setattr__(louder, "flux", louder.flux * 4)
    object.__setattr__(louder, "ivar", louder.ivar / 16)
    one, two = specformer.encode([SPECTRA[0], louder])
    assert np.abs(one - two).max() > 1e-4


def test_a_spectrum_of_another_grid_is_named_whatever_is_asked(specformer):
    for ask in (specformer.encode, specformer.reconstruct, specformer.redshift):
        with pytest.raises(ValueError, match=rf"spectrum 1 \(object_id={FOREIGN.object_id}\).*{ONE_GRID}") as caught:
            ask([SPECTRA[0], FOREIGN])
        assert "SpecTok and OmniSpectra read any grid" in str(caught.value)
    with pytest.raises(ValueError, match=r"reads how bright a spectrum is, in 1e-17 .* found a flux in counts"):
        specformer.encode({name: getattr(SPECTRA[0], name) for name in ("flux", "wavelength", "ivar")} | {
            "flux_unit": "counts", "medium": "vacuum",
        })  # fmt: skip


def test_a_row_of_another_grid_has_a_reason_and_the_others_their_answers(specformer):
    datasets = pytest.importorskip("datasets")
    rows = [
        {name: getattr(one, name).tolist() for name in ("flux", "wavelength", "ivar", "mask")} | {"id": i}
        for i, one in enumerate((SPECTRA[0], FOREIGN, SPECTRA[1]))
    ]
    with pytest.warns(UserWarning, match="1 of 3 rows have no embedding, but a reason: row 1: Specformer reads"):
        found = specformer.encode_table(datasets.Dataset.from_list(rows), medium="vacuum")
    assert [bool(row["reason"]) for row in found] == [False, True, False]
    vectors = np.array(found["embedding"])
    np.testing.assert_allclose(vectors[[0, 2]], specformer.encode(SPECTRA[:2]), atol=1e-5)
    assert np.isnan(vectors[1]).all()


def test_a_run_over_files_counts_what_is_on_another_grid(specformer, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    for name, spectra in (("desi", SPECTRA[:2]), ("boss", [FOREIGN])):
        write_spectra(spectra, tmp_path / f"{name}.parquet")
    sources = [tmp_path / "desi.parquet", tmp_path / "boss.parquet"]
    outcome = embed_spectra(sources, (specformer.model, specformer.processor), tmp_path / "out", device="cpu")
    assert outcome.manifest["spectra"] == 2 and outcome.manifest["rows"] == 3
    failures = outcome.manifest["failures"]
    assert failures["count"] == 1 and list(failures["sources"]) == [str(sources[1])]
    assert ONE_GRID in failures["sources"][str(sources[1])]["first"]
    rows = [row for path in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    expected = dict(zip([one.object_id for one in SPECTRA[:2]], specformer.encode(SPECTRA[:2]), strict=True))
    for row in rows:
        assert (row["embedding"] is None) == (row["reason"] is not None)
        if row["embedding"] is not None:
            np.testing.assert_allclose(row["embedding"], expected[row["object_id"]], atol=1e-5)
    with pytest.raises(ValueError, match=ONE_GRID):
        embed_spectra(
            sources, (specformer.model, specformer.processor), tmp_path / "strict", device="cpu", on_error="raise"
        )


def test_with_resample_other_grids_are_read_on_its_own(specformer, tmp_path):
    lenient = SpectrumEncoder(specformer.model, SpecformerProcessor(resample=True), name="lenient", device="cpu")
    on_grid = lenient.processor.to_grid(FOREIGN)
    np.testing.assert_allclose(lenient.encode(FOREIGN), specformer.encode(on_grid), atol=1e-6)
    made, expected = lenient.reconstruct(FOREIGN), specformer.reconstruct(on_grid)
    assert len(made) == 7781
    np.testing.assert_allclose(made.flux, expected.flux, rtol=1e-5)
    write_spectra([FOREIGN], tmp_path / "boss.parquet")
    outcome = embed_spectra(tmp_path / "boss.parquet", (lenient.model, lenient.processor), tmp_path / "out")
    assert outcome.manifest["spectra"] == 1


def test_each_patch_is_predicted_from_others(specformer):
    (made,) = specformer.reconstruct(SPECTRA[:1])
    inputs = specformer.processor(SPECTRA[0], return_tensors="pt")
    with torch.no_grad():
        outputs = specformer.model.reconstruct(**inputs)
    (expected,) = specformer.processor.post_process_reconstruction(outputs, SPECTRA[0])
    np.testing.assert_allclose(made.flux, expected.flux, rtol=1e-4, atol=1e-4)
    assert made.mask[-1] and not made.mask[100]  # the last pixel is in no patch


@pytest.mark.parametrize("method", ["occlusion", "rollout"])
def test_what_an_answer_rests_on_has_a_value_per_patch(specformer, method):
    # Of a small grid: occlusion takes a pass per patch.
    processor = SpecformerProcessor(grid_size=230)
    spectrum = simulate_survey("desi", 1, seed=1101)[0]
    part = type(spectrum)(**{name: getattr(spectrum, name)[:230] for name in ("flux", "wavelength", "ivar", "mask")})
    found = attribute(specformer.model, processor, part, method=method)
    valid = processor.patch(part)["attention_mask"] > 0
    assert found.values.shape == (22,) and np.array_equal(np.isfinite(found.values), valid)
    if method == "rollout":  # shares of what the patches are looked at, the token of mean and deviation apart
        assert 0.5 < np.nanmean(found.values) < 1.5


def test_commands_take_it(specformer, source, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    facts = json.loads(done("info", specformer.name, "--json").stdout)
    assert (facts["pixels_per_token"], facts["pixels_between_tokens"], facts["heads"]) == (20, 10, ["redshift"])
    done("encode", source, "-o", tmp_path / "e.parquet", "-m", specformer.name, "--tokens")
    rows = pq.read_table(tmp_path / "e.parquet").to_pylist()
    np.testing.assert_allclose([row["embedding"] for row in rows], specformer.encode(SPECTRA), atol=1e-5)
    done("redshift", source, "-o", tmp_path / "z.parquet", "-m", specformer.name)
    expected = [row["redshift"] for row in specformer.redshift(SPECTRA)]
    assert pq.read_table(tmp_path / "z.parquet")["redshift"].to_pylist() == pytest.approx(expected, rel=1e-5)
    write_spectra([FOREIGN], tmp_path / "boss.parquet")
    arguments = ["encode", tmp_path / "boss.parquet", "-o", tmp_path / "none.parquet", "-m", specformer.name]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code and "reads spectra on one grid" in result.output + str(result.exception)


def test_an_endpoint_answers_and_says_what_it_cannot_read(specformer):
    handler = EndpointHandler(specformer.name)
    columns = ("flux", "wavelength", "ivar", "mask")
    request, foreign = ({name: getattr(one, name).tolist() for name in columns} for one in (SPECTRA[0], FOREIGN))
    answer = handler({"inputs": request, "parameters": {"task": "spectrum-embedding"}})
    np.testing.assert_allclose(answer["embedding"], specformer.encode(SPECTRA[0]), atol=1e-5)
    assert ONE_GRID in handler({"inputs": foreign})["error"]


# AstroCLIP ----------------------------------------------------------------------------------------


def test_embeddings_are_unit_vectors_in_the_shared_space(astroclip):
    vectors = astroclip.encode(SPECTRA)
    assert vectors.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    with torch.no_grad():
        inputs = astroclip.processor(SPECTRA, return_tensors="pt")
        expected = astroclip.model.get_spectrum_features(**inputs).numpy()
        encoded = astroclip.model.spectrum_model(**inputs)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    tokens = astroclip.encode(SPECTRA[0], output="tokens")
    valid = encoded.attention_mask[0] > 0
    np.testing.assert_allclose(tokens.values, encoded.tokens[0][valid].numpy(), atol=1e-5)


def test_images_are_compared_with_spectra(astroclip, images):
    vectors = astroclip.encode_images(images, batch_size=2)
    processor = AstroClipProcessor(astroclip.processor, image_size=24)
    with torch.no_grad():
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        expected = astroclip.model.get_image_features(pixels).numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(astroclip.encode_images(images[1]), vectors[1], atol=1e-5)
    as_mapping = {"flux": images[2].flux, "bands": ["g", "r", "z"], "pixel_scale": 0.262}
    np.testing.assert_allclose(astroclip.encode_images(as_mapping), vectors[2], atol=1e-5)
    found = astroclip.similarity(astroclip.encode(SPECTRA), vectors)
    answer = pipeline("spectrum-image-similarity", model=astroclip.name)({"spectrum": SPECTRA[0], "image": images[2]})
    assert found[0, 2] == pytest.approx(answer["similarity"], abs=1e-5)


def without_good_pixels(image, band=1):
    mask = np.zeros(image.flux.shape, dtype=bool)
    mask[band] = True
    return SkyImage(image.flux, image.bands, image.pixel_scale, mask, object_id="blind")


@pytest.mark.parametrize("own", ["raise", "skip", "mask"])
def test_every_image_has_a_row_whatever_the_processor_does_with_invalid_ones(own, astroclip, images):
    processor = AstroClipProcessor(astroclip.processor, image_size=24, on_invalid=own)
    encoder = SpectrumEncoder(astroclip.model, processor, device="cpu")
    given = [images[0], without_good_pixels(images[1]), images[2]]
    expected = astroclip.encode_images(images)
    for batch_size in (1, 2, 3):
        found = encoder.encode_images(given, on_invalid="mask", batch_size=batch_size)
        assert found.shape == expected.shape and np.isnan(found[1]).all()
        np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], atol=1e-5)
        with pytest.raises(ValueError, match=r"image 1 \(object_id=blind\) has no good pixel of r where it is cut"):
            encoder.encode_images(given, batch_size=batch_size)
    assert np.isnan(encoder.encode_images(given[1], on_invalid="mask")).all()
    with pytest.raises(ValueError, match="on_invalid must be one of raise, mask, found 'skip'"):
        encoder.encode_images(given, on_invalid="skip")


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_an_image_with_a_mapping_per_band_is_one_image(batch_size, astroclip, images):
    columns = [
        [{"band": f"des-{band}", "flux": flux, "scale": 0.262} for band, flux in zip("grz", one.flux, strict=True)]
        for one in images
    ]
    vectors = astroclip.encode_images(images)
    as_array = np.array(columns[1], dtype=object)  # as pandas reads it from a file
    for one in (columns[1], tuple(columns[1]), as_array):
        found = astroclip.encode_images(one, batch_size=batch_size)
        assert found.shape == (8,)
        np.testing.assert_allclose(found, vectors[1], atol=1e-5)
    for several, expected in ((columns, vectors), (iter(columns), vectors), ([as_array], vectors[1:2])):
        np.testing.assert_allclose(astroclip.encode_images(several, batch_size=batch_size), expected, atol=1e-5)


@pytest.mark.parametrize("given", ["galaxy.fits", 7, np.zeros((3, 30, 30))])
def test_what_is_no_image_is_refused(given, astroclip):
    with pytest.raises(ValueError, match=r"expected a SkyImage, .* found (str|int|ndarray)"):
        astroclip.encode_images(given)


def test_images_that_cannot_be_encoded_are_refused(astroclip, specformer, images):
    assert astroclip.has_images and not specformer.has_images
    with pytest.raises(ValueError, match=r"knows spectra alone \(SpecformerForPreTraining\): load a checkpoint"):
        specformer.encode_images(images)
    with pytest.raises(ValueError, match="at least one image, found none"):
        astroclip.encode_images([])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        astroclip.encode_images(images, batch_size=0)
    blue = SkyImage(images[0].flux[:2], ("g", "r"), 0.262)
    with pytest.raises(ValueError, match="must have the bands g, r, z, found no z"):
        astroclip.encode_images(blue)


def test_a_spectrum_of_another_grid_is_refused_unless_the_encoder_reads_any(astroclip):
    with pytest.raises(ValueError, match=ONE_GRID):
        astroclip.encode(FOREIGN)
    config = {"model_type": "spectok", **SIZE, "decoder_num_hidden_layers": 1}
    model = astroclip_model(spectrum_config=config)
    encoder = SpectrumEncoder(model, model.config.new_processor(), device="cpu")
    one, two = encoder.encode([FOREIGN, SPECTRA[0]])
    assert np.linalg.norm(one) == pytest.approx(1, rel=1e-5) and np.abs(one - two).max() > 1e-4
    facts = encoder.facts()
    assert (facts["embedding"], facts["numbers_per_token"], facts["pixels_per_token"]) == (8, 8, 32)
    assert encoder.encode(FOREIGN, output="last_hidden_state").values.shape[1] == 16


def over_spectok(folder, **changes):
    """The folder of an AstroCLIP over SpecTok, which reads any grid."""
    config = {"model_type": "spectok", **SIZE, "decoder_num_hidden_layers": 1}
    return saved(astroclip_model(spectrum_config=config, **changes), folder)


def short_spectrum(unit, by=1.0):
    rng = np.random.default_rng(1103)
    flux = by * (5 + np.sin(np.arange(320) / 9) + rng.normal(0, 0.1, 320))
    return Spectrum(flux, 4000 + 1.5 * np.arange(320), np.full(320, 9 / by**2), flux_unit=unit, object_id="a star")


def as_row(spectrum):
    return {name: getattr(spectrum, name).tolist() for name in ("flux", "wavelength", "ivar")} | {
        name: getattr(spectrum, name) for name in ("flux_unit", "medium")
    }


UNKNOWN_LEVEL = "reads how bright a spectrum is, in 1e-17 erg/s/cm2/Angstrom, found a flux in counts"


def test_flux_in_counts_is_refused_on_every_path_where_brightness_counts(images, tmp_path):
    folder, counts, known = over_spectok(tmp_path), short_spectrum("counts"), short_spectrum(None)
    encoder = SpectrumEncoder.from_pretrained(folder, device="cpu")
    alike, embedding = (
        pipeline(task, model=str(folder)) for task in ("spectrum-image-similarity", "spectrum-embedding")
    )
    both = AstroClipProcessor.from_pretrained(folder)
    paths = {
        "encode": encoder.encode,
        "processor": encoder.processor,
        "pack": encoder.processor.pack,
        "pairs": lambda spectrum: both(spectrum, images[0]),
        "collator": lambda spectrum: DataCollatorForPairs(both)([(spectrum, images[0])]),
        "embedding": embedding,
        "one side": lambda spectrum: alike({"spectrum": spectrum}),
        "a pair": lambda spectrum: alike({"spectrum": as_row(spectrum), "image": images[0]}),
        "candidates": lambda spectrum: alike({"image": images[0], "spectra": [known, spectrum]}),
        "attribution": lambda spectrum: attribute(encoder.model, encoder.processor, spectrum, method="rollout"),
    }
    for path, ask in paths.items():
        with pytest.raises(ValueError, match=UNKNOWN_LEVEL):
            ask(counts)
        assert ask(known) is not None, path
    with pytest.raises(ValueError, match=r"spectrum 1 \(object_id=a star\) cannot be read: ") as caught:
        encoder.encode([known, counts])
    assert str(caught.value).count("a star") == 1
    handler = EndpointHandler(str(folder))
    request = {"inputs": as_row(counts), "parameters": {"task": "spectrum-embedding"}}
    assert UNKNOWN_LEVEL in handler(request)["error"]
    vectors = encoder.encode([known, short_spectrum("1E-17 erg/cm^2/s/Ang"), short_spectrum(None, 3)])
    assert np.array_equal(vectors[0], vectors[1]) and np.abs(vectors[0] - vectors[2]).max() > 1e-3


def test_a_table_and_a_file_say_which_rows_are_in_counts(tmp_path):
    datasets, pq = pytest.importorskip("datasets"), pytest.importorskip("pyarrow.parquet")
    folder = over_spectok(tmp_path / "model")
    encoder = SpectrumEncoder.from_pretrained(folder, device="cpu")
    spectra = [short_spectrum(None), short_spectrum("counts"), short_spectrum(None, 3)]
    rows = [as_row(one) | {"id": i} for i, one in enumerate(spectra)]
    with pytest.warns(UserWarning, match="1 of 3 rows have no embedding, but a reason: row 1: the model reads how"):
        found = encoder.encode_table(datasets.Dataset.from_list(rows), medium="vacuum")
    assert [bool(row["reason"]) for row in found] == [False, True, False]
    np.testing.assert_allclose(np.array(found["embedding"])[[0, 2]], encoder.encode(spectra[::2]), atol=1e-5)
    write_spectra(spectra, tmp_path / "spectra.parquet")
    outcome = embed_spectra(tmp_path / "spectra.parquet", str(folder), tmp_path / "out", device="cpu")
    assert outcome.manifest["spectra"] == 2 and outcome.manifest["failures"]["count"] == 1
    (part,) = (tmp_path / "out").glob("*.parquet")
    assert [UNKNOWN_LEVEL in (row["reason"] or "") for row in pq.read_table(part).to_pylist()] == [False, True, False]


def test_without_the_level_any_unit_is_read(images, tmp_path):
    folder = over_spectok(tmp_path, read_level=False)
    encoder = SpectrumEncoder.from_pretrained(folder, device="cpu")
    assert AstroClipProcessor.from_pretrained(folder).flux_unit is None
    vectors = encoder.encode([short_spectrum(unit, by) for unit, by in (("counts", 1), ("W/m2/nm", 3), (None, 1e-6))])
    np.testing.assert_allclose(vectors, vectors[:1].repeat(3, 0), atol=1e-5)
    alike = pipeline("spectrum-image-similarity", model=str(folder))
    (found, expected) = (alike({"spectrum": short_spectrum(unit), "image": images[0]}) for unit in ("counts", None))
    assert found == expected


def test_flux_per_frequency_is_refused_though_any_unit_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    encoder = SpectrumEncoder.from_pretrained(over_spectok(tmp_path, read_level=False), device="cpu")
    with pytest.raises(ValueError, match=r"object_id=a star.* per wavelength, found Jy, per frequency"):
        encoder.encode(short_spectrum("Jy"))
    rows = datasets.Dataset.from_list([as_row(short_spectrum(unit)) for unit in ("Jy", "counts")])
    with pytest.warns(UserWarning, match="1 of 2 rows have no embedding, but a reason: row 0: flux must be per wave"):
        found = encoder.encode_table(rows, medium="vacuum")
    assert [bool(row["reason"]) for row in found] == [True, False]


def test_the_processor_of_another_model_is_refused(astroclip, images):
    encoder = SpectrumEncoder(astroclip.model, astroclip.processor, device="cpu")  # the spectra's alone
    for ask in (lambda: encoder.encode(SPECTRA), lambda: encoder.encode_images(images)):
        with pytest.raises(ValueError, match="needs the processor AstroClipProcessor, found SpecformerProcessor"):
            ask()
    small = SpecTokForPreTraining(SpecTokConfig(**SIZE, decoder_num_hidden_layers=1))
    with pytest.raises(ValueError, match="needs the processor SpectrumProcessor, found AstroClipProcessor"):
        SpectrumEncoder(small, AstroClipProcessor(SpectrumProcessor()), device="cpu").encode(SPECTRA)


@pytest.mark.parametrize("reads_any", [True, False])
def test_only_what_can_be_refused_is_looked_at_before_its_batch(reads_any, tmp_path, monkeypatch):
    encoder = SpectrumEncoder.from_pretrained(over_spectok(tmp_path, read_level=not reads_any), device="cpu")
    expected = encoder.encode([short_spectrum(None), short_spectrum(None, 3)])
    asked, good_pixels = [], type(encoder.processor).good_pixels

    def counted(processor, spectrum):
        asked.append(spectrum)
        return good_pixels(processor, spectrum)

    monkeypatch.setattr(type(encoder.processor), "good_pixels", counted)
    found = encoder.encode([short_spectrum(None), short_spectrum(None, 3)])
    assert len(asked) == (0 if reads_any else 2) and np.array_equal(found, expected)


def test_a_spectrum_that_cannot_be_read_is_an_error_whatever_is_said_of_invalid_ones(specformer):
    for on_invalid in ("raise", "mask"):
        with pytest.raises(ValueError, match=rf"spectrum 1 .*{ONE_GRID}"):
            specformer.encode([SPECTRA[0], FOREIGN], on_invalid=on_invalid)


def test_it_says_what_it_is_and_what_it_cannot(astroclip):
    facts = astroclip.facts()
    assert (facts["embedding"], facts["numbers_per_token"], facts["pixels_between_tokens"]) == (8, 16, 10)
    assert facts["heads"] == [] and "embeddings of 8, a token of 16 per 10 pixels from 20" in repr(astroclip)
    with pytest.raises(ValueError, match=r"has no decoder \(AstroClipModel\)"):
        astroclip.reconstruct(SPECTRA)
    with pytest.raises(ValueError, match="has no head for redshift"):
        astroclip.redshift(SPECTRA)


def test_its_processor_is_found_for_shards(astroclip):
    assert type(load_processor(astroclip.name)) is SpecformerProcessor


def test_commands_take_its_spectra(astroclip, source, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    done("encode", source, "-o", tmp_path / "e.parquet", "-m", astroclip.name, "--tokens")
    rows = pq.read_table(tmp_path / "e.parquet").to_pylist()
    np.testing.assert_allclose([row["embedding"] for row in rows], astroclip.encode(SPECTRA), atol=1e-5)
    assert len(rows[0]["tokens"][0]) == 16
    found = attribute(astroclip.model, astroclip.processor, SPECTRA[0], method="rollout")
    assert np.isfinite(found.values).any()


def test_an_index_of_its_spectra_is_searched(astroclip, source, tmp_path):
    pytest.importorskip("datasets")
    done("index", source, "-o", tmp_path / "index", "-m", astroclip.name)
    (found, *_) = done("search", source, tmp_path / "index", "-m", astroclip.name).stdout.splitlines()[1:]
    assert found.startswith(SPECTRA[0].object_id)  # itself
