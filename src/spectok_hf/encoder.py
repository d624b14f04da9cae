"""`SpectrumEncoder`: a checkpoint as one object: whatever holds spectra goes in, arrays and rows come out."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .data.collators import collator_for
from .data.domain import TrainingDomain, flag, outside, warn_outside
from .data.prepare import NO_PATCH, NOTHING_DRAWN, reason_against
from .data.spectrum_side import as_read, check_tokens, reads_pictures, refusal, spectrum_part
from .data.surveys import SURVEYS
from .hub.cards import survey_row
from .inference.answers import (
    AUTOENCODER,
    ENDING_OF_HEAD,
    HEAD_ANSWERS,
    Answers,
    EmbeddingAnswers,
    ReconstructionAnswers,
    Row,
    check_device,
    fastest_device,
    has_head,
    load_checkpoint,
    load_head,
    place_of,
    reconstructed,
    weights_digest,
)
from .inference.embedding_head import EmbeddingHead, as_embeddings
from .inference.image_embeddings import embed_images
from .inference.user_inputs import read_given
from .inference.user_tables import WINDOW as TABLE_WINDOW
from .inference.user_tables import RowAnswers, check_free, read_table, spectra_of, warn_unanswered, with_answers
from .models.processing_spectok import SpectrumProcessor
from .models.spectrum import Spectrum, check_choice
from .shipped import DEFAULT

OUTPUTS = ("embedding", "tokens", "last_hidden_state")
BATCH_SIZE = 32


class TokenSequence(NamedTuple):
    """What stands for the valid patches of one spectrum.

    Args:
        values: Shape (valid patches, channels), float32.
        wavelength: Mean wavelength of each patch in Å, in the checkpoint's medium, shape (valid patches,).
    """

    values: np.ndarray
    wavelength: np.ndarray


class SpectrumEncoder:
    """A trained checkpoint with its processor and heads: spectra in, arrays and rows out.

    Every method takes what `read_spectra` takes (a `Spectrum`, a file, folder or pattern, a table, arrays with
    `wavelength=` and `ivar=` or `error=`, a list of such). One spectrum gives one answer, several give as many in
    their order. Batches are made of spectra of like length, and change no answer. Spectra unlike those of the training
    get a warning (`OutOfDomainWarning`), and rows a flag `outside`.

    Of a checkpoint of spectra and images (AstroCLIP) it is the side of the spectra: embeddings are those of the space
    that both share, and so are those of `encode_images`; tokens are those of its spectrum encoder. One that reads
    spectra as pictures has embeddings and heads, and no tokens.

    Args:
        model: An autoencoder, an encoder, or a task head with the encoder under it.
        processor: Its processor; `encoder.processor` is that of the spectra, where it prepares images as well.
        name: How it is called in messages, and where its heads lie, as for `from_pretrained`; None = it has no place.
        device: Where it runs, "cpu", "cuda", ...; None = the fastest there is.

    Raises:
        ValueError: If this machine has no such device.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str | None = None,
        device: str | torch.device | None = None,
    ):
        check_device(device)
        self.device = torch.device(device or fastest_device())
        self.model, self._whole_processor = model.to(self.device).eval(), processor
        self.processor: SpectrumProcessor = spectrum_part(processor)
        self.name, self._has_place = name or "the model", bool(name)
        self.domain = TrainingDomain.from_config(model.config, self.processor.medium)
        self._heads: dict[str, Answers] = {}
        for head, ending in ENDING_OF_HEAD.items():
            if type(model).__name__.endswith(ending):
                self._heads[head] = HEAD_ANSWERS[head](model, processor, device=self.device)

    @classmethod
    def from_pretrained(
        cls, name: str | Path = DEFAULT, *, device: str | torch.device | None = None
    ) -> "SpectrumEncoder":
        """A checkpoint by name.

        Args:
            name: One that comes with the package ("spectok-tiny"), a folder, or ORG/NAME or ORG/NAME@REVISION on the
                Hub.
            device: See the class.

        Raises:
            OSError: If there is no such checkpoint.
            ValueError: If a part of it is missing.
        """
        model, processor = load_checkpoint(*place_of(name))
        return cls(model, processor, name=str(name), device=device)

    def to(self, device: str | torch.device) -> "SpectrumEncoder":
        """Move the model and its heads to a device, and give the encoder back.

        Args:
            device: "cpu", "cuda", ....

        Raises:
            ValueError: If this machine has no such device.
        """
        check_device(device)
        self.device = torch.device(device)
        self.model.to(self.device)
        for answers in self._heads.values():
            answers.device = self.device
            answers.model.to(self.device)
        return self

    # Embeddings -----------------------------------------------------------------------------------

    def encode(
        self,
        spectra: Any,
        *,
        output: str = "embedding",
        batch_size: int = BATCH_SIZE,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = False,
        on_invalid: str = "raise",
        device: str | torch.device | None = None,
        **fields: Any,
    ) -> Any:
        """Embeddings of spectra, or what stands for each of their patches.

        Args:
            spectra: See the class.
            output: "embedding": `pooler_output`; "tokens": the compressed tokens; "last_hidden_state": the states
                under them. A model of pictures has embeddings alone.
            batch_size: Spectra per call of the model.
            show_progress_bar: Whether to show one, with rate and remaining time.
            normalize_embeddings: Whether to give embeddings length 1.
            on_invalid: What to do about a spectrum without a valid patch: "raise", or "mask", which gives NaN (no
                token). One on a grid or in a unit that the checkpoint cannot read is an error either way;
                `encode_table` goes on without it.
            device: Where to run, from now on; None = where it is.
            **fields: `wavelength`, `ivar` or `error`, and other fields of `Spectrum`, where `spectra` is flux.

        Returns:
            Embeddings, float32, shape (n, hidden_size), (hidden_size,) of a single spectrum; or a `TokenSequence` per
            spectrum.

        Raises:
            ValueError: If there is no spectrum, or one that is impossible, that the checkpoint cannot read, or without
                a valid patch, or if the checkpoint has no such output.
        """
        check_choice("output", output, OUTPUTS)
        if device is not None:
            self.to(device)
        sequences = () if output == "embedding" else (output,)
        answers = EmbeddingAnswers(self.model, self._whole_processor, sequences, device=self.device)
        options: dict[str, Any] = {"batch_size": batch_size, "progress": show_progress_bar, "on_invalid": on_invalid}
        found, single = read_given(spectra, fields)
        rows = self._ask(answers, found, **options)
        if sequences:
            parts = [_sequence(row, output, answers.sizes[output]) for row in rows]
            return parts[0] if single else parts
        size = self.model.config.hidden_size
        vectors = np.stack([row.get("embedding", np.full(size, np.nan, dtype=np.float32)) for row in rows])
        if normalize_embeddings:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors[0] if single else vectors

    @property
    def has_images(self) -> bool:
        """Whether it can encode images."""
        return hasattr(self.model, "get_image_features")

    def encode_images(
        self,
        images: Any,
        *,
        batch_size: int = BATCH_SIZE,
        show_progress_bar: bool = False,
        on_invalid: str = "raise",
    ) -> np.ndarray:
        """Embeddings of images, in the space of those of spectra: `similarity` compares the two.

        Args:
            images: A `SkyImage`, or what `read_image` takes for one; or a list of such.
            batch_size: Images per call of the model.
            show_progress_bar: Whether to show one.
            on_invalid: What to do about an image of which a band has no good pixel where it is cut: "raise", or
                "mask", which gives NaN. The processor's own choice does not count here.

        Returns:
            Unit vectors, float32, shape (n, projection_dim), (projection_dim,) of a single image.

        Raises:
            ValueError: If the checkpoint knows no images, or there is none, or one that it cannot read.
        """
        if not self.has_images:
            raise ValueError(
                f"{self.name} knows spectra alone ({type(self.model).__name__}): load a checkpoint of AstroClipModel"
            )
        _check_batch_size(batch_size)
        options: dict[str, Any] = {"batch_size": batch_size, "progress": show_progress_bar, "on_invalid": on_invalid}
        return embed_images(self.model, self._whole_processor, images, **options)

    def similarity(self, first: Any, second: Any) -> np.ndarray:
        """Cosines between embeddings, shape (n, m).

        All spectra have much in common, and so have their embeddings: cosines are near 1, and their order counts.
        `SpectrumIndex` compares in a metric that knows the noise. Embeddings of images compare with those of spectra.

        Args:
            first: Embeddings, shape (n, d) or (d,).
            second: Embeddings, shape (m, d) or (d,).

        Raises:
            ValueError: If they are not of one length.
        """
        one, two = (np.atleast_2d(np.asarray(vectors, dtype=np.float64)) for vectors in (first, second))
        if one.ndim != 2 or two.ndim != 2 or one.shape[1] != two.shape[1]:
            raise ValueError(
                f"embeddings must have one length, found shapes {np.shape(first)} and {np.shape(second)}: pass what "
                "encode returned"
            )
        one, two = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (one, two))
        return one @ two.T

    def encode_table(
        self,
        table: Any,
        *,
        path_column: str | None = None,
        batch_size: int = BATCH_SIZE,
        show_progress_bar: bool = False,
        **fields: Any,
    ) -> Any:
        """Embeddings of the spectra of a table, as the same table: every row keeps its place, its ids and labels.

        Args:
            table: A pandas, astropy or Arrow table, a `datasets.Dataset`, or the path of a Parquet file (which gives a
                pandas table); a spectrum per row.
            path_column: The column that names a file of one spectrum in each row; None = rows have the pixels.
            batch_size: As for `encode`.
            show_progress_bar: As for `encode`.
            **fields: What the table does not say of its rows: `survey`, `medium`, and other fields of `Spectrum`.

        Returns:
            A copy without the pixels, with the columns `embedding`, `outside` (in what respects a spectrum lies
            outside what the checkpoint saw) and `reason` (why there is no embedding, which is NaN then).

        Raises:
            ValueError: If it is no table of spectra, or has columns of these names. A row that cannot be read does not
                raise: it gets a reason, and all of them together a warning.
            TypeError: If a field is unknown.
        """
        from tqdm.auto import tqdm

        table = read_table(table)
        found = RowAnswers(np.full((len(table), self.model.config.hidden_size), np.nan, np.float32), [], [])
        rows = spectra_of(table, path_column, fields)
        check_free(table)
        answers = EmbeddingAnswers(self.model, self._whole_processor, device=self.device)
        differences: dict[str, dict[str, str]] = {}
        with tqdm(total=len(table), desc="encoding", unit="spectrum", disable=not show_progress_bar) as bar:
            while window := list(islice(rows, TABLE_WINDOW)):
                differences |= self._encode_window(answers, window, found, batch_size)
                bar.update(len(window))
        if answers.domain is not None:
            warn_outside(list(differences.values()), list(differences), self.name, stacklevel=3)
        warn_unanswered(found.reason)
        return with_answers(table, found)

    def _encode_window(
        self, answers: Answers, window: Sequence[Spectrum | str], found: RowAnswers, batch_size: int
    ) -> dict[str, dict[str, str]]:
        """Add the answers of some rows to those before; in what those that could be read lie outside, by name."""
        window = [one if isinstance(one, str) else refusal(self.processor, one) or one for one in window]
        spectra = {place: one for place, one in enumerate(window, len(found.reason)) if isinstance(one, Spectrum)}
        options: dict[str, Any] = {"batch_size": batch_size, "on_invalid": "mask"}
        rows, differences = self._ask_quietly(answers, list(spectra.values()), **options)
        answered = dict(zip(spectra, rows, strict=True))
        for place, one in enumerate(window, len(found.reason)):
            row = answered.get(place, {})
            if "embedding" in row:
                found.embedding[place] = row["embedding"]
            nothing = NOTHING_DRAWN if reads_pictures(self.processor) else NO_PATCH
            reason = one if isinstance(one, str) else "" if "embedding" in row else nothing
            found.reason.append(reason)
            found.outside.append(row.get("outside", ""))
        return {f"row {place}": entry for place, entry in zip(spectra, differences, strict=True)}

    def fit_head(
        self, X: Any, y: Any, *, groups: Any = None, names: Sequence[str] | None = None, **options: Any
    ) -> EmbeddingHead:
        """A linear head on embeddings, with the manners of scikit-learn: `fit`, `predict`, `predict_proba`, `score`.

        Args:
            X: Embeddings that `encode` returned, shape (n, hidden_size), or the column of `encode_table`; or spectra,
                which are encoded first.
            y: Names of classes, shape (n,), or numbers, shape (n,) or (n, targets).
            groups: Key of the object of each, where objects occur twice.
            names: What the numbers are.
            **options: Of `encode`.

        Raises:
            ValueError: If shapes disagree, or labels are too few or all the same.
            ImportError: If scikit-learn is not installed.
        """
        size = self.model.config.hidden_size
        given = None if options else as_embeddings(X, size)
        vectors = self.encode(X, **options) if given is None else given
        if vectors.ndim != 2 or vectors.shape[1] != size:
            raise ValueError(
                f"X must be embeddings of {self.name}, shape (n, {size}), found {vectors.shape}: pass what encode "
                "returned for several spectra, or flux with wavelength= and ivar= or error="
            )
        head = EmbeddingHead(names, checkpoint=self.name, fingerprint=self.fingerprint)
        return head.fit(vectors, y, groups=groups)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights of the encoder; embeddings of two encoders compare if these are equal."""
        return weights_digest(self.model.base_model)

    # Answers --------------------------------------------------------------------------------------

    @property
    def has_decoder(self) -> bool:
        """Whether it can reconstruct."""
        return type(self.model).__name__.endswith(AUTOENCODER)

    def reconstruct(self, spectra: Any, **options: Any) -> Any:
        """Spectra encoded and decoded again, on their own grids and in their own units.

        Of a masked model (OmniSpectra, Specformer) each patch is predicted from others: it says what the rest of a
        spectrum tells of it, not what its token keeps.

        Args:
            spectra: See the class.
            **options: `batch_size`, `show_progress_bar`, `on_invalid` and fields, as for `encode`.

        Returns:
            `Spectrum` objects whose `mask` is True where nothing was observed; of an invalid spectrum everywhere.

        Raises:
            ValueError: As `encode`, or if the checkpoint has no decoder.
        """
        advice = "ask one with a decoder, such as spectok-tiny"
        check_tokens(self.processor, self.name, "a reconstruction", advice)
        if not self.has_decoder:
            raise ValueError(
                f"{self.name} has no decoder ({type(self.model).__name__}): load the autoencoder that it was made from"
            )
        answers = ReconstructionAnswers(self.model, self._whole_processor, device=self.device)
        rows, found, single = self._answer(answers, spectra, options)
        found = [as_read(self.processor, one) for one in found]
        made = [reconstructed(one, row) for one, row in zip(found, rows, strict=True)]
        return made[0] if single else made

    def classify(self, spectra: Any, **options: Any) -> Any:
        """Classes: `{"object_id": ..., "class": "QSO", "confidence": 0.9, "p_GALAXY": ..., "outside": ""}`.

        Args:
            spectra: See the class.
            **options: As for `reconstruct`.

        Returns:
            A row per spectrum; None in place of what an invalid spectrum does not have.

        Raises:
            ValueError: As `encode`, or if the checkpoint has no such head.
        """
        return self._rows("classification", spectra, options)

    def predict(self, spectra: Any, **options: Any) -> Any:
        """Stellar parameters: `{"object_id": ..., "teff": 4800.0, "teff_error": 95.0, ..., "outside": ""}`.

        Args:
            spectra: See the class.
            **options: As for `reconstruct`.

        Returns:
            As `classify`.

        Raises:
            ValueError: As `classify`.
        """
        return self._rows("stellar-parameters", spectra, options)

    def redshift(self, spectra: Any, **options: Any) -> Any:
        """Redshifts: `{"object_id": ..., "redshift": 0.31, "redshift_error": 0.002, "confidence": 0.95, "zwarn": 0}`.

        Args:
            spectra: See the class.
            **options: As for `reconstruct`.

        Returns:
            As `classify`; `zwarn` is 0 where the redshift is good.

        Raises:
            ValueError: As `classify`.
        """
        return self._rows("redshift", spectra, options)

    @property
    def heads(self) -> list[str]:
        """The task heads that the checkpoint has."""
        return [
            head for head in HEAD_ANSWERS if head in self._heads or (self._has_place and has_head(self.name, head))
        ]

    def head(self, head: str) -> Answers:
        """A task head, loaded when it is first asked for.

        Args:
            head: "classification", "stellar-parameters" or "redshift".

        Raises:
            ValueError: If the checkpoint has none.
        """
        check_choice("head", head, tuple(HEAD_ANSWERS))
        if head not in self._heads and not self._has_place:
            raise ValueError(
                f"{self.name} has no head for {head}: load a checkpoint that has one, "
                "SpectrumEncoder.from_pretrained(...), or fit one on embeddings, fit_head(X, y)"
            )
        if head not in self._heads:
            model, processor = load_head(self.name, head)
            self._heads[head] = HEAD_ANSWERS[head](model, processor, device=self.device)
        return self._heads[head]

    def _rows(self, head: str, spectra: Any, options: Mapping[str, Any]) -> Any:
        answers = self.head(head)
        rows, found, single = self._answer(answers, spectra, options)
        empty = dict.fromkeys(answers.columns())
        named = [{"object_id": one.object_id} | empty | row for one, row in zip(found, rows, strict=True)]
        return named[0] if single else named

    # What it is -----------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What users ask for: size, dimensions, medium, device, heads, and what was seen in training, by survey.

        Of a survey in `SURVEYS` it says how many tokens a spectrum has, and how many Å wide a patch is. A token begins
        every `pixels_between_tokens` pixels, fewer than it holds where patches overlap. A model of pictures has no
        tokens of its own; how it draws is said instead.
        """
        config = self.model.config
        domain = self.domain
        return {
            "name": self.name,
            "parameters": sum(values.numel() for values in self.model.parameters()),
            "embedding": config.hidden_size,
            **self._cutting(),
            "medium": self.processor.medium,
            "device": str(self.device),
            "heads": self.heads,
            "wavelength": None if domain is None else domain.wavelength,
            "surveys": {} if domain is None else {name: self._survey(name) for name in domain.surveys},
        }

    def _cutting(self) -> dict[str, Any]:
        """Sizes of tokens, or of the picture."""
        processor = self.processor
        names = ("numbers_per_token", "pixels_per_token", "pixels_between_tokens")
        if reads_pictures(processor):
            return dict.fromkeys(names) | {name: getattr(processor, name) for name in ("plot_type", "image_size")}
        sizes = spectrum_part(self.model.config).latent_size, processor.patch_size
        return dict(zip(names, (*sizes, processor.patch_size - processor.patch_overlap), strict=True))

    def _survey(self, name: str) -> dict[str, Any]:
        seen = self.domain.surveys[name]  # type: ignore[union-attr]
        facts = {"snr": list(seen.snr), "resolving_power": seen.resolving_power, "media": list(seen.media)}
        if name not in SURVEYS or reads_pictures(self.processor):
            return {"tokens": None, "patch_width": None, **facts}
        row = survey_row(name, None, self.processor, spectrum_part(self.model.config).latent_size)
        return {"tokens": row["tokens"], "patch_width": row["width"], **facts}

    def __repr__(self) -> str:
        facts = self.facts()
        millions = f"{facts['parameters'] / 1e6:.1f} M parameters"
        ranges = facts["wavelength"]
        seen = "not said" if ranges is None else ", ".join(f"{low:.0f}-{high:.0f} Å" for low, high in ranges)
        sizes = f"{millions}, embeddings of {facts['embedding']}, {_cut_text(facts)}"
        lines = [
            f"SpectrumEncoder({self.name!r}, {facts['device']}: {sizes}",
            f"  heads: {', '.join(facts['heads']) or 'none'}",
            f"  trained on: {seen} ({facts['medium']})",
        ]
        if facts["surveys"]:
            lines.append(f"  {'survey':18} {'tokens':>6}  {'patch, Å':>11}  {'S/N':>9}")
        for name, row in facts["surveys"].items():
            low, high = row["snr"]
            lines.append(
                f"  {name:18} {row['tokens'] or '-':>6}  {row['patch_width'] or '-':>11}  {f'{low:.0f}-{high:.0f}':>9}"
            )
        return "\n".join(lines) + ")"

    # Running --------------------------------------------------------------------------------------

    def _answer(
        self, answers: Answers, spectra: Any, options: Mapping[str, Any]
    ) -> tuple[list[Row], list[Spectrum], bool]:
        names = {"batch_size": "batch_size", "show_progress_bar": "progress", "on_invalid": "on_invalid"}
        known: dict[str, Any] = {own: options[name] for name, own in names.items() if name in options}
        found, single = read_given(spectra, {name: value for name, value in options.items() if name not in names})
        return self._ask(answers, found, **known), found, single

    def _ask(self, answers: Answers, spectra: Sequence[Spectrum], **options: Any) -> list[Row]:
        """A row per spectrum, in order, with the flag `outside`, and a warning of those that have it."""
        for place, spectrum in enumerate(spectra):
            if reason := refusal(self.processor, spectrum):
                raise ValueError(f"spectrum {place} (object_id={spectrum.object_id}) cannot be read: {reason}")
        rows, differences = self._ask_quietly(answers, spectra, **options)
        if answers.domain is not None:
            # A head may have seen less than the encoder under it.
            seer = f"the {answers.head} head of {self.name}" if answers.head else self.name
            warn_outside(differences, spectra, seer)
        return rows

    def _ask_quietly(
        self,
        answers: Answers,
        spectra: Sequence[Spectrum],
        *,
        batch_size: int = BATCH_SIZE,
        progress: bool = False,
        on_invalid: str = "raise",
    ) -> tuple[list[Row], list[dict[str, str]]]:
        """The rows, and in what respects each spectrum, none of which is refused, lies outside of the training."""
        check_choice("on_invalid", on_invalid, ("raise", "mask"))
        _check_batch_size(batch_size)
        rows: list[Row] = [{} for _ in spectra]
        for members, batch in self._batches(spectra, batch_size, progress, on_invalid):
            for member, row in zip(members, answers(batch, [spectra[member] for member in members]), strict=True):
                rows[member] |= row
        differences = [outside(answers.domain, spectrum) for spectrum in spectra]
        for row, found in zip(rows, differences, strict=True):
            row["outside"] = flag(found)
        return rows, differences

    def _batches(
        self, spectra: Sequence[Spectrum], batch_size: int, progress: bool, on_invalid: str
    ) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Batches of spectra of like length, and which they are."""
        from tqdm.auto import tqdm

        collate = collator_for(self.processor)
        lengths = [self.processor.count_patches(one.wavelength, medium=one.medium) for one in spectra]
        order = np.argsort(lengths, kind="stable").tolist()
        with tqdm(total=len(spectra), desc="encoding", unit="spectrum", disable=not progress) as bar:
            for first in range(0, len(order), batch_size):
                chosen = order[first : first + batch_size]
                patched = {member: self.processor.patch(spectra[member]) for member in chosen}
                valid = [member for member in chosen if patched[member]["attention_mask"].any()]
                if on_invalid == "raise" and len(valid) < len(chosen):
                    lost = min(set(chosen) - set(valid))
                    raise ValueError(
                        f"{reason_against(patched[lost])} in spectrum {lost} (object_id={spectra[lost].object_id}): "
                        'drop it, or pass on_invalid="mask"'
                    )
                if valid:
                    yield valid, collate([patched[member] for member in valid])
                bar.update(len(chosen))


def _cut_text(facts: Mapping[str, Any]) -> str:
    """What a spectrum becomes, in a few words."""
    if "plot_type" in facts:
        return f'a picture "{facts["plot_type"]}" of {facts["image_size"]} x {facts["image_size"]} pixels'
    step, size = facts["pixels_between_tokens"], facts["pixels_per_token"]
    tokens = f"a token of {facts['numbers_per_token']} per {step} pixels"
    return tokens if step == size else f"{tokens} from {size}"


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 spectrum, found {batch_size}")


def _sequence(row: Row, name: str, size: int) -> TokenSequence:
    nothing = np.zeros((0, size), dtype=np.float32)
    return TokenSequence(row.get(name, nothing), row.get("token_wavelength", nothing[:, 0]))


__all__ = ["SpectrumEncoder", "TokenSequence"]
