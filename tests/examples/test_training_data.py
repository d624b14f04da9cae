"""What `examples/pretrain.py` trains on: memory, shards and streams, split by object and mixed by weight."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from test_pretrain_distributed import make_spectrum, write_parquet
from training_data import DataArguments, describe_shards, load_data

from spectok_hf import Spectrum, SpectrumProcessor
from spectok_hf.data.dataset import object_groups
from spectok_hf.data.mixtures import Visit
from spectok_hf.data.shards import write_shards

datasets = pytest.importorskip("datasets")
PROCESSOR = SpectrumProcessor()


def arguments(**changes):
    """What of TrainingArguments is asked for."""
    options = {"seed": 0, "train_batch_size": 4, "world_size": 1, "gradient_accumulation_steps": 2, "max_steps": 10}
    options |= {"dataloader_num_workers": 0, "local_process_index": 0}
    return SimpleNamespace(**options | changes)


def repeated(number, **changes):
    """A spectrum at a position that others share."""
    spectrum = make_spectrum(number)
    spectrum.labels |= {"ra": 10.0 + number // 2, "dec": 20.0}
    for name, value in changes.items():
        setattr(spectrum, name, value)
    return spectrum


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """60 spectra of SDSS and DESI, two of each object, and 10 simulated ones of SDSS."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    spectra = [repeated(number) for number in range(60)]
    for number in range(100, 110):
        drawn = make_spectrum(number)
        spectra.append(
            Spectrum(drawn.flux, drawn.wavelength, drawn.ivar, survey="sdss", object_id=str(number), truth=drawn.flux)
        )
    write_shards(spectra, folder, spectra_per_shard=16)
    return folder


def copied(folder, copy):
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return str(copy)


def visited(data):
    """The spectra of one epoch."""
    return [data.train[visit].what for visit in list(data.sampler)[: data.sampler.epoch_size]]


def test_shards_are_split_by_object_and_every_other_spectrum_comes_once(shards):
    data = load_data(DataArguments(shards=[str(shards)], eval_share=0.3), PROCESSOR, arguments())
    seen = visited(data)
    assert all(isinstance(visit, Visit) for visit in data.sampler) and len(data.sampler) % 8 == 0
    names = [spectrum.object_id for spectrum in seen]
    held = {spectrum.object_id for spectrum in data.held_out}
    assert len(set(names)) == len(names) and not set(names) & held and len(names) + len(held) == 70
    keys = object_groups([*seen, *data.held_out])
    assert not set(keys[: len(seen)]) & set(keys[len(seen) :])
    assert {spectrum.survey for spectrum in data.held_out} == {"sdss", "desi"}
    assert {s.object_id for s in data.sample} == set(names)


def test_the_same_is_held_out_whatever_the_shards_are_cut_into(shards, tmp_path):
    from spectok_hf.data.shards import SpectrumShards

    write_shards(reversed(list(SpectrumShards(shards))), tmp_path / "other", spectra_per_shard=7)
    split = [
        {s.object_id for s in load_data(DataArguments(shards=[str(folder)]), PROCESSOR, arguments()).held_out}
        for folder in (shards, tmp_path / "other")
    ]
    assert split[0] == split[1]


def test_surveys_of_shards_are_weighted_and_simulated_ones_are_a_survey_of_their_own(shards):
    weights = json.dumps({"sdss": 1, "desi": 1, "sdss-simulated": 2})
    data = load_data(DataArguments(shards=[str(shards)], survey_weights=weights), PROCESSOR, arguments())
    drawn = Counter((s.survey, s.truth is not None) for s in visited(data))
    total = data.sampler.epoch_size
    assert drawn["sdss", True] == pytest.approx(total / 2, abs=1) and drawn["desi", False] == pytest.approx(
        total / 4, abs=1
    )
    with pytest.raises(ValueError, match="--survey_weights must name sdss, sdss-simulated, desi, found sdss"):
        load_data(DataArguments(shards=[str(shards)], survey_weights='{"sdss": 1}'), PROCESSOR, arguments())


def test_surveys_of_shards_are_left_out_with_their_weights(shards):
    options = {"shards": [str(shards)], "survey_weights": '{"sdss": 1, "sdss-simulated": 2, "desi": 3}'}
    data = load_data(DataArguments(**options, without=["sdss"]), PROCESSOR, arguments())
    assert {s.survey for part in (visited(data), data.sample, data.held_out) for s in part} == {"desi"}
    with pytest.raises(ValueError, match="--without must name surveys of the shards, sdss, desi, found lamost"):
        load_data(DataArguments(**options, without=["lamost"]), PROCESSOR, arguments())


def test_at_most_so_many_are_evaluated(shards):
    data = load_data(DataArguments(shards=[str(shards)], max_eval=2, eval_share=0.5), PROCESSOR, arguments())
    assert len(data.held_out) == 6
    names = {spectrum.object_id for spectrum in visited(data)}
    assert not names & {spectrum.object_id for spectrum in data.held_out} and len(names) < 45


def test_pairs_are_observations_of_one_object_in_the_training_part(shards):
    data = load_data(DataArguments(shards=[str(shards)], eval_share=0.3), PROCESSOR, arguments(), pairs=True)
    held = {spectrum.object_id for spectrum in data.held_out}
    pairs = [observations.spectra for observations in visited(data) if len(observations.spectra) == 2]
    assert len(pairs) >= 30
    for one, other in pairs:
        assert one.object_id != other.object_id and one.labels["ra"] == other.labels["ra"]
        assert not {one.object_id, other.object_id} & held


