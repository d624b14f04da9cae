"""`SpectrumIndex`: which spectra are like this one, among thousands or millions, by what a checkpoint says of them."""

import json
import operator
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.domain import OutOfDomainWarning
from ..data.spectrum_side import check_tokens, other_reading, reading_of, reads_pictures
from ..data.whole_files import write_arrays
from ..models.spectrum import Spectrum, check_choice
from .neighbours import Neighbours
from .search_metric import (
    LEAST_SHARE,
    OF_TOKENS,
    Metric,
    at_wavelengths,
    covered_share,
    fit_embedded,
    fit_metric,
    made_for_angles,
    of_encoder,
    unless_gap,
    vectors_of,
)
from .search_rows import (
    ABOUT,
    ARRAYS,
    FORMAT,
    HEAVY,
    OWN,
    ROWS,
    TokenRow,
    as_list,
    card,
    check_ids,
    check_place,
    drawn,
    exact_nearest,
    facts,
    finite,
    matrix,
    measured,
    names_of,
    no_progress_bars,
    read_embedded,
    read_index,
    token_rows,
    without,
)

BACKENDS = ("auto", "exact", "faiss")
MOST_EXACT = 1_000_000  # rows
MOST_NODES = 256  # of a window


class SpectrumIndex:
    """Spectra that can be asked which of them are like another one.

    Made by `build`, `from_embeddings` or `load`.

    Args:
        rows: One row per spectrum: `id`, `object_id`, `survey`, labels, and as far as they are kept `embedding`,
            `vector` (in the space of the metric), `tokens` with `token_wavelength` (Å), `flux` with `wavelength` (Å).
        metric: What "alike" means.
        about: `checkpoint` and `fingerprint` of the encoder, and the settings of its `processor`; those of an index
            that was made before they were kept are not known, and its pictures have wavelengths as they were read.
        encoder: The encoder, for queries by spectrum.
        backend: "exact", "faiss", or "auto": exact to a million rows.
    """

    def __init__(
        self,
        rows: Dataset,
        metric: Metric,
        about: Mapping[str, Any],
        *,
        encoder: Any = None,
        backend: str = "auto",
    ):
        check_choice("backend", backend, BACKENDS)
        self.rows, self.about, self.backend = rows, dict(about), backend
        self.metric = of_encoder(metric, self.about)
        self.about["fingerprint"] = self.metric.fingerprint
        self.ids = check_ids(rows["id"])
        self._place = {one: place for place, one in enumerate(self.ids)}
        self._vectors = matrix(rows, "vector")
        self._by_embedding: tuple[Metric, np.ndarray] | None = None
        self._encoder = None
        if encoder is not None:
            self.encoder = encoder

    # Making ---------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        encoder: Any,
        spectra: Any,
        *,
        ids: Sequence[str] | None = None,
        metric: str | Metric = "auto",
        tokens: bool = False,
        keep_flux: bool = True,
        backend: str = "auto",
        on_invalid: str = "raise",
        seed: int = 0,
    ) -> "SpectrumIndex":
        """An index of spectra.

        Args:
            encoder: A `SpectrumEncoder`.
            spectra: What `read_spectra` takes, or a list of spectra.
            ids: A name of each that no other has; None = their object_id.
            metric: "noise", which encodes each spectrum a few times more with noise added (see
                `search_metric.noise_metric`); "profile"; "embedding"; "cosine"; the metric of another index of the
                same checkpoint; or "auto": "cosine" of an AstroCLIP, so that images find spectra, "embedding" of a
                model of pictures, which has no tokens for the first two, else "noise" from 3 spectra on.
            tokens: Whether to keep tokens: needed to search in a window.
            keep_flux: Whether to keep flux, for pictures.
            backend: "exact", "faiss", or "auto": exact to a million rows.
            on_invalid: What to do about spectra without a valid patch: "raise" or "skip".
            seed: Seed of the noise that is added.

        Raises:
            ValueError: If ids repeat or are missing, a spectrum has no valid patch, or the metric is of another
                encoder, says nothing of the spectra, or reads tokens that there are none of.
        """
        check_choice("on_invalid", on_invalid, ("raise", "skip"))
        wanted = metric.name if isinstance(metric, Metric) else metric
        if tokens or wanted in OF_TOKENS:
            instead = 'leave tokens=True out, and pass metric="embedding" or "cosine"'
            check_tokens(encoder.processor, encoder.name, "an index of tokens", instead)
        found = as_list(spectra)
        names = names_of(found, ids)
        kept, sequences, embeddings = _encoded(encoder, found, "mask" if on_invalid == "skip" else "raise")
        found, names = [found[place] for place in kept], [names[place] for place in kept]
        if not isinstance(metric, Metric):
            metric = fit_metric(metric, encoder, found, sequences, embeddings, seed=seed)
        about = {"checkpoint": encoder.name, "fingerprint": encoder.fingerprint}
        about["processor"] = reading_of(encoder.processor)
        chosen = of_encoder(metric, about)
        vectors = vectors_of(chosen, sequences, embeddings, names)
        columns: dict[str, Any] = {"id": names, **facts(found)}
        columns |= {"embedding": list(embeddings), "vector": list(vectors)}
        if tokens and sequences is not None:
            columns["tokens"] = [one.values.astype(np.float32) for one in sequences]
            columns["token_wavelength"] = [one.wavelength.astype(np.float32) for one in sequences]
        if keep_flux:
            columns["flux"] = [np.where(one.good, one.flux, np.nan).astype(np.float32) for one in found]
            columns["wavelength"] = [one.wavelength.astype(np.float32) for one in found]
        return cls(Dataset.from_dict(columns), chosen, about, encoder=encoder, backend=backend)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Any,
        ids: Sequence[str] | None = None,
        metadata: Mapping[str, Sequence[Any]] | None = None,
        *,
        metric: str | Metric = "auto",
        checkpoint: str | None = None,
        fingerprint: str | None = None,
        backend: str = "auto",
    ) -> "SpectrumIndex":
        """An index of embeddings that were made before.

        The "noise" metric needs spectra to be measured on: pass the one of an index that was built from some
        (`metric=other.metric`) where the files hold tokens; else tokens, or embeddings, are compared by their angle.

        Args:
            embeddings: Shape (n, d); or a Parquet file, or a folder of them, that `spectok embed` wrote; rows without
                an embedding are left out.
            ids: A name of each; None = the files' object_id.
            metadata: Further columns, such as `survey` and labels, by name, n values each; not `id`, `embedding` or
                `vector`.
            metric: "profile", "embedding", "cosine", the metric of another index of the same checkpoint; or "auto":
                "profile" where there are tokens, else "embedding". Those of an AstroCLIP want "cosine": by
                "embedding" spectra do not find images, nor images spectra.
            checkpoint: The name of the encoder; None = what the folder says.
            fingerprint: Its `fingerprint`, with which queries are held to be of the same encoder; None = what the
                folder says, else nothing is compared.
            backend: As for `build`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If shapes disagree, a number is not finite, ids repeat or are missing, the metric needs what is
                not there, or is of another encoder.
        """
        if isinstance(embeddings, str | Path):
            columns, about = read_embedded(Path(embeddings))
        else:
            columns, about = {"embedding": list(finite(embeddings))}, {}
        count = len(columns["embedding"])
        columns["id"] = list(columns.get("object_id", []) if ids is None else ids)
        more = {name: list(values) for name, values in ({} if metadata is None else metadata).items()}
        if taken := [name for name in OWN if name in more]:
            raise ValueError(f"metadata must not hold {', '.join(taken)}, which an index has of its own: rename them")
        columns |= more
        wrong = {name: len(values) for name, values in columns.items() if len(values) != count}
        if wrong:
            raise ValueError(f"{count} embeddings need as many ids and metadata, found {wrong}")
        columns["id"] = check_ids(columns["id"])
        vectors = np.stack(columns["embedding"])
        sequences = token_rows(columns) if "tokens" in columns else None
        chosen = metric if isinstance(metric, Metric) else fit_embedded(metric, vectors, sequences)
        if chosen.reads_tokens and sequences is None:
            raise ValueError(f'metric "{chosen.name}" compares tokens, and there are none: embed with tokens=True')
        said = {"checkpoint": checkpoint or about.get("checkpoint")}
        said["fingerprint"] = fingerprint or about.get("fingerprint")
        chosen = of_encoder(chosen, said)
        columns["vector"] = list(vectors_of(chosen, sequences, vectors, columns["id"]))
        order = ["id", *(name for name in columns if name != "id")]
        return cls(Dataset.from_dict({name: columns[name] for name in order}), chosen, said, backend=backend)

    @property
    def encoder(self) -> Any:
        """The encoder of queries by spectrum; None where none was set."""
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: Any) -> None:
        known = self.about.get("fingerprint")
        if known and encoder is not None and encoder.fingerprint != known:
            raise ValueError(
                f"the index was made by {self.about['checkpoint']} ({known[:12]}), and {encoder.name} "
                f"({encoder.fingerprint[:12]}) has other weights: load that one, or build the index anew"
            )
        if other := other_reading(self.about.get("processor"), getattr(encoder, "processor", None)):
            raise ValueError(
                f"the index was made by {self.about['checkpoint']}, and the processor of {encoder.name} reads spectra "
                f"otherwise, with {other}: set it alike, or build the index anew"
            )
        self._encoder, self._by_embedding = encoder, None

    @property
    def medium(self) -> str | None:
        """That of the checkpoint, "vacuum" or "air", in which windows and pictures are; None where it is not known."""
        return (self.about.get("processor") or {}).get("medium")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"SpectrumIndex({len(self):,} spectra, {self.about.get('checkpoint')}, metric {self.metric.name!r})"

    # Asking ---------------------------------------------------------------------------------------

    def search(
        self,
        query: Any = None,
        *,
        id: str | None = None,
        embedding: Any = None,
        k: int = 10,
        window: tuple[float, float] | None = None,
    ) -> Any:
        """The spectra of the index that are most like another one.

        Args:
            query: A spectrum, or several, whatever `read_spectra` takes: needs the encoder.
            id: A spectrum of the index in its place; it is left out itself.
            embedding: An embedding in its place, shape (d,), or several, shape (n, d): compared with those of the
                index by their angle, whatever the index's metric: the plain one where that is "cosine" or the encoder
                an AstroCLIP, else in the space where those of the index are of equal variance in all directions.
            k: How many; fewer where the index has no more.
            window: First and last wavelength of what is compared, in Å of the checkpoint's medium; None = all. Needs
                tokens in the index; spectra that do not reach across it, or have gaps in most of it, are left out.

        Returns:
            `Neighbours`; a list of them for several queries.

        Raises:
            ValueError: If not exactly one of query, id and embedding is given, an id is unknown, there is no encoder,
                the query has nothing in common with the index, or a window holds no token.
        """
        given = [name for name, value in (("query", query), ("id", id), ("embedding", embedding)) if value is not None]
        if len(given) != 1 or not _is_count(k):
            raise ValueError(
                f"search takes one of query, id and embedding, and a k of at least 1, found {given}, k={k}"
            )
        if window is not None and (len(window) != 2 or not window[0] < window[1]):
            raise ValueError(f"a window goes from a shorter to a longer wavelength in Å, found {tuple(window)}")
        if embedding is not None:
            if window is not None:
                raise ValueError("a window compares tokens, which an embedding has not: ask by spectrum or id")
            return self._by_vector(np.asarray(embedding, dtype=np.float32), k)
        if id is not None:
            place = self.place(id)
            found, distances = self._nearest_to(place, k, window)
            kept = [name for name in self.rows.column_names if name == "frame"]
            frames = [self.rows.select_columns(kept)[place]["frame"] if kept else None]
            return self._answer([self.ids[place]], found, distances, [self._drawn(place)], window, frames)[0]
        single, spectra = isinstance(query, Spectrum), as_list(query)
        answers = self._by_spectra(spectra, k, window)
        return answers[0] if single or (len(answers) == 1 and not isinstance(query, list)) else answers

    def place(self, id: str) -> int:
        """The row of an id.

        Args:
            id: The id.

        Raises:
            ValueError: If the index has no such id.
        """
        if str(id) not in self._place:
            raise ValueError(f"the index has no id {id!r}; its {len(self):,} ids begin {', '.join(self.ids[:3])}")
        return self._place[str(id)]

    def nearest_others(self, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """For every spectrum of the index the nearest others: what `search(id=...)` finds, for all at once.

        Args:
            k: How many.

        Returns:
            Rows, shape (n, k), and distances.
        """
        found, distances = self._find(self._vectors, k + 1)
        pairs = [without(*pair, row) for row, pair in enumerate(zip(found, distances, strict=True))]
        return np.stack([one[0][:k] for one in pairs]), np.stack([one[1][:k] for one in pairs])

    def _nearest_to(self, place: int, k: int, window: tuple[float, float] | None) -> tuple[list[Any], list[Any]]:
        if window is None:
            self._check_vector(self._vectors[place], self.ids[place])
            found, far = (one[0] for one in self._find(self._vectors[place : place + 1], k + 1))
        else:
            found, far = (one[0] for one in self._in_window([self._tokens(place)], k + 1, window))
        rows, far = without(found, far, place)
        return [rows[:k]], [far[:k]]

    def _by_vector(self, embedding: np.ndarray, k: int) -> Any:
        queries = finite(np.atleast_2d(embedding))
        if self._by_embedding is None:
            stored = matrix(self.rows, "embedding")
            metric = self.metric
            if metric.reads_tokens:
                name = "cosine" if made_for_angles(self.encoder) else "embedding"
                metric = fit_embedded(name, stored, None)
            self._by_embedding = metric, metric.vectors(stored)
        metric, vectors = self._by_embedding
        found, distances = exact_nearest(vectors, metric.vectors(queries), k)
        answers = self._answer(["embedding"] * len(queries), list(found), list(distances), [None] * len(queries))
        return answers[0] if embedding.ndim == 1 else answers

    def _by_spectra(self, spectra: list[Spectrum], k: int, window: tuple[float, float] | None) -> list[Neighbours]:
        if self.encoder is None:
            raise ValueError(
                f"a query by spectrum needs the encoder: index.encoder = SpectrumEncoder.from_pretrained("
                f"{self.about.get('checkpoint') or 'NAME'!r})"
            )
        if window is not None:
            found, distances = self._in_window(self.encoder.encode(spectra, output="tokens"), k, window)
        else:
            inputs = self.encoder.encode(spectra, output="tokens" if self.metric.reads_tokens else "embedding")
            vectors = self.metric.vectors(inputs)
            for one, vector in zip(spectra, vectors, strict=True):
                self._check_vector(vector, one.name)
            found, distances = self._find(vectors, k)
        own = [drawn(one.wavelength, np.where(one.good, one.flux, np.nan), one.medium, self.medium) for one in spectra]
        names, frames = [one.name for one in spectra], [one.frame for one in spectra]
        return self._answer(names, list(found), list(distances), own, window, frames)

    def _check_vector(self, vector: np.ndarray, name: str) -> None:
        if self.metric.reads_tokens and not vector.any():  # it would be like the mean of all
            raise ValueError(
                f"{name} has no wavelength in common with enough spectra of the index, and cannot be compared with "
                "them: pass another query, or build an index of spectra like it"
            )

    def _find(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self.backend == "exact" or (self.backend == "auto" and len(self) <= MOST_EXACT):
            return exact_nearest(self._vectors, queries, k)
        if "vector" not in self.rows.list_indexes():
            _import_faiss()
            with no_progress_bars():
                self.rows.add_faiss_index("vector")
        result = self.rows.search_batch("vector", np.ascontiguousarray(queries), k=min(4 * k, len(self)))
        found, distances = measured(self._vectors, queries, np.asarray(result.total_indices))  # those near a tie too
        return found[:, :k], distances[:, :k]

    def _in_window(self, queries: Sequence[Any], k: int, window: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """Nearest by the tokens inside a window: of spectra that reach across all of it."""
        if "tokens" not in self.rows.column_names:
            raise ValueError("a window compares tokens, and this index has none: build it with tokens=True")
        low, high = (float(edge) for edge in window)
        inside = [np.asarray(one.wavelength)[_within(one.wavelength, low, high)] for one in queries]
        if any(not len(wavelength) for wavelength in inside):
            raise ValueError(
                f"no token of the query lies between {low:g} and {high:g} Å: its tokens lie between "
                f"{min(np.min(one.wavelength) for one in queries):.0f} and "
                f"{max(np.max(one.wavelength) for one in queries):.0f} Å"
            )
        count = int(np.clip(max(len(wavelength) for wavelength in inside), 2, MOST_NODES))
        nodes = np.linspace(low, high, 2 * count + 1)[1::2]
        if any(covered_share(one, nodes) < LEAST_SHARE for one in queries):
            raise ValueError(f"most of {low:g} to {high:g} Å is a gap of the query: pass a narrower window")
        whitening = self.metric.arrays.get("token_noise")
        known = np.stack([unless_gap(self._tokens(place), nodes) for place in range(len(self))])
        asked = np.stack([at_wavelengths(one, nodes) for one in queries])
        if whitening is not None:
            known, asked = known @ whitening, asked @ whitening
        reach = np.flatnonzero(np.isfinite(known).all((1, 2)))
        if not len(reach) or not np.isfinite(asked).all():
            raise ValueError(f"no spectrum of the index and the query both reach across {low:g} to {high:g} Å")
        flat = known[reach].reshape(len(reach), -1)
        found, distances = exact_nearest(flat, asked.reshape(len(asked), -1), k)
        return reach[found], distances / np.sqrt(count)

    def _tokens(self, place: int) -> TokenRow:
        if "tokens" not in self.rows.column_names:
            raise ValueError("a window compares tokens, and this index has none: build it with tokens=True")
        row = self.rows.select_columns(["tokens", "token_wavelength"])[place]
        return TokenRow(np.asarray(row["tokens"]), np.asarray(row["token_wavelength"]))

    def _drawn(self, place: int) -> tuple[np.ndarray, np.ndarray] | None:
        if "flux" not in self.rows.column_names:
            return None
        names = [name for name in ("wavelength", "flux", "medium") if name in self.rows.column_names]
        row = self.rows.select_columns(names)[place]
        return drawn(row["wavelength"], row["flux"], row.get("medium"), self.medium)

    def _answer(
        self,
        queries: Sequence[str],
        found: Sequence[np.ndarray],
        distances: Sequence[np.ndarray],
        own: Sequence[Any],
        window: tuple[float, float] | None = None,
        frames: Sequence[str | None] | None = None,
    ) -> list[Neighbours]:
        light = self.rows.select_columns([name for name in self.rows.column_names if name not in HEAVY])
        return [
            Neighbours(
                name,
                [self.ids[row] for row in rows],
                np.asarray(far, dtype=np.float64),
                [light[int(row)] for row in rows],
                spectrum,
                [self._drawn(int(row)) for row in rows],
                window,
                self.medium,
                frame,
            )
            for name, rows, far, spectrum, frame in zip(
                queries, found, distances, own, frames or [None] * len(queries), strict=True
            )
        ]

    # Keeping --------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the index as a folder, which is there whole or not at all; `load` reads it.

        Args:
            folder: The folder.
            overwrite: Whether to replace an index that is there.

        Returns:
            The folder.

        Raises:
            ValueError: If something else is there, or an index and not `overwrite`.
        """
        folder = Path(folder).expanduser()
        check_place(folder, overwrite=overwrite)
        place = folder.resolve()  # a link stays one
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            self._write(temporary / "new")
            if place.exists():
                os.replace(place, temporary / "old")
            os.replace(temporary / "new", place)
        finally:
            if (temporary / "old").exists() and not place.exists():  # the new one could not take its place
                os.replace(temporary / "old", place)
            shutil.rmtree(temporary)
        return folder

    def _write(self, folder: Path) -> None:
        (folder / ROWS).parent.mkdir(parents=True)
        with no_progress_bars():
            self._plain_rows().to_parquet(str(folder / ROWS))
        write_arrays(self.metric.arrays, folder / ARRAYS)
        about = {"format": FORMAT, "metric": self.metric.name, "backend": self.backend, "rows": len(self)}
        (folder / ABOUT).write_text(json.dumps(about | self.about, indent=1) + "\n")
        (folder / "README.md").write_text(card(len(self), self.about.get("checkpoint"), self.metric.name))

    def _plain_rows(self) -> Dataset:
        plain = Dataset(self.rows.data, indices_table=self.rows._indices)  # without the index of faiss
        with no_progress_bars():
            plain = plain.flatten_indices() if self.rows._indices is not None else plain
        return Dataset(plain.data.table if hasattr(plain.data, "table") else plain.data)

    @classmethod
    def load(cls, name: str | Path, *, encoder: Any = None, revision: str | None = None) -> "SpectrumIndex":
        """An index that `save` or `push_to_hub` wrote.

        Args:
            name: The folder, or ORG/NAME of a dataset on the Hub.
            encoder: The encoder that it was made with, for queries by spectrum; it can be set later.
            revision: Branch, tag or commit on the Hub.

        Raises:
            FileNotFoundError: If there is no index.
            ValueError: If it has another format, is damaged, or the encoder has other weights, or settings of its
                processor, than the one it was made with.
        """
        folder = Path(name).expanduser()
        if not folder.is_dir() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(str(name), repo_type="dataset", revision=revision))
        if not (folder / ABOUT).is_file():
            raise FileNotFoundError(f"no index at {name}: {ABOUT} is not there")
        about, arrays, rows = read_index(folder)
        metric = Metric(about.pop("metric"), arrays)
        backend, count = about.pop("backend"), about.pop("rows")
        if len(rows) != count:
            raise ValueError(f"{folder} holds {len(rows)} rows, and should hold {count}: copy it again")
        return cls(rows, metric, about, encoder=encoder, backend=backend)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | bool | None = None) -> Any:
        """Publish the index as a dataset on the Hub, in one commit; `load(repo_id)` reads it.

        Args:
            repo_id: ORG/NAME; made where it is absent.
            private: Whether a new repository is private; None = the organisation's default.
            token: Access token that may write; None = the one of `hf auth login`, or of HF_TOKEN.

        Returns:
            The commit.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder) / "index")
            api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
            message = f"Index of {len(self):,} spectra"
            return api.upload_folder(
                repo_id=repo_id, repo_type="dataset", folder_path=Path(folder) / "index", commit_message=message
            )


def _encoded(
    encoder: Any, spectra: Sequence[Spectrum], on_invalid: str
) -> tuple[list[int], list[Any] | None, np.ndarray]:
    """Which spectra the model read anything of, their tokens, None of pictures, and their embeddings."""
    if reads_pictures(encoder.processor):
        embeddings = encoder.encode(spectra, on_invalid=on_invalid)
        kept = _some(np.flatnonzero(np.isfinite(embeddings).all(1)).tolist(), spectra)
        return kept, None, embeddings[kept]
    sequences = encoder.encode(spectra, output="tokens", on_invalid=on_invalid)
    kept = _some([place for place, one in enumerate(sequences) if len(one.values)], spectra)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfDomainWarning)  # said above
        return kept, [sequences[place] for place in kept], encoder.encode([spectra[place] for place in kept])


def _some(kept: list[int], spectra: Sequence[Spectrum]) -> list[int]:
    if not kept:
        raise ValueError(f"none of the {len(spectra)} spectra has a valid patch: there is nothing to index")
    return kept


def _is_count(k: Any) -> bool:
    try:
        return operator.index(k) >= 1
    except TypeError:
        return False


def _within(wavelength: Any, low: float, high: float) -> np.ndarray:
    values = np.asarray(wavelength)
    inside: np.ndarray = (values >= low) & (values <= high)
    return inside


def _import_faiss() -> None:
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        raise ImportError('backend "faiss" needs faiss: pip install "spectok-hf[search]".') from error


__all__ = ["Neighbours", "SpectrumIndex", "exact_nearest"]
