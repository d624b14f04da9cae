"""What a Hugging Face Inference Endpoint runs: requests in JSON, answered by the pipeline of this folder's checkpoint.

    {"inputs": {"flux": [...], "wavelength": [...], "ivar": [...]}, "parameters": {"top_k": 2}}
    {"inputs": [{...}, {...}]}                     several spectra, several answers
    {"inputs": {"spectrum": {"flux": [...], "lambda": [...], "ivar": [...], "mask": [...]}}}       a dataset row
    {"inputs": {"fits": "U0lNUExF..."}}            a FITS file in base64; needs the package spectok-hf[astro] installed
    {"inputs": <bytes>}                            the same as the body of the request, where the endpoint passes bytes

A file of several spectra gets a list of answers; in a list, a file must hold one.

A spectrum may also say error in place of ivar (one for each pixel, one for all, or "estimate"), mask (true or 1 =
bad), wavelength_unit, medium, frame, flux_unit and object_id; null among its numbers is a pixel without data. A row
may name its survey, which says the medium and what the bits of a pix_bitmask mean, where the package is installed;
one that the package does not know must stand beside a medium. "parameters" are those of the pipeline, and "task":
"spectrum-embedding" to ask for another pipeline of the checkpoint than its own.

A checkpoint of spectra and images is asked how alike they are; where it is asked to embed, it takes spectra as above:

    {"inputs": {"spectrum": {...}, "image": {"flux": [[[...]]], "bands": ["g", "r", "z"], "pixel_scale": 0.262}}}
    {"inputs": {"spectrum": {...}, "images": [{...}, {...}]}}     candidates, the most similar first; or image, spectra
    {"inputs": {"image": {...}}}                                  its embedding

A list of such gets as many answers.

The flux of an image is in nanomaggies, by band, row and column, or by row, column and band; pixel_scale in arcsec. It
may also say mask (true or 1 = bad), ivar and object_id; null is a pixel without data.

What cannot be answered gets {"error": "...", "error_type": "..."}. Nothing that is sent is ever executed, unpickled,
opened as a path or fetched as an address.

The file stands alone: an endpoint imports it from the folder, without the package around it.
"""

import base64
import json
import math
import os
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from transformers import pipeline

try:  # noqa: SIM105  # a guarded import is looked for as such. It reads FITS files, and then its classes are used
    import spectok_hf  # noqa: F401
except ImportError:
    pass

# Limits of one request; the environment variables of the same names, in upper case after SPECTOK_, change them.
LIMITS = {"max_spectra": 64, "max_pixels": 100_000, "max_total_pixels": 1_000_000, "max_file_bytes": 32 * 2**20}
LIMITS |= {"max_images": 64, "max_image_pixels": 500_000, "max_total_image_pixels": 5_000_000}  # those of all bands
ARRAYS = ("flux", "wavelength", "ivar", "error", "mask")
BITMASKS = ("pix_bitmask", "bitmask", "and_mask", "pixel_flags")
ROW_ARRAYS = (*ARRAYS, *BITMASKS, "lambda", "loglam")
TEXTS = ("wavelength_unit", "medium", "frame", "flux_unit", "object_id")
MAX_TEXT = 200
PAIRS = "spectrum-image-similarity"  # the one task whose inputs are no spectra
SIDES = {"spectrum": "spectrum", "spectra": "spectrum", "image": "image", "images": "image"}
IMAGE_ARRAYS = ("flux", "mask", "ivar")
IMAGE_NEEDS = ("flux", "bands", "pixel_scale")
MAX_BANDS = 16
# What several of a kind are called, and which limits there are on their number and on their pixels in all.
SEVERAL = {
    "spectrum": ("spectra", "max_spectra", "max_total_pixels"),
    "image": ("images", "max_images", "max_total_image_pixels"),
}
FITS_CARD, FITS_BLOCK = 80, 2880  # bytes
SIZE_CARD = re.compile(r"(?:HIERARCH )? *(Z?NAXIS\d*|BITPIX|PCOUNT|GCOUNT|TFIELDS) *=([^/]*)", re.IGNORECASE)
# A FITS file must not become more than this: a few bytes may be meant for very many pixels, packed, or shared by rows.
MAX_UNPACKED_BYTES = 2**30
PACKED_RATIO = 1032  # the most that deflate packs into a byte
ROW_BYTES = 1000  # what a row of a table costs at most while it is read, beside its own bytes
# Of all pipelines, and of each; the kinds are those of JSON.
COMMON_PARAMETERS: dict[str, type] = {"task": str, "on_invalid": str}
PARAMETERS: dict[str, dict[str, type]] = {
    "spectrum-classification": {"top_k": int},
    "spectrum-redshift": {"return_posterior": bool},
    "spectrum-embedding": {"return_tokens": bool},
    "spectrum-reconstruction": {"grid": list, "grid_medium": str},
    PAIRS: {"top_k": int},
}
KINDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list of numbers"}
EXAMPLE = '{"inputs": {"flux": [...], "wavelength": [...], "ivar": [...]}}'
IMAGE_EXAMPLE = '{"flux": [[[...]]], "bands": ["g", "r", "z"], "pixel_scale": 0.262}'
PAIR_EXAMPLE = f'{{"spectrum": {{...}}, "image": {IMAGE_EXAMPLE}}}'
BATCH_SIZE = 8


