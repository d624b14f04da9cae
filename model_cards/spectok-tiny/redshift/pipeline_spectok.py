"""Pipelines: from whatever holds a spectrum to answers in units, that JSON can hold."""

import math
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from types import GeneratorType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Pipeline
from transformers.utils import ModelOutput

from .checkpoints import PIPELINES
from .heads import ZWARN_BITS
from .redshift_posterior import redshift_nodes
from .sources import ARRAY_FIELDS, is_spectrum, read_source, shown

PREPROCESS_OPTIONS = ("on_invalid",)


class SpectrumPipeline(Pipeline):
    """
    What all pipelines of spectra share: what they take, and how batches are made.

    They take a `Spectrum`; a mapping of arrays; flux, shape (L,) or (n, L), with `wavelength=` and `ivar=` or `error=`
    beside it; a dataset row; and where the package is installed a FITS path, the bytes of a FITS file, specutils
    objects and tables. One spectrum gives one answer, several of one source give a list, and so does a list of sources
    of one spectrum each; a generator or a dataset of such gives a generator. `batch_size=` batches spectra of any
    lengths: the answers are those of one at a time.

    Args:
        model: The model. Loaded by name, it is refused where a part of it is not in the checkpoint.
        processor: Its processor; absent = the one it was saved with.
        on_invalid: What to do with a spectrum without a valid patch: "raise", or "mask", which answers None in place
            of numbers.

    Raises:
        ValueError: If the model is of another task.
    """

    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_processor = False
    _load_feature_extractor = None  # where it is not given, the model knows

    architecture = ""  # how the name of a model that can answer ends
    advice = ""  # what to do about another one, where no pipeline is its own
    reads: tuple[str, ...] = ()  # what of the model's outputs is read
    options: tuple[str, ...] = ()  # of postprocess
    item = "spectrum"  # what one of a list is called, with its number, in errors

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        name = type(model).__name__
        if not name.endswith(self.architecture):
            tasks = [task for end, (task, _) in PIPELINES.items() if name.endswith(end)]
            raise ValueError(
                f"{type(self).__name__} needs a model ...{self.architecture}, found {name}"
                + (f": that is of the pipeline {tasks[0]!r}" if tasks else self.advice)
            )
        processor = kwargs.pop("processor", None) or kwargs.pop("feature_extractor", None)
        if processor is None and not model.processor_settings:
            raise ValueError("a pipeline needs the processor of its model, found none: pass processor=")
        kwargs["feature_extractor"] = processor or model.own_processor()
        super().__init__(model, *args, **kwargs)
        self.model.eval()

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answers for one spectrum or many.

        Args:
            inputs: What holds spectra, see the class.
            **kwargs: `wavelength`, `ivar` or `error`, and other fields of a `Spectrum`, where `inputs` is flux;
                `batch_size`, `num_workers`, `on_invalid`, and the pipeline's own options.

        Raises:
            ImportError: If the input needs the installed package.
            ValueError: If an input holds no spectrum, or an impossible one.
        """
        given = {name: kwargs.pop(name) for name in ARRAY_FIELDS if name in kwargs}
        fields = {name: value for name, value in given.items() if value is not None}
        if _is_stream(inputs):
            _check_no_fields(fields, inputs)
            inputs = inputs if isinstance(inputs, (Dataset, GeneratorType)) else (row for row in inputs)
            return super().__call__(inputs, **kwargs)
        if _is_list(inputs):
            _check_no_fields(fields, inputs)
            return super().__call__(_numbered(inputs), **kwargs) if inputs else []
        spectra = read_source(inputs, fields)
        return super().__call__(spectra[0] if len(spectra) == 1 else _numbered(spectra), **kwargs)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save model and processor; they bring the pipelines along.

        Args:
            save_directory: Folder to write to.
            **kwargs: Of the model's `save_pretrained`.
        """
        self.model.remember_processor(self.feature_extractor)
        self.model.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        unknown = sorted(set(kwargs) - {*PREPROCESS_OPTIONS, *self.options})
        if unknown:
            known = ", ".join(("on_invalid", *self.options, "batch_size", "num_workers", *ARRAY_FIELDS))
            raise ValueError(f"{type(self).__name__} does not know {', '.join(unknown)}: it takes {known}")
        before, after = (
            {name: kwargs[name] for name in names if name in kwargs} for names in (PREPROCESS_OPTIONS, self.options)
        )
        if before.get("on_invalid", "raise") not in ("raise", "mask"):
            raise ValueError(f'on_invalid must be "raise" or "mask" here, found {before["on_invalid"]!r}')
        return before, {}, after

    def preprocess(self, source: Any, on_invalid: str = "raise") -> dict[str, Any]:
        """Model inputs of one item, and what answers are made with.

        Args:
            source: What holds it.
            on_invalid: See the class.

        Raises:
            ValueError: If it is not one item, or an invalid one; of a list, with its number.
        """
        if not isinstance(source, _Numbered):
            return self._prepare(source, on_invalid)
        try:
            return self._prepare(source.item, on_invalid)
        except ValueError as error:
            raise ValueError(f"{self.item} {source.number}: {error}") from error

    def _prepare(self, source: Any, on_invalid: str) -> dict[str, Any]:
        spectra = read_source(source, {})
        if len(spectra) != 1:
            raise ValueError(
                f"each item of a list must hold one spectrum, found {len(spectra)} in {shown(source)}: pass it "
                "alone, or read_spectra of all of them"
            )
        inputs = self.feature_extractor(spectra, on_invalid="mask", return_tensors="pt")
        if on_invalid == "raise" and not self.feature_extractor.observed(inputs).any():
            raise ValueError(
                f'{spectra[0]!r} has {self.feature_extractor.nothing}: drop it, or pass on_invalid="mask", which '
                "answers None"
            )
        return {**inputs, "spectra": spectra}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        spectra = model_inputs.pop("spectra")
        outputs = self._ask(model_inputs)
        read = {name: outputs[name] for name in self.reads if name in outputs}
        return {"spectra": spectra, "observed": self.feature_extractor.observed(model_inputs), **read}

    def _ask(self, model_inputs: dict[str, Any]) -> ModelOutput:
        return self.model(**model_inputs)