def test_shards_for_another_processor_are_refused(shards, tmp_path):
    copy = tmp_path / "prepared"
    copied(shards, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"validity": {"patch_size": 16, "medium": "vacuum"}}))
    with pytest.raises(ValueError, match=r"the model's processor has another patch_size.*prepare them again"):
        load_data(DataArguments(shards=[str(copy)]), PROCESSOR, arguments())
    load_data(DataArguments(shards=[str(copy)]), SpectrumProcessor(patch_size=16), arguments())


def test_a_shard_with_other_bytes_is_refused_or_left_out_before_training(shards, tmp_path):
    """Its size and its table are right: only the checksum tells."""
    data = DataArguments(shards=[copied(shards, tmp_path / "damaged")])
    path = tmp_path / "damaged/shard-00001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00001.arrow must have the checksum .* --on_damage skip$"):
        load_data(data, PROCESSOR, arguments())
    # One process of a node is enough, unless all have to leave out the same.
    assert len(load_data(data, PROCESSOR, arguments(local_process_index=1)).train) == 70
    data.on_damage = "skip"
    for process in (0, 1):
        with pytest.warns(UserWarning, match="left out 1 of 5 shards, 16 of 70 spectra"):
            assert len(load_data(data, PROCESSOR, arguments(local_process_index=process)).train) == 54
    data.verify_shards = False
    assert len(load_data(data, PROCESSOR, arguments()).train) == 70


def test_a_broken_manifest_is_named(shards, tmp_path):
    data = DataArguments(shards=[copied(shards, tmp_path / "broken")])
    assert describe_shards(data)[0][0] == 70
    (tmp_path / "broken/manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken/manifest.json must be the manifest of write_shards"):
        describe_shards(data)


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    write_parquet([make_spectrum(number) for number in range(60)], folder)
    return {"sdss": str(folder / "sdss"), "desi": str(folder / "desi/*.parquet")}


def test_streams_hold_objects_out(streams):
    """A folder, and a pattern."""
    data = load_data(DataArguments(stream=json.dumps(streams), eval_share=0.3), PROCESSOR, arguments())
    held = {spectrum.object_id for spectrum in data.held_out}
    sample = {spectrum.object_id for spectrum in data.sample}
    seen = {spectrum.object_id for spectrum in data.train}
    assert data.sampler is None and seen == sample and not seen & held and len(seen | held) == 60
    assert {spectrum.survey for spectrum in data.held_out} == {"sdss", "desi"}


def test_a_single_file_may_be_streamed(streams):
    data = load_data(
        DataArguments(stream=json.dumps({"sdss": streams["sdss"] + "/0.parquet"})), PROCESSOR, arguments()
    )
    assert len(data.sample) + len(data.held_out) == 8


def test_a_source_that_is_held_out_altogether_is_no_part_of_the_mixture(monkeypatch):
    import training_data

    monkeypatch.setattr(training_data, "read_spectra", lambda path, **_: [make_spectrum(2 * int(path))])
    files = [str(number) for number in range(8)]
    data = load_data(DataArguments(data=files, weights=[1.0] * 8, eval_share=0.3), PROCESSOR, arguments())
    assert len(data.held_out) == 2 and len(data.sampler.sources) == 6
    with pytest.raises(ValueError, match="--weights must be one for each of 8 sources, found 2"):
        load_data(DataArguments(data=files, weights=[1.0, 2.0]), PROCESSOR, arguments())


def test_spectra_without_a_name_are_told_apart_by_their_flux(tmp_path):
    spectra = [make_spectrum(number) for number in range(6)]
    for spectrum in spectra:
        spectrum.object_id = ""
    write_shards(spectra, tmp_path / "shards")
    data = load_data(DataArguments(shards=[str(tmp_path / "shards")], eval_share=0.3), PROCESSOR, arguments())
    assert len(data.held_out) == 2


@pytest.mark.parametrize(
    ("options", "training", "message"),
    [
        ({}, {}, "nothing to train on: pass --simulate"),
        ({"simulate": ["sdss"], "shards": ["x"]}, {}, "found several: spectok prepare puts any mixture"),
        ({"stream": '{"sdss": "x"}'}, {"max_steps": -1}, "a stream has no end: pass --max_steps, found -1"),
        ({"stream": '{"sdss": "x"}', "temperature": 2.0}, {}, "--temperature does nothing here: it is for --data and"),
        (
            {"shards": ["x"], "weights": [1.0]},
            {},
            "--weights does nothing here: it is for --data, found with",
        ),
        ({"simulate": ["sdss"], "survey_weights": '{"x": 1}'}, {}, "--survey_weights does nothing here"),
        ({"simulate": ["sdss"], "verify_shards": False}, {}, "--verify_shards does nothing here: it is for --shards"),
        ({"shards": ["x"], "generation": "hats"}, {}, "--generation does nothing here: it is for --stream"),
        ({"simulate": ["sdss"], "max_eval": 0}, {}, "--max_eval must be at least 1, found 0"),
        ({"stream": "somewhere/desi"}, {}, "--stream must be given by survey, as"),
        ({"stream": '{"sdss": "no/such/*.parquet"}'}, {}, "no Parquet file in no/such"),
    ],
)
def test_what_does_not_go_together_is_said(options, training, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_data(DataArguments(**options), PROCESSOR, arguments(**training))


def test_an_even_mixture_gives_batches_the_same_work(tmp_path):
    write_shards([make_spectrum(number) for number in range(200)], tmp_path / "shards")
    spread = []
    for even in (True, False):
        options = DataArguments(shards=[str(tmp_path / "shards")], mix_evenly=even)
        data = load_data(options, PROCESSOR, arguments(train_batch_size=10))
        lengths = np.array([len(spectrum) for spectrum in visited(data)])
        spread.append(lengths[: len(lengths) // 20 * 20].reshape(-1, 20).sum(1).std())
    assert spread[0] < 0.6 * spread[1]
