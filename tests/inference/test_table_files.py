"""One table file from many parts: every format holds what the parts hold."""

import csv
import json

import numpy as np
import pytest

from spectok_hf.inference.table_files import PartsTable, check_format, json_line, write_skipped, write_table

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FIXED = pa.list_(pa.float32(), 3)
SCHEMA = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("object_id", pa.string()),
        pa.field("embedding", FIXED),
        pa.field("teff", pa.float32(), metadata={"unit": "K"}),
        pa.field("feh", pa.float32(), metadata={"unit": "dex"}),
        pa.field("zwarn", pa.int32()),
        pa.field("good", pa.bool_()),
        pa.field("wavelength", pa.float64()),
        pa.field("reason", pa.string()),
    ]
)
LISTS = [
    pa.field("flux", pa.list_(pa.float32())),
    pa.field("mask", pa.list_(pa.bool_())),
    pa.field("tokens", pa.list_(FIXED)),
]
NAMES = ["Sirius β ☆🌟", "4611686018427387904", "0266-51602-0107", None, "x" * 400, "a,b\n\"c'd"]


def rows(lists=False):
    made = []
    for number, name in enumerate([*NAMES, "lost"]):
        row = {"source": f"{name} file.fits", "row": 2**40 + number, "object_id": name, "embedding": None}
        row |= {"teff": 5000.5 + number, "feh": np.nan, "zwarn": None, "good": number % 2 == 0, "wavelength": 0.1}
        row |= {"embedding": [number, 0.1, -1e-30], "reason": None}
        row |= {"zwarn": number} if number else {}
        if lists:
            row |= {"flux": [1.5] * (number + 1), "mask": [True] * (number + 1), "tokens": [[1, 2, number]] * number}
        made.append(row | ({"reason": "too faint, alas"} if name == "lost" else {}))
    return made


@pytest.fixture
def parts(tmp_path):
    """Three files, one of them of no row, one of them of a row without an answer alone."""

    def make(lists=False):
        schema = pa.schema([*SCHEMA, *LISTS]) if lists else SCHEMA
        made = rows(lists)
        paths = []
        for number, some in enumerate([made[:4], [], made[6:], made[4:6]]):
            paths.append(tmp_path / f"part-{number}.parquet")
            pq.write_table(pa.Table.from_pylist(some, schema=schema), paths[-1], row_group_size=3)
        return PartsTable(paths)

    return make


EXPECTED = [{name: value for name, value in row.items() if name != "reason"} for row in rows()[:6]]


def check(found, expected=EXPECTED):
    assert len(found) == len(expected)
    for one, row in zip(found, expected, strict=True):
        for name in ("source", "row", "object_id", "zwarn", "good"):
            assert one[name] == row[name], name
        np.testing.assert_array_equal(np.asarray(one["embedding"], np.float32), np.float32(row["embedding"]))
        assert float(one["teff"]) == row["teff"] and float(one["wavelength"]) == row["wavelength"]


def test_parquet_keeps_types_and_units(parts, tmp_path):
    assert write_table(parts(), tmp_path / "table.parquet") == 6
    found = pq.read_table(tmp_path / "table.parquet")
    check(found.to_pylist())
    assert "reason" not in found.column_names and found.schema.field("embedding").type == FIXED
    assert found.schema.field("teff").metadata == {b"unit": b"K"}


def test_csv_has_a_column_per_number_and_text_that_stays_text(parts, tmp_path):
    assert write_table(parts(), tmp_path / "table.csv") == 6
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["object_id"] for row in found] == [name or "" for name in NAMES]
    for one, row in zip(found, EXPECTED, strict=True):
        vector = [np.float32(float(one[f"embedding_{number}"])) for number in range(3)]
        assert vector == np.float32(row["embedding"]).tolist() and int(one["row"]) == row["row"]
        assert (
            one["zwarn"] == ("" if row["zwarn"] is None else str(row["zwarn"])) and float(one["teff"]) == row["teff"]
        )
    with pytest.raises(ValueError, match=r"cannot hold flux, whose length changes.*\.fits"):
        write_table(parts(lists=True), tmp_path / "lists.csv")
    assert not list(tmp_path.glob("*lists*"))


