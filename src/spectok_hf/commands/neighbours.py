"""Commands that compare spectra: an index of many, what in it is like a spectrum, what is odd among many."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    DEFAULT,
    Device,
    Json,
    Model,
    Quiet,
    Replace,
    Sources,
    Strict,
    Survey,
    check_free,
    given_sources,
    load_encoder,
    read_entries,
    say,
    say_skipped,
    show_rows,
)

INDEX_FILE = "index.json"  # by which a folder is known as an index
HELD = 3000  # spectra that are in memory at a time
REFERENCES = 1000  # of each survey, drawn from more
SHOWN = 10


def index(
    sources: Sources,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write the index.")],
    model: Model = DEFAULT,
    tokens: Annotated[bool, typer.Option("--tokens", help="Keep tokens: needed by search --window.")] = False,
    flux: Annotated[bool, typer.Option(help="Keep flux, for pictures.")] = True,
    survey: Survey = None,
    device: Device = None,
    strict: Strict = False,
    overwrite: Replace = False,
    quiet: Quiet = False,
) -> None:
    """Make an index of spectra, which search asks what is alike. Of embeddings in millions: see docs/search.md."""
    from ..analysis.search_rows import check_place

    if output.exists() and not overwrite:
        raise ValueError(f"{output} is there already: pass --overwrite to replace an index, or another name")
    check_place(output, overwrite=overwrite)  # before the work, not after it
    encoder = load_encoder(model, device)
    made = _build(encoder, _read(given_sources(sources), survey, strict, quiet), tokens=tokens, keep_flux=flux)
    made.save(output, overwrite=overwrite)
    say(f"{output}: {made!r}")


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A file, simulate:..., or with --id an id.")],
    among: Annotated[
        list[str],
        typer.Argument(metavar="INDEX", help="A folder that index wrote; or sources, which are encoded now."),
    ],
    by_id: Annotated[bool, typer.Option("--id", help="QUERY is the id of a spectrum of the index.")] = False,
    count: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = SHOWN,
    window: Annotated[
        tuple[float, float] | None, typer.Option(help="Compare only these wavelengths, from and to, in Å.")
    ] = None,
    row: Annotated[int, typer.Option(min=0, help="Which spectrum of the file.")] = 0,
    picture: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the query above its neighbours.")
    ] = None,
    model: Model = DEFAULT,
    survey: Survey = None,
    device: Device = None,
    overwrite: Replace = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the spectra of an index that are most like one; the nearest comes first."""
    from .looking import check_picture, read_one

    if picture is not None:
        check_picture(picture, overwrite)
    if not by_id and (Path(query).expanduser() / INDEX_FILE).is_file():
        raise ValueError(f"{query} is an index, and the query comes first: spectok search QUERY {query}")
    encoder = load_encoder(model, device)
    where = _open(among, encoder, survey, quiet, tokens=window is not None)
    asked: dict[str, Any] = {"id": query} if by_id else {"query": read_one(query, row, survey)}
    found = where.search(**asked, k=count, window=window)
    if not len(found):
        say("nothing else in the index can be compared with it")
    table = found.to_pandas()
    shown = table if as_json else table.dropna(axis=1, how="all")  # labels that none of these has
    show_rows(shown.to_dict("records"), as_json=as_json)
    if picture is not None:
        axes = found.plot(most=min(count, 5))
        axes.figure.savefig(picture, dpi=150)
        say(f"wrote {picture}")


