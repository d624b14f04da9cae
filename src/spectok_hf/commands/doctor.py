"""The command that looks at the machine: versions, devices, extras, and whether the shipped checkpoint works."""

import importlib.metadata
import platform
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import typer

from .. import __version__, shipped
from .options import DEFAULT, Json, Model, checkpoint, show_json

CORE = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "huggingface-hub",
    "safetensors",
    "numpy",
    "pyarrow",
    "h5py",
)
EXTRAS = {
    "astro": ("astropy", "specutils"),
    "plot": ("matplotlib", "umap-learn"),
    "search": ("faiss-cpu",),
    "train": ("scikit-learn", "peft", "tensorboard"),
    "space": ("gradio",),
}


def doctor(model: Model = DEFAULT, as_json: Json = False) -> None:
    """Look at this machine: versions, devices, extras, and a test of the checkpoint on simulated spectra."""
    found: dict[str, Any] = {
        "spectok-hf": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in CORE},
        "extras": {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
        "devices": _devices(),
        "checkpoints": shipped.shipped_checkpoints(),
        "tests": self_test(checkpoint(model)),
    }
    failed = [test["name"] for test in found["tests"] if test["problem"]]
    if as_json:
        show_json(found)
    else:
        _show(found, model)
    if failed:
        raise ValueError(f"the self-test of {model} found a problem with: {', '.join(failed)}")


def self_test(model: str) -> list[dict[str, Any]]:
    """What of a checkpoint works here, on simulated spectra: each test with its seconds, and what is the matter.

    Args:
        model: The checkpoint.
    """
    import numpy as np

    from ..data.domain import OutOfDomainWarning
    from ..encoder import SpectrumEncoder

    state: dict[str, Any] = {}

    def load() -> str:
        state["encoder"] = SpectrumEncoder.from_pretrained(model)
        state["spectra"] = _spectra_for(state["encoder"])
        return ""

    def embed() -> str:
        vectors = state["vectors"] = state["encoder"].encode(state["spectra"])
        nearest = min(np.abs(vectors[i] - vectors[j]).max() for i, j in ((0, 1), (0, 2), (1, 2)))
        return "" if nearest > 1e-3 else "distinct spectra have equal embeddings"

    def alone() -> str:
        if "vectors" not in state:
            return "there are no embeddings"
        single = state["encoder"].encode(state["spectra"][0])
        worst = float(np.abs(single - state["vectors"][0]).max())
        return "" if worst < 1e-3 else f"a batch changes embeddings by {worst:.2g}"

    def reconstruct() -> str:
        if not state["encoder"].has_decoder:
            return ""
        (made,) = state["encoder"].reconstruct(state["spectra"][:1])
        spectrum = state["spectra"][0]
        good = spectrum.good & ~made.mask
        flux, error = spectrum.flux[good], spectrum.error[good]
        chi2, of_mean = (float(np.mean(((flux - guess) / error) ** 2)) for guess in (made.flux[good], flux.mean()))
        # What is predicted from the rest of a spectrum does not come within its errors, where these are small.
        return "" if chi2 < max(10, of_mean / 2) else f"chi2 per pixel of a reconstruction is {chi2:.3g}"

    tests = {"load": load, "embeddings": embed, "batches": alone, "reconstruction": reconstruct}
    found: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfDomainWarning)  # a head may have seen none of the surveys, and works
        for name, test in tests.items():
            found.append(_timed(name, test))
            if found[0]["problem"]:
                break  # what cannot be loaded cannot be tested
    return found


def _spectra_for(encoder: Any) -> list[Any]:
    """Three simulated spectra, of surveys that a model reads, in its unit and on its grid where it has one."""
    from ..data.simulation import simulate_survey
    from ..data.spectrum_side import spectrum_part
    from ..data.surveys import SURVEYS
    from ..hub.families import family_of

    known = family_of(spectrum_part(encoder.model.config)).surveys or ("sdss", "desi", "galah")
    unit = encoder.processor.flux_unit
    surveys = [survey for survey in known if unit in (None, SURVEYS[survey].flux_unit)]
    spectra = simulate_survey(surveys[0], 2, seed=2512) + simulate_survey(surveys[-1], 1, seed=2512, start=2)
    to_grid = getattr(encoder.processor, "to_grid", None)
    return spectra if to_grid is None else [to_grid(spectrum) for spectrum in spectra]


def _timed(name: str, test: Callable[[], str]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        problem = test()
    except Exception as error:  # whatever it is, it is what the user wants to know
        problem = f"{type(error).__name__}: {error}"
    return {"name": name, "seconds": round(time.monotonic() - started, 2), "problem": problem}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    found = [f"cpu, {torch.get_num_threads()} threads"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        for number in range(torch.accelerator.device_count()):
            name = torch.cuda.get_device_name(number) if kind is not None and kind.type == "cuda" else str(kind)
            found.append(f"{kind}:{number}, {name}")
    return found


def _show(found: dict[str, Any], model: str) -> None:
    typer.echo(f"spectok-hf {found['spectok-hf']}, Python {found['python']}, {found['platform']}")
    typer.echo(
        "packages: " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["packages"].items())
    )
    typer.echo("devices: " + "; ".join(found["devices"]))
    for extra, packages in found["extras"].items():
        missing = [name for name, version in packages.items() if version is None]
        versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        advice = f'missing {", ".join(missing)}: pip install "spectok-hf[{extra}]"' if missing else "there"
        typer.echo(f"extra {extra}: {advice}{f' ({versions})' if versions else ''}")
    typer.echo(f"checkpoints that come with the package: {', '.join(found['checkpoints']) or 'none'}")
    for test in found["tests"]:
        typer.echo(f"test of {model}, {test['name']}: {test['problem'] or 'ok'} ({test['seconds']:.2f} s)")


__all__ = ["doctor", "self_test"]
