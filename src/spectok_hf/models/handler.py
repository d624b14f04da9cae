"""What a Hugging Face Inference Endpoint runs: requests in JSON, answered by the pipeline of this folder's checkpoint.

    {"inputs": {"flux": [...], "wavelength": [...], "ivar": [...]}, "parameters": {"top_k": 2}}
    {"inputs": [{...}, {...}]}                     several spectra, several answers
    {"inputs": {"spectrum": {"flux": [...], "lambda": [...], "ivar": [...], "mask": [...]}}}       a dataset row
    {"inputs": {"fits": "U0lNUExF..."}}            a FITS file in base64; needs the package spectok-hf[astro] installed
    {"inputs": <bytes>}                            the same as the body of the request, where the endpoint passes bytes

A spectrum may also say error in place of ivar, mask (true = bad), wavelength_unit, medium, frame, flux_unit and object_id;
null among its numbers is a pixel without data. "parameters" are those of the pipeline, and "task": "spectrum-embedding" to
ask for another pipeline of the checkpoint than its own. What cannot be answered gets {"error": "...", "error_type": "..."}.
Nothing that is sent is ever executed, unpickled, opened as a path or fetched as an address.

The file stands alone: an endpoint imports it from the folder, without the package around it.
"""

import base64
import binascii
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from transformers import pipeline

try:  # reads FITS files, and then its classes are used
    import spectok_hf  # noqa: F401
except ImportError:
    pass

# Limits of one request; the environment variables of the same names, in upper case after SPECTOK_, change them.
LIMITS = {"max_spectra": 64, "max_pixels": 100_000, "max_total_pixels": 1_000_000, "max_file_bytes": 32 * 2**20}
ARRAYS = ("flux", "wavelength", "ivar", "error", "mask")
ROW_ARRAYS = (*ARRAYS, "lambda", "loglam")
TEXTS = ("wavelength_unit", "medium", "frame", "flux_unit", "object_id")
MAX_TEXT = 200
PARAMETERS = {
    "spectrum-classification": ("top_k",),
    "spectrum-redshift": ("return_posterior",),
    "spectrum-embedding": ("return_tokens",),
    "spectrum-reconstruction": ("grid", "grid_medium"),
}
EXAMPLE = '{"inputs": {"flux": [...], "wavelength": [...], "ivar": [...]}}'
BATCH_SIZE = 8


class RequestError(ValueError):
    """A request that cannot be answered; its text says what was expected."""