def test_json_lines_are_json(parts, tmp_path):
    assert write_table(parts(lists=True), tmp_path / "table.jsonl") == 6
    found = [
        json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "table.jsonl").read_bytes().splitlines()
    ]
    check(found)
    assert found[1]["feh"] is None and found[2]["flux"] == [1.5] * 3 and found[2]["tokens"] == [[1, 2, 2]] * 2
    assert json_line({"a": np.float32(0.5), "b": [np.nan, np.int64(2)], "c": np.array([1.0]), 3: None}) == (
        '{"a": 0.5, "b": [null, 2], "c": [1.0], "3": null}'
    )


def escaped(name):
    return (name or "").encode("ascii", "backslashreplace").decode()


def test_fits_is_what_astropy_reads(parts, tmp_path):
    fits, table = pytest.importorskip("astropy.io.fits"), pytest.importorskip("astropy.table")
    path = tmp_path / "table.fits"
    assert write_table(parts(lists=True), path) == 6
    assert path.stat().st_size % 2880 == 0
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SPECTRA"] and len(hdus[1].data) == 6
    found = table.Table.read(path)
    assert str(found["teff"].unit) == "K" and found["feh"].unit is None
    assert found["embedding"].shape == (6, 3) and found["flux"].shape == (6, 6) and found["tokens"].shape == (6, 5, 3)
    for at, (one, row) in enumerate(zip(found, rows(lists=True), strict=False)):
        named = "" if one["object_id"] is np.ma.masked else one["object_id"]  # so astropy has an empty text
        assert named == escaped(row["object_id"]) and one["source"] == escaped(row["source"])
        assert one["row"] == row["row"] and bool(one["good"]) == row["good"]
        assert (one["zwarn"] is np.ma.masked) if row["zwarn"] is None else one["zwarn"] == row["zwarn"]
        np.testing.assert_array_equal(one["embedding"], np.float32(row["embedding"]))
        assert one["teff"] == row["teff"] and one["wavelength"] == row["wavelength"]
        flux, tokens = np.ma.filled(one["flux"], np.nan), np.ma.filled(one["tokens"], np.nan)
        assert (flux[: at + 1] == 1.5).all() and np.isnan(flux[at + 1 :]).all()
        assert (tokens[:at] == [1, 2, at]).all() and np.isnan(tokens[at:]).all()
        assert np.asarray(one["mask"]).tolist() == [True] * (at + 1) + [False] * (5 - at)


def test_rows_without_an_answer_are_listed(parts, tmp_path):
    path = tmp_path / "table.csv.skipped.csv"
    first = write_skipped(parts(), path)
    expected = {"source": "lost file.fits", "row": 2**40 + 6, "object_id": "lost", "reason": "too faint, alas"}
    assert first == [expected]
    with path.open(newline="") as file:
        assert list(csv.DictReader(file)) == [expected | {"row": str(2**40 + 6)}]
    pq.write_table(pa.Table.from_pylist(rows()[:2], schema=SCHEMA), tmp_path / "good.parquet")
    assert write_skipped(PartsTable([tmp_path / "good.parquet"]), path) == [] and not path.exists()


def test_names_that_say_no_format_are_refused(tmp_path):
    for name in ("table", "table.txt", "table.h5"):
        with pytest.raises(ValueError, match=r"must end in \.parquet, \.csv, \.fits, \.jsonl"):
            check_format(tmp_path / name)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ValueError, match="found a folder"):
        check_format(tmp_path / "folder.parquet")
    check_format(tmp_path / "TABLE.CSV")
    with pytest.raises(ValueError, match="at least one part"):
        PartsTable([])