class SpectrumClassificationPipeline(SpectrumPipeline):
    """
    The classes of a spectrum, most probable first: `[{"label": "QSO", "score": 0.93}, ...]`.

    Scores are probabilities that add up to 1; of a model of several labels per spectrum a probability for each; of one
    of `problem_type="regression"` its numbers. See `SpectrumPipeline` for inputs.

    Args:
        top_k: How many classes; absent = all.
    """

    architecture = "ForSpectrumClassification"
    reads = ("logits",)
    options = ("top_k",)

    def postprocess(self, outputs: Mapping[str, Any], top_k: Any = None) -> list[dict[str, Any]]:
        """The classes of one spectrum.

        Args:
            outputs: Of the model.
            top_k: How many.

        Raises:
            ValueError: If `top_k` is not positive.
        """
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, Integral) or top_k < 1):
            raise ValueError(f"top_k must be 1 or more, found {top_k!r}")
        config, logits = self.model.config, outputs["logits"][0].double()
        if config.problem_type == "regression":
            scores = _numbers(logits)
        elif config.problem_type == "multi_label_classification":
            scores = _numbers(logits.sigmoid())
        else:
            scores = _numbers(logits.softmax(-1))
        if not outputs["observed"][0]:
            scores = [None] * len(scores)
        order = sorted(range(len(scores)), key=lambda i: -(scores[i] or 0))[:top_k]
        return [{"label": config.id2label[i], "score": scores[i]} for i in order]