class EndpointHandler:
    """Answers the requests of an Inference Endpoint.

    Args:
        path: Folder of the checkpoint.

    Raises:
        ValueError: If its config names no pipeline.
    """

    def __init__(self, path: str = ""):
        self.folder = str(Path(path or ".").resolve())
        config = json.loads((Path(self.folder) / "config.json").read_text())
        # Its own task first; any checkpoint embeds.
        self.tasks = tuple(sorted(config.get("custom_pipelines") or (), key="spectrum-embedding".__eq__))
        if not self.tasks:
            raise ValueError(f"{self.folder}/config.json names no pipelines: save the model with spectok_hf once more")
        self.limits = {name: int(os.environ.get(f"SPECTOK_{name.upper()}", value)) for name, value in LIMITS.items()}
        self.pipelines = {self.tasks[0]: self._load(self.tasks[0])}

    def __call__(self, data: Any) -> Any:
        """The pipeline's answer, or what is wrong with the request, as {"error": ..., "error_type": ...}.

        Args:
            data: The request, see the module.
        """
        try:
            inputs, parameters = self._parse(data)
            task = self._task(parameters)
            options = self._options(task, parameters)
            if task not in self.pipelines:
                self.pipelines[task] = self._load(task)
            return self.pipelines[task](inputs, batch_size=BATCH_SIZE, **options)
        except (ValueError, ImportError) as error:
            return {"error": str(error), "error_type": type(error).__name__}

    def _load(self, task: str) -> Any:
        return pipeline(task, model=self.folder, trust_remote_code=True)  # the code of this very folder

    def _parse(self, data: Any) -> tuple[Any, dict[str, Any]]:
        if not isinstance(data, dict) or "inputs" not in data:
            raise RequestError(f"a request must be a mapping with inputs, as {EXAMPLE}, found {_shown(data)}")
        unknown = sorted(str(name) for name in data.keys() - {"inputs", "parameters"})
        if unknown:
            raise RequestError(f"a request holds inputs and parameters, found {', '.join(unknown)[:MAX_TEXT]} as well")
        parameters = {} if data.get("parameters") is None else data["parameters"]
        if not isinstance(parameters, dict):
            raise RequestError(f"parameters must be a mapping of names to values, found {_shown(parameters)}")
        inputs = data["inputs"]
        if isinstance(inputs, list):
            return self._parse_list(inputs), parameters
        return self._parse_spectrum(inputs), parameters

    def _parse_list(self, inputs: list[Any]) -> list[Any]:
        if not 1 <= len(inputs) <= self.limits["max_spectra"]:
            raise RequestError(
                f"inputs must be 1 to {self.limits['max_spectra']} spectra, found {len(inputs)}: send several requests"
            )
        spectra = []
        pixels = 0
        for position, item in enumerate(inputs):
            try:
                spectra.append(self._parse_spectrum(item))
            except RequestError as error:
                raise RequestError(f"spectrum {position}: {error}") from error
            pixels += _count_pixels(spectra[-1])
            if pixels > self.limits["max_total_pixels"]:
                raise RequestError(
                    f"the spectra of a request may have {self.limits['max_total_pixels']} pixels in all, found more "
                    f"after spectrum {position}: send several requests"
                )
        return spectra

    def _parse_spectrum(self, item: Any) -> Any:
        if isinstance(item, (bytes, bytearray)):
            return self._parse_fits(bytes(item))
        if not isinstance(item, dict):
            what = "; paths and addresses are not read" if isinstance(item, str) else ""
            raise RequestError(f"a spectrum must be a mapping, as in {EXAMPLE}, found {_shown(item)}{what}")
        if "fits" in item:
            return self._parse_fits(_decode(item))
        if "spectrum" in item:
            return self._parse_row(item)
        unknown = sorted(str(name) for name in item.keys() - {*ARRAYS, *TEXTS})
        if unknown:
            raise RequestError(
                f"a spectrum may hold {', '.join((*ARRAYS, *TEXTS))}, found {', '.join(unknown)[:MAX_TEXT]} as well"
            )
        arrays = self._parse_arrays({name: value for name, value in item.items() if name in ARRAYS})
        return arrays | {name: _text(name, item[name]) for name in TEXTS if item.get(name) is not None}

    def _parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The spectrum of a dataset row; its other columns are left out."""
        nested = row["spectrum"]
        if not isinstance(nested, dict):
            raise RequestError(f"spectrum must be a mapping of pixel columns by name, found {_shown(nested)}")
        columns = self._parse_arrays({name: value for name, value in nested.items() if name in ROW_ARRAYS})
        texts = {name: _text(name, row[name]) for name in TEXTS if row.get(name) is not None}
        return {"spectrum": columns, **texts}

    def _parse_arrays(self, item: dict[str, Any]) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        for name, values in item.items():
            if values is None:
                continue
            number = name == "error" and isinstance(values, (int, float)) and not isinstance(values, bool)
            arrays[name] = float(values) if number else self._parse_array(name, values)
        return arrays

    def _parse_array(self, name: str, values: Any) -> np.ndarray:
        if not isinstance(values, list):
            raise RequestError(f"{name} must be a list of numbers, one per pixel, found {_shown(values)}")
        if not 1 <= len(values) <= self.limits["max_pixels"]:
            raise RequestError(f"{name} must have 1 to {self.limits['max_pixels']} pixels, found {len(values)}")
        kinds = (int, float, bool) if name == "mask" else (int, float, type(None))
        strange = next((pixel for pixel, value in enumerate(values) if type(value) not in kinds), None)
        if strange is not None:
            raise RequestError(f"{name} must hold numbers only, found {_shown(values[strange])} at pixel {strange}")
        try:
            return np.array(values, dtype=np.int64 if name == "mask" else np.float64)
        except (OverflowError, ValueError) as error:
            raise RequestError(f"{name} holds a number that is no pixel's: {error}") from error

    def _parse_fits(self, content: bytes) -> bytes:
        if len(content) > self.limits["max_file_bytes"]:
            raise RequestError(
                f"a file may have {self.limits['max_file_bytes']} bytes, found {len(content)}: send its spectra alone"
            )
        if not content.startswith(b"SIMPLE  ="):
            raise RequestError(
                f"a file must be uncompressed FITS, which starts with 'SIMPLE  =', found {content[:9]!r}: no other "
                "format is read"
            )
        return content

    def _task(self, parameters: dict[str, Any]) -> str:
        task = parameters.get("task") or self.tasks[0]
        if not isinstance(task, str) or task not in self.tasks:
            raise RequestError(f"task must be one of {', '.join(self.tasks)}, found {_shown(task)}")
        return task

    def _options(self, task: str, parameters: dict[str, Any]) -> dict[str, Any]:
        known = ("task", "on_invalid", *PARAMETERS.get(task, ()))
        unknown = sorted(str(name) for name in parameters.keys() - set(known))
        if unknown:
            raise RequestError(
                f"the parameters of {task} are {', '.join(known)}, found {', '.join(unknown)[:MAX_TEXT]} as well"
            )
        options = {name: value for name, value in parameters.items() if name != "task" and value is not None}
        for name, value in options.items():
            if name.startswith("return_") and not isinstance(value, bool):
                raise RequestError(f"{name} must be true or false, found {_shown(value)}")
        if "grid" in options:
            options["grid"] = self._parse_array("grid", options["grid"])
        return options


def _decode(item: dict[str, Any]) -> bytes:
    if item.keys() - {"fits"} or not isinstance(item["fits"], str):
        raise RequestError('a FITS file must be sent alone, as {"fits": "its content in base64"}')
    try:
        return base64.b64decode(item["fits"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"fits must be the content of a file in base64: {error}") from error


def _text(name: str, value: Any) -> str:
    if name == "object_id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise RequestError(f"{name} must be a text of at most {MAX_TEXT} characters, found {_shown(value)}")
    return value


def _count_pixels(spectrum: Any) -> int:
    if isinstance(spectrum, bytes):
        return len(spectrum) // 8
    return len(spectrum.get("spectrum", spectrum).get("flux", ()))


def _shown(value: Any) -> str:
    """What was found, in few words, whatever its size."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}" + ("..." if len(value) > 40 else "")
    if isinstance(value, (dict, list, bytes)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r}"[:60] if isinstance(value, (int, float, bool, type(None))) else f"a {type(value).__name__}"


__all__ = ["EndpointHandler", "RequestError"]
