"""What models say of spectra, one row each: embeddings, tokens, reconstructions, classes, parameters, redshifts.

Each `Answers` asks one model, and names the columns of its rows; `SpectrumEncoder` asks of lists, `part_runs` of any
number of files.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
)

from ..data.domain import TrainingDomain
from ..data.spectrum_side import as_read, check_tokens, drawing_of, reads_pictures, spectrum_part
from ..models.checkpoints import check_processor, read_processor_settings
from ..models.processing_astroclip import AstroClipProcessor
from ..models.processing_omnispectra import OmniSpectraProcessor
from ..models.processing_specformer import SpecformerProcessor
from ..models.processing_spectok import SpectrumProcessor
from ..models.processing_spectrum_vit import SpectrumImageProcessor
from ..models.spectrum import Spectrum
from ..shipped import HEADS, find_shipped, shipped_checkpoints

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ENDING_OF_HEAD = dict(zip(HEADS, ("ForSpectrumClassification", "ForStellarRegression", "ForRedshift"), strict=True))
AUTOENCODER = "ForPreTraining"
# Of a configuration, what says how a model was saved or is run, and not what it computes.
NOISE = {"transformers_version", "auto_map", "architectures", "dtype", "torch_dtype", "training_domain"}
NOISE |= {"return_dict", "output_attentions", "output_hidden_states"}
# By name: Transformers itself takes a folder without a config for one of foreign code.
PROCESSORS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        SpectrumProcessor,
        OmniSpectraProcessor,
        SpecformerProcessor,
        AstroClipProcessor,
        SpectrumImageProcessor,
    )
}
Row = dict[str, Any]


# Loading ------------------------------------------------------------------------------------------


def place_of(name: str | Path) -> tuple[str, dict[str, Any]]:
    """Where a checkpoint lies: the folder or repository, and the revision and folder within it.

    Args:
        name: A folder, ORG/NAME or ORG/NAME@REVISION on the Hub, ORG/NAME/HEAD, or a name that comes with the package.
    """
    text = str(name)
    if shipped := find_shipped(text.partition("@")[0]):  # also where a folder of that name holds something else
        return str(shipped), {}
    if (folder := Path(text).expanduser()).is_dir():
        return str(folder), {}
    source, _, revision = text.partition("@")
    root, _, last = source.rpartition("/")
    options = {"revision": revision} if revision else {}
    return (root, options | {"subfolder": last}) if "/" in root and last in HEADS else (source, options)


def head_place(name: str | Path, head: str) -> tuple[str, dict[str, Any]]:
    """Where a head of a checkpoint lies: in the folder of its name.

    Args:
        name: The checkpoint, as for `place_of`.
        head: One of `HEADS`.
    """
    source, options = place_of(name)
    if Path(source).is_dir():
        return str(Path(source, head)), {}
    return source, options | {"subfolder": head}


def load_checkpoint(source: str, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """A model, of the class that it was saved as, and its processor.

    Args:
        source: Folder or repository.
        options: Revision and folder within it.

    Raises:
        ValueError: If weights of it are not in the checkpoint: its answers would be noise.
        OSError: If there is no checkpoint.
    """
    architecture = _architecture(source, options)
    auto_class = AutoModel
    if architecture.endswith(AUTOENCODER):
        auto_class = AutoModelForPreTraining
    elif architecture.endswith(tuple(ENDING_OF_HEAD.values())):
        auto_class = AutoModelForSequenceClassification
    return _load_whole(auto_class, source, options), AutoProcessor.from_pretrained(source, **options)


def _architecture(source: str, options: Mapping[str, Any]) -> str:
    """The class that a checkpoint was saved as; empty where it does not say."""
    if Path(source).is_dir() and not Path(source, "config.json").is_file():
        raise FileNotFoundError(f"{source} must hold config.json, found none: pass what save_pretrained wrote")
    try:
        config = AutoConfig.from_pretrained(source, **options)
    except FileNotFoundError:  # of ours, which says enough
        raise
    except OSError as error:
        place = "/".join(filter(None, [source, options.get("subfolder")]))
        raise OSError(
            f"no checkpoint {place} can be loaded: pass a folder, ORG/NAME on the Hub, or one of "
            f"{', '.join(shipped_checkpoints())} ({str(error).splitlines()[0]})"
        ) from error
    return (config.architectures or [""])[0]


def _load_whole(auto_class: Any, source: str, options: Mapping[str, Any]) -> Any:
    """A model none of whose weights are made up."""
    model, info = auto_class.from_pretrained(source, output_loading_info=True, **options)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{source} must hold all weights of {type(model).__name__}, found none for {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}: save it again with save_pretrained"
        )
    return model.eval()


def load_encoder(name: str | Path) -> tuple[Any, Any]:
    """The encoder of a checkpoint, without decoder or head, and its processor.

    Args:
        name: As for `place_of`.

    Raises:
        ValueError: As `load_checkpoint`.
        OSError: If there is no checkpoint.
    """
    source, options = place_of(name)
    _architecture(source, options)  # which says if there is no such checkpoint
    return _load_whole(AutoModel, source, options), AutoProcessor.from_pretrained(source, **options)


def load_processor(name: str | Path) -> SpectrumProcessor:
    """The processor of a checkpoint's spectra, of whichever family; where it lies there may be nothing else.

    Args:
        name: As for `place_of`.

    Raises:
        OSError: If there is none.
    """
    source, options = place_of(name)
    settings = read_processor_settings(source, options) or {}
    reference = (settings.get("auto_map") or {}).get("AutoProcessor", "").rpartition(".")[2]
    return spectrum_part(PROCESSORS.get(reference, AutoProcessor).from_pretrained(source, **options))


def config_digest(config: Any) -> str:
    """SHA-256 of a configuration: the same weights give other embeddings with other settings.

    Args:
        config: The configuration.
    """
    settings = {name: value for name, value in config.to_dict().items() if name not in NOISE and name[0] != "_"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def weights_digest(model: Any) -> str:
    """SHA-256 of the weights: the name of a folder or branch says nothing of what is in it.

    Args:
        model: The model.
    """
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# Asking -------------------------------------------------------------------------------------------


def check_device(device: Any) -> None:
    """Refuse a device that is not there, before anything is loaded.

    Args:
        device: Its name; None = whichever there is.

    Raises:
        ValueError: If this machine does not have it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch has both for what is not there
        text = str(error).split("\n")[0].rstrip(".")
        raise ValueError(f"device must be one of this machine, found {device!r} ({text}): leave it out") from error