class StellarParametersPipeline(SpectrumPipeline):
    """
    What a regression head was trained on: `{"teff": {"value": 4800.0, "uncertainty": 95.0, "unit": "K"}, ...}`.

    The uncertainty is a standard deviation, None where the model predicts none. See `SpectrumPipeline` for inputs.
    """

    architecture = "ForStellarRegression"
    reads = ("predictions", "uncertainties")

    def postprocess(self, outputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The quantities of one spectrum.

        Args:
            outputs: Of the model.
        """
        names = self.model.config.target_names
        units = self.model.config.target_units or [None] * len(names)
        values = _numbers(outputs["predictions"][0])
        known = outputs.get("uncertainties") is not None
        uncertainties = _numbers(outputs["uncertainties"][0]) if known else [None] * len(names)
        return {
            name: {"value": value, "uncertainty": uncertainty, "unit": unit}
            for name, value, uncertainty, unit in zip(names, values, uncertainties, units, strict=True)
        }


class SpectrumRedshiftPipeline(SpectrumPipeline):
    """
    The redshift of a spectrum:
    `{"redshift": 0.31, "uncertainty": 0.002, "confidence": 0.95, "zwarn": 0, "warnings": []}`.

    `zwarn` is 0 where the redshift is good, else a sum of bits, which `warnings` names. See `SpectrumPipeline` for
    inputs.

    Args:
        return_posterior: Whether to add the whole posterior: `{"redshift": [...], "probability": [...]}`.
    """

    architecture = "ForRedshift"
    reads = ("redshift", "uncertainty", "confidence", "zwarn", "posterior")
    options = ("return_posterior",)

    def postprocess(self, outputs: Mapping[str, Any], return_posterior: bool = False) -> dict[str, Any]:
        """The redshift of one spectrum.

        Args:
            outputs: Of the model.
            return_posterior: See the class.
        """
        observed = bool(outputs["observed"][0])
        answer: dict[str, Any] = {name: _numbers(outputs[name])[0] if observed else None for name in self.reads[:3]}
        zwarn = int(outputs["zwarn"][0])
        answer |= {"zwarn": zwarn, "warnings": [name for name, bit in ZWARN_BITS.items() if zwarn & bit]}
        if return_posterior:
            nodes = redshift_nodes(self.model.config)
            probability = _numbers(outputs["posterior"][0]) if observed else [None] * len(nodes)
            answer["posterior"] = {"redshift": _numbers(nodes), "probability": probability}
        return answer


class SpectrumEmbeddingPipeline(SpectrumPipeline):
    """
    The embedding of a spectrum: `{"embedding": [...]}`; None for a spectrum without a valid patch. See
    `SpectrumPipeline` for inputs.

    Args:
        return_tokens: Whether to add its tokens: `tokens` (patches x channels; None for a patch without data enough),
            `token_wavelength`, the mean wavelength of each patch, `wavelength_unit` and `medium`.
    """

    reads = ("pooler_output", "tokens", "token_wavelength", "attention_mask")
    options = ("return_tokens",)

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(getattr(model, model.base_model_prefix, model), *args, **kwargs)  # the encoder below a head

    def postprocess(self, outputs: Mapping[str, Any], return_tokens: bool = False) -> dict[str, Any]:
        """The embedding of one spectrum.

        Args:
            outputs: Of the model.
            return_tokens: See the class.

        Raises:
            ValueError: If tokens are asked of a model of pictures.
        """
        embedding = _numbers(outputs["pooler_output"][0]) if outputs["observed"][0] else None
        answer: dict[str, Any] = {"embedding": embedding}
        if not return_tokens:
            return answer
        if "tokens" not in outputs:
            raise ValueError(
                "return_tokens=True needs a model with a token for each patch, which one of pictures has not: leave "
                "it out, or load a SpecTok"
            )
        real, valid = outputs["token_wavelength"][0] > 0, outputs["attention_mask"][0] > 0
        tokens = [_numbers(token) if good else None for token, good in zip(outputs["tokens"][0], valid, strict=True)]
        return answer | {
            "tokens": [token for token, kept in zip(tokens, real, strict=True) if kept],
            "token_wavelength": _numbers(outputs["token_wavelength"][0][real]),
            "wavelength_unit": "Angstrom",
            "medium": self.feature_extractor.medium,
        }


class SpectrumReconstructionPipeline(SpectrumPipeline):
    """
    A spectrum encoded and decoded again, in the unit and on the grid of the input:
    `{"wavelength": [...], "flux": [...], "coverage": [...], ...}`.

    `coverage` is 1 where something was observed, 0 where the model invents. See `SpectrumPipeline` for inputs.

    Args:
        grid: Wavelengths in Å to decode onto instead.
        grid_medium: Their medium, "vacuum" or "air"; absent = vacuum.
    """

    architecture = "ForPreTraining"
    reads = ("reconstruction", "coverage", "tokens", "token_wavelength", "token_width", "attention_mask")
    options = ("grid", "grid_medium")

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        if getattr(model.config, "objective", "") == "contrastive":
            raise ValueError(
                'SpectrumReconstructionPipeline needs a decoder, which a model of objective="contrastive" has not: '
                'load one of objective="reconstruction", or use the pipeline "spectrum-embedding"'
            )

    def postprocess(
        self, outputs: Mapping[str, Any], grid: Any = None, grid_medium: str | None = None
    ) -> dict[str, Any]:
        """The reconstruction of one spectrum.

        Args:
            outputs: Of the model.
            grid: See the class.
            grid_medium: See the class.

        Raises:
            ValueError: If the grid is not one a `Spectrum` may have, or is absent beside its medium.
        """
        if grid is None:
            if grid_medium is not None:
                raise ValueError(f"grid_medium={grid_medium!r} needs the grid it is the medium of: pass grid=")
            found = self.feature_extractor.post_process_reconstruction(outputs, outputs["spectra"])[0]
        else:
            grid_medium = grid_medium or "vacuum"
            decoded = self._regrid(outputs, grid, grid_medium)
            found = self.feature_extractor.post_process_reconstruction(
                decoded, outputs["spectra"], wavelength=np.asarray(grid, dtype=np.float64), medium=grid_medium
            )[0]
        return {
            "object_id": found.object_id,
            "wavelength": _numbers(found.wavelength),
            "flux": _numbers(found.flux) if outputs["observed"][0] else [None] * len(found),
            "coverage": (~found.mask).astype(int).tolist(),
            "wavelength_unit": "Angstrom",
            "medium": found.medium,
            "flux_unit": found.flux_unit,
        }

    def _ask(self, model_inputs: dict[str, Any]) -> ModelOutput:
        return self.model.reconstruct(**model_inputs)

    def _regrid(self, outputs: Mapping[str, Any], grid: Any, medium: str) -> ModelOutput:
        wavelength = self.feature_extractor.patch_wavelength(grid, medium=medium)["wavelength"]
        found = {name: outputs[name].to(self.device) for name in self.reads}
        with torch.inference_mode():
            return self.model.regrid(found, wavelength.to(self.device))


class _Numbered(NamedTuple):
    """An item of a list; the library hands each to `preprocess` alone."""

    number: int
    item: Any


def _numbered(items: Iterable[Any]) -> list[_Numbered]:
    return [_Numbered(number, item) for number, item in enumerate(items)]


def _is_stream(inputs: Any) -> bool:
    """Whether inputs come one by one: a generator, an iterator, a dataset of torch, or one of the library datasets."""
    dataset = type(inputs).__module__.partition(".")[0] == "datasets"
    return isinstance(inputs, (GeneratorType, Iterator, Dataset)) or (dataset and isinstance(inputs, Iterable))


def _is_list(inputs: Any) -> bool:
    """Whether inputs are a list of sources, and not of numbers."""
    if not isinstance(inputs, (list, tuple)) or type(inputs).__module__.partition(".")[0] == "specutils":
        return False
    first = inputs[0] if inputs else None
    return (
        first is None or is_spectrum(first) or isinstance(first, (Mapping, str, Path, bytes)) or not _is_numeric(first)
    )


def _is_numeric(item: Any) -> bool:
    return isinstance(item, (int, float, np.number, list, tuple)) or hasattr(item, "__array__")


def _check_no_fields(fields: Mapping[str, Any], inputs: Any) -> None:
    if fields:
        raise ValueError(
            f"{', '.join(fields)} belong to one array of flux, found a {type(inputs).__name__} of inputs: pass "
            'mappings with "flux", "wavelength" and "ivar" or "error"'
        )


def _numbers(values: Any) -> list[float | None]:
    """Numbers that JSON can hold; None for what is not finite."""
    return [number if math.isfinite(number) else None for number in _as_list(values)]


def _as_list(values: Any) -> list[float]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double()
    return np.asarray(values, dtype=np.float64).tolist()


__all__ = [
    "SpectrumClassificationPipeline",
    "SpectrumEmbeddingPipeline",
    "SpectrumPipeline",
    "SpectrumReconstructionPipeline",
    "SpectrumRedshiftPipeline",
    "StellarParametersPipeline",
]
# From spectok-hf; save_pretrained writes this file.
if False:  # Transformers looks here for what must lie beside this file
    from .blocks import __name__
    from .checkpoints import __name__
    from .configuration_heads import __name__
    from .configuration_spectok import __name__
    from .contrastive import __name__
    from .handler import __name__
    from .heads import __name__
    from .inputs import __name__
    from .modeling_spectok import __name__
    from .outputs_spectok import __name__
    from .packed_attention import __name__
    from .packing import __name__
    from .patch_pca_start import __name__
    from .patches import __name__
    from .pipeline_spectok import __name__
    from .processing_spectok import __name__
    from .reconstruction_loss import __name__
    from .redshift_posterior import __name__
    from .sources import __name__
    from .spectrum import __name__
    from .spectrum_inputs import __name__
    from .spectrum_models import __name__
    from .wavelength import __name__