def outliers(
    sources: Sources,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The ranked table. Left out: the first on the screen."),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="What is normal; repeat it for more.", show_default="the sources"),
    ] = None,
    model: Model = DEFAULT,
    most: Annotated[int, typer.Option(min=1, help="Rows on the screen.")] = SHOWN,
    seed: Annotated[int, typer.Option(help="Of the references that are drawn from many.")] = 0,
    survey: Survey = None,
    device: Device = None,
    strict: Strict = False,
    overwrite: Replace = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Rank spectra by how odd they are among others of their survey and S/N: residuals, and distances of embeddings.

    Each survey needs 60 references. p is the share of normal spectra that are as odd.
    """
    from ..analysis.outliers import OutlierDetector
    from ..inference.table_files import check_format

    if output is not None:
        check_format(output)
        check_free(output, overwrite)
    detector = OutlierDetector(load_encoder(model, device))
    given = given_sources(sources)
    rows, skipped = _rank(detector, given, reference or [], survey, strict, quiet, seed)
    say_skipped(skipped, len(skipped), None)
    if output is not None:
        _write(rows, output)
        say(f"{output}: {len(rows):,} spectra, the oddest first")
    if output is None or as_json:
        chosen = rows if as_json else rows[:most]
        show_rows(chosen if as_json else [_brief(one) for one in chosen], as_json=as_json)


# Reading ------------------------------------------------------------------------------------------


def _read(sources: Sequence[str], survey: str | None, strict: bool, quiet: bool) -> list[Any]:
    """The spectra of sources; what cannot be read is named."""
    skipped: list[dict[str, Any]] = []
    spectra = []
    for entry in read_entries(sources, survey, strict=strict, what="reading", quiet=quiet):
        if entry.spectrum is None:
            skipped.append(_lost(entry))
        else:
            spectra.append(entry.spectrum)
    say_skipped(skipped, len(skipped), None)
    if not spectra:
        raise ValueError(f"none of the sources can be read ({len(skipped)} failed)")
    return spectra


def _lost(entry: Any) -> dict[str, Any]:
    return {"source": entry.source, "row": entry.row, "reason": entry.reason}


def _build(encoder: Any, spectra: Sequence[Any], **options: Any) -> Any:
    """An index whose ids are those of the objects; a second spectrum of one is called "...#2"."""
    from ..analysis.search import SpectrumIndex

    seen: Counter[str] = Counter()
    ids = []
    for number, spectrum in enumerate(spectra):
        name = spectrum.object_id or f"spectrum {number}"
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    made = SpectrumIndex.build(encoder, list(spectra), ids=ids, on_invalid="skip", **options)
    if lost := sorted(set(ids) - set(made.ids)):
        say(f"left out {len(lost):,} without a valid patch: {', '.join(lost[:SHOWN])}{', ...' * (len(lost) > SHOWN)}")
    return made


def _open(among: list[str], encoder: Any, survey: str | None, quiet: bool, *, tokens: bool) -> Any:
    """An index that is there, or one of sources that are read now."""
    from ..analysis.search import SpectrumIndex

    folder = Path(among[0]).expanduser()
    if len(among) == 1 and (folder / INDEX_FILE).is_file():
        return SpectrumIndex.load(folder, encoder=encoder)
    return _build(encoder, _read(given_sources(among), survey, False, quiet), tokens=tokens)


# Ranking ------------------------------------------------------------------------------------------


def _rank(
    detector: Any,
    sources: list[str],
    references: list[str],
    survey: str | None,
    strict: bool,
    quiet: bool,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows, the oddest first, and what cannot be read; some thousand spectra are in memory."""
    held, skipped = _first(sources, survey, strict, quiet)
    if not references and held is not None:
        if not held:
            raise ValueError(f"none of the sources can be read ({len(skipped)} failed)")
        return _named(detector.rank([entry.spectrum for entry in held]), held), skipped
    sample = _sample(references or sources, survey, strict, quiet, seed)
    detector.fit(sample if references else _of_enough(sample))
    rows: list[dict[str, Any]] = []
    skipped = []
    window: list[Any] = []
    for entry in read_entries(sources, survey, strict=strict, what="ranking", quiet=quiet):
        if entry.spectrum is None:
            skipped.append(_lost(entry))
            continue
        window.append(entry)
        if len(window) == HELD // 4:
            rows += _named(detector.rank([one.spectrum for one in window]), window)
            window = []
    if window:
        rows += _named(detector.rank([one.spectrum for one in window]), window)
    if not rows:
        raise ValueError(f"none of the sources can be read ({len(skipped)} failed)")
    return sorted(rows, key=lambda one: -one["score"] if one["score"] == one["score"] else float("inf")), skipped


def _first(
    sources: list[str], survey: str | None, strict: bool, quiet: bool
) -> tuple[list[Any] | None, list[dict[str, Any]]]:
    """All entries with a spectrum, or None where they are more than are held; and what cannot be read."""
    held: list[Any] = []
    skipped = []
    for entry in read_entries(sources, survey, strict=strict, what="reading", quiet=quiet):
        if entry.spectrum is None:
            skipped.append(_lost(entry))
        else:
            held.append(entry)
        if len(held) > HELD:
            return None, []
    return held, skipped


def _sample(sources: list[str], survey: str | None, strict: bool, quiet: bool, seed: int) -> list[Any]:
    """At most `REFERENCES` spectra of each survey, all with the same chance; what cannot be read is named."""
    import numpy as np

    rng = np.random.default_rng(seed)
    skipped: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    kept: dict[str, list[Any]] = {}
    for entry in read_entries(sources, survey, strict=strict, what="reading references", quiet=quiet):
        spectrum = entry.spectrum
        if spectrum is None:
            skipped.append(_lost(entry))
            continue
        if not spectrum.good.any():
            continue
        name = spectrum.survey or "unnamed"
        seen[name] += 1
        place = len(kept.setdefault(name, [])) if seen[name] <= REFERENCES else int(rng.integers(seen[name]))
        if place == len(kept[name]) < REFERENCES:
            kept[name].append(spectrum)
        elif place < REFERENCES:
            kept[name][place] = spectrum
    say_skipped(skipped, len(skipped), None)
    if not kept:
        raise ValueError(f"none of the references can be used: {len(skipped)} cannot be read, the others are all bad")
    return [spectrum for spectra in kept.values() for spectrum in spectra]


def _of_enough(spectra: list[Any]) -> list[Any]:
    """Those of surveys that can be their own references; all where there are none, for the message."""
    from ..analysis.outliers import LEAST_REFERENCES

    counts = Counter(one.survey for one in spectra)
    return [one for one in spectra if counts[one.survey] >= LEAST_REFERENCES] or spectra


def _named(rows: list[dict[str, Any]], entries: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows with the source of each in the place of its number."""
    named = []
    for row in rows:
        entry = entries[row.pop("index")]
        named.append({"source": entry.source, "row": entry.row} | row)
    return named


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row is worth a place on the screen."""
    shown = {name: row[name] for name in ("survey", "object_id", "score", "p", "wavelength", "reason")}
    return {"source": Path(row["source"]).name} | shown


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ..inference.table_files import REASON, PartsTable, write_table

    said = [{"why" if name == REASON else name: value for name, value in row.items()} for row in rows]
    table = pa.Table.from_pylist(said).append_column(REASON, pa.nulls(len(rows), pa.string()))
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "rows.parquet")
        pq.write_table(table, part)
        write_table(PartsTable([part]), path)


__all__ = ["index", "outliers", "search"]