def fastest_device() -> str:
    """The accelerator of this machine, or "cpu"."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator is not None else "cpu"


class Answers:
    """One model on its device, as a function from batches, packed ones or of pictures, to rows.

    Args:
        model: The model; it is moved to the device, and made float32.
        processor: Its processor; `self.processor` is that of the spectra, where it prepares images as well.
        device: Where it runs.
        dtype: Of mixed precision: a key of `DTYPES`, "float32" for none.
    """

    ending = ""  # of the class of models that can answer
    needs_spectra = False  # and not their patches alone
    units: Mapping[str, str] = {}  # of the columns that have one

    def __init__(self, model: Any, processor: Any, *, device: Any = "cpu", dtype: str = "float32"):
        if not type(model).__name__.endswith(self.ending):
            raise ValueError(
                f"{type(self).__name__} needs a model ...{self.ending}, found {type(model).__name__}: load "
                + (_autoencoder_for(processor) if self.ending == AUTOENCODER else "a head for it")
            )
        check_processor(model.config, processor)
        self.device, self.dtype = torch.device(device), DTYPES[dtype]
        self.model = self._part(model).to(self.device, torch.float32).eval()
        self.processor: SpectrumProcessor = spectrum_part(processor)
        self.domain = TrainingDomain.from_config(model.config, self.processor.medium)

    @torch.inference_mode()
    def __call__(self, batch: Mapping[str, Any], spectra: Sequence[Spectrum]) -> list[Row]:
        """One row per spectrum of a batch.

        Args:
            batch: What the collator of the processor makes, see `collator_for`, as tensors or arrays.
            spectra: The spectra of the batch.
        """
        inputs = {name: self._moved(name, values) for name, values in batch.items()}
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if mixed else nullcontext():
            outputs = self._ask(inputs)
        return self.rows(outputs, batch, spectra)

    def _ask(self, inputs: Mapping[str, Any]) -> Any:
        return self.model(**inputs)

    def _moved(self, name: str, values: Any) -> Any:
        if name == "num_patches" or not np.ndim(values):
            return values
        return torch.as_tensor(values).to(self.device)

    def _part(self, model: Any) -> Any:
        """The part of the model that answers."""
        return model

    def _finite(self, values: torch.Tensor) -> np.ndarray:
        """An output as an array; NaN would pass for what was not read or observed, and its argmax for a class."""
        array = _array(values)
        if not np.isfinite(array).all():
            bad, dtype = (~np.isfinite(array).reshape(len(array), -1)).any(1), str(self.dtype).removeprefix("torch.")
            raise ValueError(
                f"answers of a model must be finite, found {bad.sum()} of {len(bad)} that are not, in {dtype}: "
                "compute in float32, or check the weights"
            )
        return array

    @property
    def head(self) -> str:
        """Which of `HEADS` answers; "" = none, but the encoder or the autoencoder."""
        return next((head for head, ending in ENDING_OF_HEAD.items() if ending == self.ending), "")

    def settings(self) -> dict[str, Any]:
        """What the answers depend on, beside the spectra."""
        config, weights = config_digest(self.model.config), weights_digest(self.model)
        dtype = str(self.dtype).removeprefix("torch.")
        found = {"answers": type(self).__name__, "weights_sha256": weights, "config_sha256": config, "dtype": dtype}
        return found | ({"drawing": drawing_of(self.processor)} if reads_pictures(self.processor) else {})

    def columns(self) -> dict[str, Any]:
        """Names of what a row holds, with their Arrow types."""
        raise NotImplementedError

    def rows(self, outputs: Any, batch: Mapping[str, Any], spectra: Sequence[Spectrum]) -> list[Row]:
        """The rows of a batch.

        Args:
            outputs: Of the model.
            batch: What it was given.
            spectra: The spectra.
        """
        raise NotImplementedError


class EmbeddingAnswers(Answers):
    """`embedding`, and with `tokens` what stands for each valid patch: `tokens`, `token_wavelength` in Å.

    Args:
        model: As `Answers`; heads are not used.
        processor: As `Answers`.
        sequences: Which of "tokens" and "last_hidden_state" to give too, with `token_wavelength`.
        **options: As `Answers`.
    """

    def __init__(self, model: Any, processor: Any, sequences: Sequence[str] = (), **options: Any):
        super().__init__(model, processor, **options)
        if sequences:
            what = " and ".join(f'"{name}"' for name in sequences)
            check_tokens(self.processor, type(model).__name__, what, "ask for embeddings alone")
        self.sequences = (*sequences, "token_wavelength") if sequences else ()
        encoder = spectrum_part(model.config)
        self.sizes = {"tokens": encoder.latent_size, "last_hidden_state": encoder.hidden_size}

    def _part(self, model: Any) -> Any:
        return model.base_model

    def settings(self) -> dict[str, Any]:
        return super().settings() | {name: name in self.sequences for name in self.sizes}

    def columns(self) -> dict[str, Any]:
        import pyarrow as pa

        number = pa.float32()
        found: dict[str, Any] = {"embedding": pa.list_(number, self.model.config.hidden_size)}
        for name in self.sequences:
            found[name] = pa.list_(pa.list_(number, self.sizes[name]) if name in self.sizes else number)
        return found

    def rows(self, outputs: Any, batch: Mapping[str, Any], spectra: Sequence[Spectrum]) -> list[Row]:
        rows: list[Row] = [{"embedding": values} for values in self._finite(outputs.pooler_output)]
        if self.sequences:
            stops = np.cumsum(batch["num_patches"])[:-1]
            valid = np.split(np.asarray(batch["attention_mask"], dtype=bool), stops)
            for name in self.sequences:
                parts = np.split(_array(getattr(outputs, name)), stops)
                for row, values, chosen in zip(rows, parts, valid, strict=True):
                    row[name] = values[chosen]
        return rows


class ReconstructionAnswers(Answers):
    """`reconstruction`, flux on the grid and in the unit of the input, `covered` where something was observed, and
    `chi2` per good pixel; with the spectrum itself, as `read_spectra` takes it.

    It is what the model's `reconstruct` says: of SpecTok what its tokens keep, of OmniSpectra what each patch is
    predicted to be from others.
    """

    ending = AUTOENCODER
    needs_spectra = True
    units = {"wavelength": "Angstrom"}

    def _ask(self, inputs: Mapping[str, Any]) -> Any:
        return self.model.reconstruct(**inputs)

    def columns(self) -> dict[str, Any]:
        import pyarrow as pa

        texts = dict.fromkeys(("medium", "frame", "flux_unit"), pa.string())
        fluxes = dict.fromkeys(("flux", "ivar", "reconstruction"), pa.list_(pa.float32()))
        flags = dict.fromkeys(("mask", "covered"), pa.list_(pa.bool_()))
        return {"chi2": pa.float32()} | texts | {"wavelength": pa.list_(pa.float64())} | fluxes | flags

    def rows(self, outputs: Any, batch: Mapping[str, Any], spectra: Sequence[Spectrum]) -> list[Row]:
        stops = np.cumsum(batch["num_patches"])[:-1]
        made = {name: self._finite(outputs[name]) for name in ("reconstruction", "coverage")}
        padded = {name: _padded(np.split(values, stops)) for name, values in made.items()}
        spectra = [as_read(self.processor, spectrum) for spectrum in spectra]
        reconstructions = self.processor.post_process_reconstruction(padded, spectra)
        return [_compared(spectrum, one) for spectrum, one in zip(spectra, reconstructions, strict=True)]


def reconstructed(spectrum: Spectrum, row: Row) -> Spectrum:
    """A row of `ReconstructionAnswers` as a spectrum; of one without a valid patch nothing is covered.

    Args:
        spectrum: What was encoded, on the grid on which it was read.
        row: The row; empty of a spectrum without a valid patch.
    """
    nothing = np.zeros(len(spectrum))
    return Spectrum(
        row.get("reconstruction", nothing),
        spectrum.wavelength,
        nothing,
        mask=~row.get("covered", nothing.astype(bool)),
        survey=spectrum.survey,
        object_id=spectrum.object_id,
        medium=spectrum.medium,
        frame=spectrum.frame,
        flux_unit=spectrum.flux_unit,
    )


class ClassAnswers(Answers):
    """`class`, its probability `confidence`, and the probability of each class, `p_GALAXY`, ...."""

    ending = ENDING_OF_HEAD["classification"]

    @cached_property
    def names(self) -> list[str]:
        """The classes."""
        labels = self.model.config.id2label
        return [labels[number] for number in range(len(labels))]

    def columns(self) -> dict[str, Any]:
        import pyarrow as pa

        found: dict[str, Any] = {"class": pa.string(), "confidence": pa.float32()}
        return found | {f"p_{name}": pa.float32() for name in self.names}

    def rows(self, outputs: Any, batch: Mapping[str, Any], spectra: Sequence[Spectrum]) -> list[Row]:
        return [self._row(values) for values in self._finite(outputs.logits.double().softmax(-1))]

    def _row(self, probabilities: np.ndarray) -> Row:
        best = int(probabilities.argmax())
        row: Row = {"class": self.names[best], "confidence": float(probabilities[best])}
        return row | {f"p_{name}": float(value) for name, value in zip(self.names, probabilities, strict=True)}


class ParameterAnswers(Answers):
    """The quantities that a regression head knows, `teff`, ..., with the standard deviation `teff_error`, ...."""

    ending = ENDING_OF_HEAD["stellar-parameters"]

    @cached_property
    def units(self) -> dict[str, str]:  # type: ignore[override]
        """Unit of each column; "" = none."""
        names = self.model.config.target_names
        units = self.model.config.target_units or [""] * len(names)
        return {f"{name}{end}": unit for name, unit in zip(names, units, strict=True) for end in ("", "_error")}

    def columns(self) -> dict[str, Any]:
        import pyarrow as pa

        return dict.fromkeys(self.units, pa.float32())

    def rows(self, outputs: Any, batch: Mapping[str, Any], spectra: Sequence[Spectrum]) -> list[Row]:
        values = self._finite(outputs.predictions)
        known = outputs.get("uncertainties") is not None
        errors = _array(outputs.uncertainties) if known else np.full_like(values, np.nan)
        return [
            dict(zip(self.units, np.stack([value, error], -1).reshape(-1).tolist(), strict=True))
            for value, error in zip(values, errors, strict=True)
        ]


class RedshiftAnswers(Answers):
    """`redshift`, `redshift_error`, `confidence`, and `zwarn` (0 = good, else a sum of bits)."""

    ending = ENDING_OF_HEAD["redshift"]

    def columns(self) -> dict[str, Any]:
        import pyarrow as pa

        return dict.fromkeys(("redshift", "redshift_error", "confidence"), pa.float32()) | {"zwarn": pa.int32()}

    def rows(self, outputs: Any, batch: Mapping[str, Any], spectra: Sequence[Spectrum]) -> list[Row]:
        self._finite(outputs.redshift)
        columns = [outputs.redshift, outputs.uncertainty, outputs.confidence, outputs.zwarn]
        return [
            dict(zip(self.columns(), values, strict=True))
            for values in zip(*(column.tolist() for column in columns), strict=True)
        ]


HEAD_ANSWERS: dict[str, type[Answers]] = {
    "classification": ClassAnswers,
    "stellar-parameters": ParameterAnswers,
    "redshift": RedshiftAnswers,
}


ENCODE, RECONSTRUCT = "encode", "reconstruct"
# What can be asked for by name, as the commands and the methods of `SpectrumEncoder` are called.
TASKS = {ENCODE: "", RECONSTRUCT: ""} | dict(zip(("classify", "predict", "redshift"), HEADS, strict=True))


def load_answers(
    task: str, checkpoint: str | Path, *, device: Any = "cpu", dtype: str = "float32", sequences: Sequence[str] = ()
) -> Answers:
    """What answers a task, from a checkpoint or the head that lies in its folder.

    Args:
        task: A key of `TASKS`.
        checkpoint: As for `place_of`.
        device: Where it runs.
        dtype: Of mixed precision.
        sequences: Of `EmbeddingAnswers`.

    Raises:
        ValueError: If the checkpoint cannot answer.
    """
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    if task == ENCODE:
        return EmbeddingAnswers(*load_encoder(checkpoint), sequences, **options)
    if task == RECONSTRUCT:
        return ReconstructionAnswers(*load_checkpoint(*place_of(checkpoint)), **options)
    return HEAD_ANSWERS[TASKS[task]](*load_head(checkpoint, TASKS[task]), **options)


def has_head(checkpoint: str | Path, head: str) -> bool:
    """Whether `load_head` would find one; only configurations are read.

    Args:
        checkpoint: As for `place_of`.
        head: One of `HEADS`.
    """
    try:
        return _architecture(*_find_head(checkpoint, head)).endswith(ENDING_OF_HEAD[head])
    except OSError:
        return False


def _find_head(checkpoint: str | Path, head: str) -> tuple[str, dict[str, Any]]:
    own = place_of(checkpoint)
    if _architecture(*own).endswith(ENDING_OF_HEAD[head]):
        return own
    place = head_place(checkpoint, head)
    if Path(own[0]).is_dir() and not Path(place[0]).is_dir():  # else Transformers takes it for a name on the Hub
        raise FileNotFoundError(f"{checkpoint} must hold a folder {head} with that head, found none")
    return place


def load_head(checkpoint: str | Path, head: str) -> tuple[Any, SpectrumProcessor]:
    """A task head with the encoder under it, and its processor: the checkpoint itself, or the one in its folder.

    Args:
        checkpoint: As for `place_of`.
        head: One of `HEADS`.

    Raises:
        ValueError: If there is none; an OSError where there is no checkpoint at all.
    """
    try:
        return load_checkpoint(*_find_head(checkpoint, head))
    except OSError as error:
        _architecture(*place_of(checkpoint))  # where there is no checkpoint at all, it says that
        raise ValueError(
            f"{checkpoint} has no head for {head} in its folder {head}/: pass a checkpoint that has one, or train one "
            f"({TRAINING[head]}), or fit one on embeddings: SpectrumEncoder.fit_head(X, y)"
        ) from error


def _autoencoder_for(processor: Any) -> str:
    """Where a decoder is to be had; none is of pictures."""
    if reads_pictures(spectrum_part(processor)):
        return "one that reads patches, as spectok-tiny: no model of pictures has a decoder"
    return "the autoencoder that it was made from"


TRAINING = {head: f"examples/finetune_{head.replace('-', '_')}.py" for head in HEADS}


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(parts), max(map(len, parts)), *parts[0].shape[1:]), dtype=parts[0].dtype)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    return padded


def _compared(spectrum: Spectrum, made: Spectrum) -> Row:
    good = spectrum.good & ~made.mask
    residual = (spectrum.flux[good] - made.flux[good]) * np.sqrt(spectrum.ivar[good])
    chi2 = float(np.mean(np.square(residual, dtype=np.float64))) if good.any() else float("nan")
    own = {
        name: getattr(spectrum, name)
        for name in ("medium", "frame", "flux_unit", "wavelength", "flux", "ivar", "mask")
    }
    return {"chi2": chi2, **own, "reconstruction": made.flux, "covered": ~made.mask}


__all__ = [
    "DTYPES",
    "ENCODE",
    "HEAD_ANSWERS",
    "RECONSTRUCT",
    "TASKS",
    "Answers",
    "ClassAnswers",
    "EmbeddingAnswers",
    "ParameterAnswers",
    "ReconstructionAnswers",
    "RedshiftAnswers",
    "check_device",
    "config_digest",
    "fastest_device",
    "has_head",
    "head_place",
    "load_answers",
    "load_checkpoint",
    "load_encoder",
    "load_head",
    "load_processor",
    "place_of",
    "reconstructed",
    "weights_digest",
]
