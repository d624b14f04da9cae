"""`SpectrumStream`: every spectrum once, mixed, shuffled, split between workers."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spectok_hf import Spectrum, SpectrumProcessor, read_spectra, simulate_survey
from spectok_hf.data import streaming
from spectok_hf.data.collators import DataCollatorForPackedSpectra
from spectok_hf.data.multimodal_universe import write_universe
from spectok_hf.data.streaming import SpectrumStream

datasets = pytest.importorskip("datasets")


def rows(name, count, length=64):
    """Rows as the Multimodal Universe's, of their own flux each."""
    rng = np.random.default_rng(count)
    for number in range(count):
        pixels = {
            "flux": (5 + rng.normal(size=length)).astype(np.float32),
            "ivar": np.ones(length, dtype=np.float32),
            "lambda": (4000 + 1.5 * np.arange(length)).astype(np.float32),
            "mask": rng.random(length) < 0.05,
        }
        yield {"spectrum": pixels, "object_id": f"{name}-{number}", "Z": 0.1 * number}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Parquet files of two surveys: 5 + 5 + 5 + 5 and 13 + 13 rows."""
    folder = tmp_path_factory.mktemp("parquet")
    for name, count, files in (("a", 20, 4), ("b", 26, 2)):
        whole = datasets.Dataset.from_list([*rows(name, count)])
        for number in range(files):
            shard = whole.shard(files, number, contiguous=True)
            shard.to_parquet(str(folder / f"{name}-{number}.parquet"))
    return folder


@pytest.fixture(autouse=True, scope="module")
def no_progress_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def stream_of(folder, name):
    files = sorted(map(str, folder.glob(f"{name}-*.parquet")))
    cache = str(folder / "cache")
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=cache)


def make_stream(folder, weights=None, **options):
    return SpectrumStream([stream_of(folder, name) for name in "ab"], weights, **options)


EVERY_ID = sorted([f"a-{number}" for number in range(20)] + [f"b-{number}" for number in range(26)])


def identifiers(stream, workers=0):
    loader = DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=lambda spectrum: spectrum.object_id)
    return list(loader)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("workers", [0, 1, 2, 3, 5])
def test_every_spectrum_comes_once_whatever_the_workers(workers, folder):
    assert sorted(identifiers(make_stream(folder, buffer_size=6), workers)) == EVERY_ID


def test_spectra_are_those_of_the_reader(folder):
    expected = {
        spectrum.object_id: spectrum for row in (rows("a", 20), rows("b", 26)) for spectrum in read_spectra(row)
    }
    for spectrum in make_stream(folder):
        other = expected[spectrum.object_id]
        for name in ("flux", "ivar", "wavelength", "mask"):
            np.testing.assert_array_equal(getattr(spectrum, name), getattr(other, name))
        assert spectrum.labels == pytest.approx(other.labels)


def test_the_survey_of_a_source_is_its_name(folder):
    (spectrum, *_) = SpectrumStream({"galah": stream_of(folder, "a")})
    assert (spectrum.survey, spectrum.medium) == ("galah", "air")


# The Multimodal Universe --------------------------------------------------------------------------


def stream_universe(spectra, folder, layout, **options):
    """A stream over small copies of the Multimodal Universe, by survey."""
    sources = {}
    for survey, own in spectra.items():
        files = list(map(str, write_universe(own, folder / survey, generation=layout)))
        cache = str(folder / "cache")
        sources[survey] = datasets.load_dataset(
            "parquet", data_files=files, split="train", streaming=True, cache_dir=cache
        )
    return SpectrumStream(sources, **options)


def simulate_vipers():
    axis, rng = 5514.28 + 7.14 * np.arange(557), np.random.default_rng(3)
    return [Spectrum(rng.normal(1, 0.3, 557), axis, np.full(557, 16.0), survey="vipers", medium="air", object_id="7")]


@pytest.mark.parametrize("generation", ["preview", "hats"])
def test_known_errors_are_corrected_in_a_stream(generation, tmp_path):
    spectra = {"desi": simulate_survey("desi", 2), "sdss": simulate_survey("sdss", 2), "vipers": simulate_vipers()}
    spectra |= {"galah": simulate_survey("galah", 1)} if generation == "preview" else {}
    for number, spectrum in enumerate(spectra["desi"] + spectra["sdss"]):
        spectrum.labels["zwarn"] = number % 2
    found = [*stream_universe(spectra, tmp_path, generation, generation=generation)]
    assert len(found) == sum(map(len, spectra.values()))
    for survey, own in spectra.items():
        for source in own:
            (spectrum,) = [s for s in found if (s.survey, s.object_id) == (survey, source.object_id)]
            good = source.good & (source.flux > 0) if survey == "galah" else source.good
            np.testing.assert_array_equal(spectrum.good, good)
            np.testing.assert_allclose(spectrum.wavelength, source.wavelength, rtol=0, atol=2.5e-4)
            np.testing.assert_allclose(spectrum.ivar[good], source.ivar[good], rtol=1e-6)
            assert spectrum.medium == source.medium and spectrum.labels.get("zwarn") == source.labels.get("zwarn")


def test_a_stream_of_uncorrected_rows_gives_a_warning(tmp_path):
    for survey, own in (("galah", simulate_survey("galah", 1)), ("vipers", simulate_vipers())):
        with pytest.warns(UserWarning, match=rf"{survey.upper()} as the .*generation= to SpectrumStream"):
            list(stream_universe({survey: own}, tmp_path, "preview"))


@pytest.mark.parametrize(
    ("surveys", "generation", "message"),
    [
        (["desi"], "v1", "generation must be one of preview, hats, found 'v1'"),
        (["desi", "lamost"], "hats", "of sdss, .*vipers, found lamost: pass sources as"),
    ],
)
def test_a_stream_corrects_what_it_knows_only(surveys, generation, message, folder):
    with pytest.raises(ValueError, match=message):
        SpectrumStream({survey: stream_of(folder, "a") for survey in surveys}, generation=generation)


def test_surveys_are_mixed_by_weight_without_an_end(folder):
    drawn = Counter()
    for number, spectrum in enumerate(make_stream(folder, [3, 1], buffer_size=4)):
        drawn[spectrum.object_id] += 1
        if number == 399:
            break
    of_first = sum(count for name, count in drawn.items() if name.startswith("a"))
    assert 260 < of_first < 340
    counts = [drawn[name] for name in EVERY_ID if name.startswith("a")]
    assert max(counts) - min(counts) <= 2  # pass after pass, none left out


def test_surveys_and_files_take_turns(folder):
    found = identifiers(make_stream(folder, buffer_size=16))
    assert {name[0] for name in found[:12]} == {"a", "b"}
    numbers = [int(name[2:]) for name in found if name.startswith("b")]
    assert numbers != sorted(numbers)


def test_order_follows_seed_and_epoch_alone(folder):
    def order(epoch=0, **options):
        stream = make_stream(folder, buffer_size=8, **options)
        stream.set_epoch(epoch)
        return tuple(identifiers(stream))

    assert order() == order()
    assert len({order(), order(epoch=1), order(seed=1)}) == 3


def test_workers_that_stay_see_the_epoch(folder):
    stream = make_stream(folder, buffer_size=8)
    loader = DataLoader(
        stream, batch_size=None, num_workers=1, persistent_workers=True, collate_fn=lambda spectrum: spectrum.object_id
    )
    first = list(loader)
    stream.set_epoch(1)
    assert list(loader) != first
    stream.set_epoch(0)
    assert list(loader) == first


# Shared by processes and workers ------------------------------------------------------------------


def batches_of(stream, process, processes, batch_size, count, workers=0, skip=0):
    """The first batches of one process, as (identifier, number)."""
    stream.distribute(process, processes, batch_size)
    stream.skip_batches(skip)
    loader = DataLoader(
        stream,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=lambda visits: [(visit.what.object_id, visit.number) for visit in visits],
    )
    return list(itertools.islice(loader, count))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("weights", [None, [3, 1]])
@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (2, 0), (2, 1), (4, 0), (1, 3), (2, 3)])
def test_a_training_sees_the_same_whatever_the_processes_and_workers(processes, workers, lanes, weights, folder):
    options = {"lanes": lanes, "turn": 2, "buffer_size": 12}
    expected = batches_of(make_stream(folder, weights, **options), 0, 1, 8, 9)
    size = 8 // processes
    parts = [
        batches_of(make_stream(folder, weights, **options), process, processes, size, 9, workers)
        for process in range(processes)
    ]
    for step, batch in enumerate(expected):
        assert list(itertools.chain.from_iterable(part[step] for part in parts)) == batch
    assert [number for batch in expected for _, number in batch] == list(range(72))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_training_is_gone_on_with_where_it_was_left(workers, folder):
    whole = batches_of(make_stream(folder, lanes=2), 1, 2, 4, 10, workers)
    assert batches_of(make_stream(folder, lanes=2), 1, 2, 4, 6, workers, skip=4) == whole[4:]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_spectrum_of_an_epoch_is_seen_once_by_all_processes_together(processes, folder):
    stream = make_stream(folder, lanes=1)
    seen = [batches_of(stream, process, processes, 1, -(-2 * 46 // processes)) for process in range(processes)]
    in_order = sorted((number, name) for part in seen for batch in part for name, number in batch)
    names = [name for _, name in in_order]
    assert sorted(names[:46]) == sorted(names[46:92]) == EVERY_ID
    assert names[:46] != names[46:92]


def test_processes_with_lanes_of_their_own_read_their_files_only(folder, monkeypatch):
    opened = []
    read_shard = streaming._read_shard
    monkeypatch.setattr(streaming, "_read_shard", lambda part: opened.append(part) or read_shard(part))
    stream = SpectrumStream([stream_of(folder, "a")], lanes=4, turn=4)
    for process in (0, 1):
        opened.clear()
        batches_of(stream, process, 2, 4, 2)
        assert len(opened) == 2  # of four


def test_lanes_without_rows_are_named(folder):
    few = stream_of(folder, "a").filter(lambda row: row["object_id"] == "a-3")
    stream = SpectrumStream([few], lanes=4, turn=1)
    with pytest.raises(ValueError, match=r"lane \d of 4 has no rows: pass fewer lanes, or more data"):
        batches_of(stream, 0, 1, 4, 2)


def test_objects_are_held_out_by_their_identifiers(folder):
    parts = {part: set(identifiers(make_stream(folder, held_out=0.3, part=part))) for part in ("train", "held out")}
    assert sorted(parts["train"] | parts["held out"]) == EVERY_ID and not parts["train"] & parts["held out"]
    assert 5 <= len(parts["held out"]) <= 23
    again = make_stream(folder, held_out=0.3, part="held out", seed=8, lanes=1)
    assert set(identifiers(again)) == parts["held out"]
    nameless = datasets.Dataset.from_list([{"flux": [1.0, 2], "lambda": [5000.0, 5001], "ivar": [1.0, 1]}])
    with pytest.raises(ValueError, match="must have an object_id in every row to hold objects out by"):
        list(SpectrumStream([nameless.to_iterable_dataset()], held_out=0.5))


def test_a_collator_takes_the_stream(folder):
    loader = DataLoader(
        make_stream(folder), batch_size=10, collate_fn=DataCollatorForPackedSpectra(SpectrumProcessor(), hide="runs")
    )
    batches = list(loader)
    assert [len(batch["scale"]) for batch in batches] == [10, 10, 10, 10, 6]
    assert all(torch.isfinite(batch["flux"]).all() for batch in batches)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [1]}, r"every source needs one positive weight, found \[1\] for 2 sources"),
        ({"weights": [1, 0]}, r"every source needs one positive weight, found \[1, 0\]"),
        ({"buffer_size": 0}, "buffer_size must be at least 1, found 0"),
        ({"lanes": 0}, "lanes must be at least 1, found 0"),
        ({"held_out": 1}, "held_out must be a share, at least 0 and below 1, found 1"),
        ({"part": "held out"}, 'part="held out" needs a share, found held_out=0'),
        ({"part": "test"}, "part must be one of train, held out, found 'test'"),
        ({"generation": "v9"}, "generation must be one of"),
        ({"generation": "hats"}, "generation= needs to know the surveys"),
    ],
)
def test_bad_arguments_are_named(change, message, folder):
    with pytest.raises(ValueError, match=message):
        make_stream(folder, **change)


def test_what_is_no_stream_is_refused():
    with pytest.raises(ValueError, match="at least one streaming dataset"):
        SpectrumStream([])
    whole = datasets.Dataset.from_list([{"flux": [1.0]}])
    with pytest.raises(ValueError, match=r"found Dataset: use load_dataset\(..., streaming=True\)"):
        SpectrumStream([whole])


def test_rows_without_a_spectrum_are_named():
    source = datasets.Dataset.from_list([{"flux": [1.0, 2.0], "lambda": [5000.0, 5001.0]}]).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"source 'sdss', row 0 of its lane's pass: pass exactly one of ivar="):
        list(SpectrumStream({"sdss": source}))
    numbers = datasets.Dataset.from_list([{"flux": 1.0}]).to_iterable_dataset()
    with pytest.raises(ValueError, match="a row must hold a spectrum, found columns flux of numbers"):
        list(SpectrumStream([numbers]))


def test_a_source_without_rows_cannot_go_on_for_ever(folder):
    empty = stream_of(folder, "a").filter(lambda row: False)
    with pytest.raises(ValueError, match="source 0 must have rows for each of 4 lanes, found none"):
        list(SpectrumStream([empty], [1]))
    assert list(SpectrumStream([empty])) == []


@pytest.mark.parametrize("cut", ["take", "skip"])
def test_a_dataset_cut_over_its_shards_is_refused(cut):
    rows = [{"spectrum": {"flux": [1.0], "ivar": [1.0], "lambda": [5000.0]}, "object_id": str(n)} for n in range(20)]
    whole = datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=4)
    with pytest.raises(ValueError, match=f"{cut} of a dataset takes other rows of each shard"):
        SpectrumStream([getattr(whole, cut)(7)])
    with pytest.raises(ValueError, match=f"{cut} of a dataset"):
        SpectrumStream([getattr(whole, cut)(7).map(lambda row: row)])
    SpectrumStream([getattr(datasets.Dataset.from_list(rows).to_iterable_dataset(), cut)(7)])