class RequestError(ValueError):
    """A request that cannot be answered; its text says what was expected."""


class EndpointHandler:
    """Answers the requests of an Inference Endpoint.

    Args:
        path: Folder of the checkpoint.

    Raises:
        FileNotFoundError: If it holds no config.json.
        ValueError: If its config names no pipeline, or a limit in the environment is no number.
    """

    def __init__(self, path: str = ""):
        self.folder = str(Path(path or ".").resolve())
        file = Path(self.folder) / "config.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"EndpointHandler needs the folder of a checkpoint, found no config.json in {self.folder}: pass one"
            )
        config = json.loads(file.read_text())
        # Its own task first; any checkpoint embeds.
        self.tasks = tuple(sorted(config.get("custom_pipelines") or (), key="spectrum-embedding".__eq__))
        if not self.tasks:
            raise ValueError(f"{self.folder}/config.json names no pipelines: save the model with spectok_hf once more")
        self.limits = {name: _limit(f"SPECTOK_{name.upper()}", value) for name, value in LIMITS.items()}
        self.pipelines = {self.tasks[0]: self._load(self.tasks[0])}
        self.one_at_a_time = threading.Lock()  # a model answers no faster for two at once, and may be loading another

    def __call__(self, data: Any) -> Any:
        """The pipeline's answer, or what is wrong with the request, as {"error": ..., "error_type": ...}.

        Args:
            data: The request, see the module.
        """
        try:
            with self.one_at_a_time:
                return self._answer(data)
        except (ValueError, ImportError) as error:
            return {"error": str(error), "error_type": type(error).__name__}

    def _answer(self, data: Any) -> Any:
        request = self._parse(data)
        parameters = {} if request.get("parameters") is None else request["parameters"]
        if not isinstance(parameters, dict):
            raise RequestError(f"parameters must be a mapping of names to values, found {_shown(parameters)}")
        task = self._task(parameters)  # before the spectra, which take longer
        options = self._options(task, parameters)
        inputs = request["inputs"]
        if task == PAIRS:
            inputs = self._parse_pairs(inputs)
        else:
            inputs = self._parse_list(inputs) if isinstance(inputs, list) else self._parse_spectrum(inputs)
        self._check_grid(options, len(inputs) if isinstance(inputs, list) else 1)
        if task not in self.pipelines:
            self.pipelines[task] = self._load(task)
        return self.pipelines[task](inputs, batch_size=BATCH_SIZE, **options)

    def _load(self, task: str) -> Any:
        return pipeline(task, model=self.folder, trust_remote_code=True)  # the code of this very folder

    def _parse(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict) or "inputs" not in data:
            raise RequestError(f"a request must be a mapping with inputs, as {EXAMPLE}, found {_shown(data)}")
        if unknown := _unknown(data, ("inputs", "parameters")):
            raise RequestError(f"a request holds inputs and parameters, found {unknown} as well")
        return data

    def _parse_list(self, items: Any, kind: str = "spectrum", name: str = "inputs") -> list[Any]:
        """Spectra, or images, as the pipeline takes them."""
        several, most, most_pixels = SEVERAL[kind]
        if not isinstance(items, list):
            raise RequestError(f"{name} must be a list of {several}, found {_shown(items)}")
        if not 1 <= len(items) <= self.limits[most]:
            raise RequestError(
                f"{name} must be 1 to {self.limits[most]} {several}, found {len(items)}: send several requests"
            )
        found = []
        pixels = 0
        for position, item in enumerate(items):
            found.append(self._parse_one(item, kind, f"{kind} {position}"))
            pixels += _count_pixels(found[-1])
            if pixels > self.limits[most_pixels]:
                raise RequestError(
                    f"the {several} of a request may have {self.limits[most_pixels]} pixels in all, found more "
                    f"after {kind} {position}: send several requests"
                )
        return found

    def _parse_one(self, item: Any, kind: str, name: str) -> Any:
        try:
            found = self._parse_spectrum(item) if kind == "spectrum" else self._parse_image(item)
            if isinstance(found, list):
                raise RequestError(
                    f"a file must hold one spectrum here, found {len(found)}: send it alone, or its spectra as arrays"
                )
        except RequestError as error:
            raise RequestError(f"{name}: {error}") from error
        return found

    def _parse_pairs(self, inputs: Any) -> Any:
        """Spectra with images as the pipeline takes them: one mapping, or a list of such."""
        if not isinstance(inputs, list):
            return self._parse_pair(inputs)
        most = self.limits["max_spectra"]
        if not 1 <= len(inputs) <= most:
            raise RequestError(f"inputs must be 1 to {most} mappings, found {len(inputs)}: send several requests")
        pairs: list[dict[str, Any]] = []
        for position, item in enumerate(inputs):
            try:
                pairs.append(self._parse_pair(item))
            except RequestError as error:
                raise RequestError(f"input {position}: {error}") from error
            self._check_totals(pairs)
        return pairs

    def _parse_pair(self, item: Any) -> dict[str, Any]:
        """What is compared; whether that makes sense the pipeline says."""
        if not isinstance(item, dict) or (unknown := _unknown(item, tuple(SIDES))):
            found = unknown if isinstance(item, dict) else _shown_source(item)
            raise RequestError(
                f"inputs must be a mapping of {', '.join(SIDES)}, as {PAIR_EXAMPLE}, found {found}: where they are "
                'spectra alone, pass the parameters {"task": "spectrum-embedding"}'
            )
        pair: dict[str, Any] = {}
        for name, value in item.items():
            kind = SIDES[name]
            one = name == kind
            pair[name] = self._parse_one(value, kind, name) if one else self._parse_list(value, kind, name)
        return pair

    def _check_totals(self, pairs: list[dict[str, Any]]) -> None:
        for kind, (several, most, most_pixels) in SEVERAL.items():
            sides = [side for pair in pairs for name, side in pair.items() if SIDES[name] == kind]
            found = [one for side in sides for one in (side if isinstance(side, list) else [side])]
            self._check_most(most, len(found), several)
            self._check_most(most_pixels, sum(map(_count_pixels, found)), f"pixels of {several}")

    def _check_most(self, limit: str, found: int, what: str) -> None:
        if found > self.limits[limit]:
            raise RequestError(
                f"a request may have {self.limits[limit]} {what} in all, found {found} or more: send several requests"
            )

    def _parse_image(self, item: Any) -> dict[str, Any]:
        """An image as the pipeline takes it."""
        if not isinstance(item, dict):
            raise RequestError(f"an image must be a mapping, as {IMAGE_EXAMPLE}, found {_shown_source(item)}")
        known = (*IMAGE_NEEDS, *IMAGE_ARRAYS[1:], "object_id")
        if unknown := _unknown(item, known):
            raise RequestError(f"an image may hold {', '.join(known)}, found {unknown} as well")
        given = {name: value for name, value in item.items() if value is not None}
        if missing := [name for name in IMAGE_NEEDS if name not in given]:
            raise RequestError(f"an image needs {', '.join(IMAGE_NEEDS)}, found no {missing[0]}")
        bands, scale = given["bands"], given["pixel_scale"]
        if not isinstance(bands, list) or not 1 <= len(bands) <= MAX_BANDS:
            raise RequestError(f'bands must be a list of 1 to {MAX_BANDS}, as ["g", "r", "z"], found {_shown(bands)}')
        if (
            type(scale) not in (int, float) or not 0 < scale < 1e6
        ):  # what is plausible the pipeline says; some whole numbers are no float
            raise RequestError(f"pixel_scale must be the size of a pixel in arcsec, found {_shown(scale)}")
        image: dict[str, Any] = {"bands": [_text("a band", band) for band in bands], "pixel_scale": scale}
        image |= {name: self._parse_planes(name, given[name]) for name in IMAGE_ARRAYS if name in given}
        return image | {name: _text(name, given[name]) for name in ("object_id",) if name in given}

    def _parse_planes(self, name: str, values: Any) -> np.ndarray:
        """Nested lists of numbers, of two or three axes."""
        most = self.limits["max_image_pixels"]
        shape: list[int] = []
        level = values
        while isinstance(level, list) and len(shape) < 4:
            shape.append(len(level))
            if not 1 <= math.prod(shape) <= most:
                raise RequestError(f"{name} of an image must have 1 to {most} pixels, found {math.prod(shape)}")
            level = level[0]
        if len(shape) not in (2, 3):
            nested = f"lists nested {len(shape)} deep, or more" if shape else _shown(values)
            raise RequestError(f"{name} of an image must be lists by band, row and column, found {nested}")
        for length in shape[1:]:
            if others := [part for part in values if not isinstance(part, list) or len(part) != length]:
                raise RequestError(f"{name} of an image must be {length} long in all rows, found {_shown(others[0])}")
            values = [value for part in values for value in part]
        return _numbers(name, values).reshape(shape)

    def _parse_spectrum(self, item: Any) -> Any:
        """A spectrum as the pipeline takes it; a list of them for a file of several."""
        if isinstance(item, (bytes, bytearray)):
            return self._read_fits(bytes(item))
        if not isinstance(item, dict):
            raise RequestError(f"a spectrum must be a mapping, as in {EXAMPLE}, found {_shown_source(item)}")
        if "fits" in item:
            return self._read_fits(self._decode(item))
        if "spectrum" in item:
            return self._parse_row(item)
        if unknown := _unknown(item, (*ARRAYS, *TEXTS)):
            raise RequestError(f"a spectrum may hold {', '.join((*ARRAYS, *TEXTS))}, found {unknown} as well")
        arrays = self._parse_arrays({name: value for name, value in item.items() if name in ARRAYS})
        return arrays | {name: _text(name, item[name]) for name in TEXTS if item.get(name) is not None}

    def _parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The spectrum of a dataset row; its other columns are left out."""
        nested = row["spectrum"]
        if not isinstance(nested, dict):
            raise RequestError(f"spectrum must be a mapping of pixel columns by name, found {_shown(nested)}")
        found = {"spectrum": self._parse_columns(nested), **self._parse_columns(row)}
        _check_survey(found["spectrum"] | found)
        return found

    def _parse_columns(self, columns: dict[str, Any]) -> dict[str, Any]:
        arrays = self._parse_arrays({name: value for name, value in columns.items() if name in ROW_ARRAYS})
        texts = {name: _text(name, columns[name]) for name in (*TEXTS, "survey") if columns.get(name) is not None}
        return arrays | texts

    def _parse_arrays(self, item: dict[str, Any]) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        for name, values in item.items():
            if values is None:
                continue
            if name == "error" and isinstance(values, str) and values == "estimate":
                arrays[name] = values
            elif name == "error" and type(values) in (int, float):
                arrays[name] = self._parse_array(name, [values])[0]
            else:
                arrays[name] = self._parse_array(name, values)
        return arrays

    def _parse_array(self, name: str, values: Any) -> np.ndarray:
        if not isinstance(values, list):
            raise RequestError(f"{name} must be a list of numbers, one per pixel, found {_shown(values)}")
        if not 1 <= len(values) <= self.limits["max_pixels"]:
            raise RequestError(f"{name} must have 1 to {self.limits['max_pixels']} pixels, found {len(values)}")
        return _numbers(name, values)

    def _decode(self, item: dict[str, Any]) -> bytes:
        if item.keys() - {"fits"} or not isinstance(item["fits"], str):
            raise RequestError('a FITS file must be sent alone, as {"fits": "its content in base64"}')
        self._check_size(len(item["fits"]) * 3 // 4 - 2)
        try:
            return base64.b64decode(item["fits"], validate=True)
        except ValueError as error:  # also of what is no ASCII
            raise RequestError(
                f"fits must be the content of a file in base64, without line breaks: {error}"
            ) from error

    def _check_grid(self, options: dict[str, Any], spectra: int) -> None:
        """An answer may have as many pixels as a request."""
        most, found = self.limits["max_total_pixels"], len(options.get("grid", ())) * spectra
        if found > most:
            raise RequestError(
                f"the spectra of a request may be decoded onto {most} pixels in all, found {len(options['grid'])} of "
                f"grid for {spectra}: send several requests, or a shorter grid"
            )

    def _check_size(self, found: int) -> None:
        if found > self.limits["max_file_bytes"]:
            raise RequestError(
                f"a file may have {self.limits['max_file_bytes']} bytes, found {found}: send its spectra alone"
            )

    def _read_fits(self, content: bytes) -> Any:
        """The spectrum of a FITS file, or the list of them, by the installed package."""
        self._check_size(len(content))
        if not content.startswith(b"SIMPLE  ="):
            raise RequestError(
                f"a file must be uncompressed FITS, which starts with 'SIMPLE  =', found {content[:9]!r}: no other "
                "format is read"
            )
        try:
            import astropy  # noqa: F401

            from spectok_hf import read_spectra
        except ImportError as error:
            raise ImportError(
                f"a FITS file needs the package spectok-hf[astro] where the endpoint runs: send arrays, as {EXAMPLE}"
            ) from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check_claims(content)
                spectra = read_spectra(content)
        except Exception as error:  # whatever astropy meets in a file that may be made to be wrong
            raise RequestError(f"the FITS file cannot be read: {str(error)[:500]}") from error
        self._check_file(spectra)
        return spectra[0] if len(spectra) == 1 else spectra

    def _check_file(self, spectra: list[Any]) -> None:
        lengths = [len(spectrum.flux) for spectrum in spectra]
        if not 1 <= len(lengths) <= self.limits["max_spectra"] or sum(lengths) > self.limits["max_total_pixels"]:
            raise RequestError(
                f"a file may hold 1 to {self.limits['max_spectra']} spectra of {self.limits['max_total_pixels']} "
                f"pixels in all, found {len(lengths)} of {sum(lengths)}: send its spectra in several requests"
            )
        if max(lengths) > self.limits["max_pixels"]:
            raise RequestError(f"a spectrum may have {self.limits['max_pixels']} pixels, found {max(lengths)}")

    def _task(self, parameters: dict[str, Any]) -> str:
        task = self.tasks[0] if parameters.get("task") is None else parameters["task"]
        if not isinstance(task, str) or task not in self.tasks:
            raise RequestError(f"task must be one of {', '.join(self.tasks)}, found {_shown(task)}")
        return task

    def _options(self, task: str, parameters: dict[str, Any]) -> dict[str, Any]:
        known = COMMON_PARAMETERS | PARAMETERS.get(task, {})
        if unknown := _unknown(parameters, tuple(known)):
            raise RequestError(f"the parameters of {task} are {', '.join(known)}, found {unknown} as well")
        options = {name: value for name, value in parameters.items() if name != "task" and value is not None}
        for name, value in options.items():
            if type(value) is not known[name]:
                raise RequestError(f"{name} must be {KINDS[known[name]]}, found {_shown(value)}")
        if "grid" in options:
            options["grid"] = self._parse_array("grid", options["grid"])
        return options


def _limit(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default)).strip()
    if not text.isdecimal() or not int(text):
        raise ValueError(f"{variable} must be a whole number above 0, found {text[:40]!r}: write it in digits")
    return int(text)


def _numbers(name: str, values: list[Any]) -> np.ndarray:
    kinds = (int,) if name in BITMASKS else (bool, int) if name == "mask" else (int, float, type(None))
    strange = next((pixel for pixel, value in enumerate(values) if type(value) not in kinds), None)
    if strange is not None:
        words = "true (bad) and false" if name == "mask" else "numbers"
        raise RequestError(f"{name} must hold {words} only, found {_shown(values[strange])} at pixel {strange}")
    if name == "mask":
        return _flags(values)
    try:
        return np.array(values, dtype=np.int64 if name in BITMASKS else np.float64)
    except (OverflowError, ValueError) as error:
        raise RequestError(f"{name} holds a number that is no pixel's: {error}") from error


def _flags(values: list[Any]) -> np.ndarray:
    bits = next((value for value in values if value not in (0, 1)), None)
    if bits is not None:
        raise RequestError(
            f"mask must hold true (bad) and false only, found {_shown(bits)}: what the bits of a survey's mask mean "
            "is not known here"
        )
    return np.array(values, dtype=bool)


def _unknown(mapping: dict[str, Any], known: tuple[str, ...]) -> str:
    return ", ".join(sorted(str(name)[:MAX_TEXT] for name in mapping.keys() - set(known)))[:MAX_TEXT]


# The sizes that FITS headers claim, looked at before anything is read by them: astropy believes them, and would take
# hours over an NAXIS of 10^9, or come back to the same HDU for ever after a negative one.


def check_claims(content: bytes) -> None:
    """Refuse a FITS file whose headers claim what it does not hold, or that becomes too large while it is read.

    astropy believes the headers, and may not return from a file that was made for it.

    Args:
        content: The bytes of the file, not compressed.

    Raises:
        RequestError: If it is not what it claims to be.
    """
    start = most = 0
    while start < len(content):
        header, start = _read_header(content, start)
        size = _data_bytes(header)
        if start + size > len(content):
            raise RequestError(f"it is truncated: its headers say {start + size} bytes, found {len(content)}")
        most += _unpacked_bytes(header, size)
        start += -(-size // FITS_BLOCK) * FITS_BLOCK
    if most > MAX_UNPACKED_BYTES:
        raise RequestError(f"it may become {most} bytes when it is unpacked, more than {MAX_UNPACKED_BYTES}")


def _read_header(content: bytes, start: int) -> tuple[dict[str, int], int]:
    """The sizes in the header that begins at `start`, by their keywords, and where its data begin."""
    first = content[start : start + 9]
    if first not in (b"SIMPLE  =", b"XTENSION="):
        raise RequestError(f"a header must begin with SIMPLE or XTENSION, found {first!r} at byte {start}")
    header: dict[str, int] = {}
    for at in range(start, len(content), FITS_CARD):
        card = content[at : at + FITS_CARD].decode("latin-1")
        if card.rstrip() == "END":
            return header, start + -(-(at + FITS_CARD - start) // FITS_BLOCK) * FITS_BLOCK
        if found := SIZE_CARD.match(card):
            name, text = found[1].upper(), found[2].strip()
            if name in header or not text.removeprefix("-").isdecimal() or len(text) > 19:
                raise RequestError(f"a header must give {name} once, as a whole number, found {text[:40]!r}")
            header[name] = int(text)
    raise RequestError(f"the header at byte {start} has no END")


def _data_bytes(header: dict[str, int]) -> int:
    axes = _axes(header, "NAXIS")
    for name, lowest, highest in (("PCOUNT", 0, None), ("GCOUNT", 1, 1), ("TFIELDS", 0, 999)):
        found = header.get(name, lowest)
        if found < lowest or (highest is not None and found > highest):
            raise RequestError(f"{name} must be {lowest} to {highest or 'the size of the file'}, found {found}")
    if abs(header.get("BITPIX", 0)) not in (8, 16, 32, 64):
        raise RequestError(f"BITPIX must be 8, 16, 32 or 64, found {header.get('BITPIX')}")
    return abs(header["BITPIX"]) // 8 * (header.get("PCOUNT", 0) + math.prod(axes)) if axes else 0


def _axes(header: dict[str, int], name: str) -> list[int]:
    number = header.get(name, 0)
    axes = [header.get(f"{name}{axis}", -1) for axis in range(1, number + 1)] if 0 <= number <= 999 else [-1]
    if min(axes, default=1) < 0 or (axes and axes[0] == 0):  # 10^12 rows of nothing cost no byte of the file
        raise RequestError(f"{name} must be 0 to 999, and {name}1, ... as many numbers, found {number} and {axes[:5]}")
    return axes


def _unpacked_bytes(header: dict[str, int], size: int) -> int:
    """The most bytes that an HDU may become."""
    packed = _axes(header, "ZNAXIS")
    pixels = math.prod(packed) if packed else math.prod(_axes(header, "NAXIS"))
    rows = header["NAXIS2"] if header.get("TFIELDS") and "NAXIS2" in header and not packed else 0
    # Each row of a table may point to all of the heap, whose size is PCOUNT.
    return 8 * pixels + bool(packed) * PACKED_RATIO * size + rows * (header.get("PCOUNT", 0) + ROW_BYTES)


def _text(name: str, value: Any) -> str:
    if name == "object_id" and type(value) is int and abs(value) < 2**64:
        value = str(value)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise RequestError(f"{name} must be a text of at most {MAX_TEXT} characters, found {_shown(value)}")
    return value


def _check_survey(row: dict[str, Any]) -> None:
    """Refuse a survey that says no medium: misspelt, its wavelengths in air would be read as those in vacuum."""
    if not row.get("survey") or "medium" in row:
        return
    try:
        from spectok_hf import SURVEYS
    except ImportError:  # and the pipeline says so
        return
    if row["survey"].lower() not in SURVEYS:
        raise RequestError(
            f"survey must be one of {', '.join(SURVEYS)}, or stand beside a medium, found {_shown(row['survey'])}: "
            "correct it, or say medium"
        )


def _count_pixels(source: Any) -> int:
    """The pixels of what was parsed, of a spectrum or of all bands of an image: those of its longest array."""
    if isinstance(source, dict):
        columns = [*source.values(), *source.get("spectrum", {}).values()]
        return max((values.size for values in columns if isinstance(values, np.ndarray)), default=0)
    return int(np.size(source.flux))


def _shown_source(value: Any) -> str:
    return _shown(value) + ("; paths and addresses are not read" if isinstance(value, str) else "")


def _shown(value: Any) -> str:
    """What was found, in few words, whatever its size."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}" + ("..." if len(value) > 40 else "")
    if isinstance(value, (dict, list, bytes)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > 2**64:
        return f"a whole number of {value.bit_length()} bits"
    return f"{value!r}"[:60] if isinstance(value, (int, float, type(None))) else f"a {type(value).__name__}"


__all__ = ["EndpointHandler", "RequestError", "check_claims"]
# From spectok-hf; save_pretrained writes this file.
