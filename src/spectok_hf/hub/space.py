"""Spaces: folders that run a page for a checkpoint on the Hub, written by `write_space`, read by `load_models`."""

import csv
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCard, SpaceCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import (
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
    PreTrainedConfig,
)
from transformers.utils import cached_file

from ..data.simulation import simulate_survey
from ..data.surveys import SURVEYS
from ..models.checkpoints import PIPELINES
from ..models.processing_spectok import SpectrumProcessor
from ..models.spectrum import Spectrum
from ..shipped import DEFAULT, HEADS, find_shipped, shipped_heads
from .card_checks import LICENSES
from .card_facts import FACTS_FILE, load_facts
from .families import FAMILIES, family_of

PACKAGE = "spectok-hf"
SPACE_FILE = "space.json"  # what is in a Space; by it a folder is known as one
# All that a Space has, and what a run of it leaves behind; a folder with anything else is not overwritten.
CONTENTS = {SPACE_FILE, "app.py", "requirements.txt", "README.md", "spectok_hf", "checkpoints", "examples"}
LEFT_BEHIND = {"__pycache__", ".gradio", ".cache"}
KEPT = {".git", ".gitattributes"}  # of a clone of the Space's repository
# Of a checkpoint; no optimizer states, nor anything else that is a pickle.
CHECKPOINT_FILES = (
    *("config.json", "preprocessor_config.json", "processor_config.json", "README.md", FACTS_FILE, "*.py"),
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
)
# What a checkpoint must have, each by one of these; variants such as model.fp16.safetensors are not loaded.
NEEDED = (
    *(("config.json",), ("model.safetensors", "model.safetensors.index.json")),
    ("preprocessor_config.json", "processor_config.json"),
)

# The end of a class's name in a checkpoint's `architectures`, and the task that it is for.
TASKS = {ending: task for ending, (task, _) in PIPELINES.items()}
RECONSTRUCTION = TASKS["ForPreTraining"]
PLACE = ("revision", "subfolder")  # where in a repository, in an entry of `space.json`
# Simulated by survey and class, at a signal-to-noise ratio of which a plot shows something.
EXAMPLES = {
    "SDSS galaxy": ("sdss", "GALAXY", 20.0),
    "DESI quasar": ("desi", "QSO", 8.0),
    "APOGEE star": ("apogee", "STAR", 80.0),
    "GALAH star": ("galah", "STAR", 40.0),
}
EXAMPLE_FIELDS = ("survey", "object_id", "medium", "frame", "flux_unit")

TITLE = "{}: spectra as tokens"  # of a family
APP = '''"""Spectra as tokens, in the browser; written by `spectok space`."""

from pathlib import Path

from spectok_hf.hub.space_app import build_app, launch_options

demo = build_app(Path(__file__).parent)

if __name__ == "__main__":
    demo.launch(**launch_options())
'''


@dataclass(frozen=True)
class Checkpoint:
    """A model with what it needs to answer.

    Args:
        model: In evaluation mode.
        processor: The one that was saved with it.
        surveys: Surveys that it was trained on, keys of `SURVEYS`; none = not known.
    """

    model: Any
    processor: SpectrumProcessor
    surveys: tuple[str, ...] = ()


@dataclass(frozen=True)
class SpaceModels:
    """All models of a Space.

    Args:
        autoencoder: Tokenizes and reconstructs.
        heads: Task heads by their task, one of `TASKS`.
        title: Of the page.
        examples: Files to choose from, by the text of their button.
    """

    autoencoder: Checkpoint
    heads: Mapping[str, Checkpoint] = field(default_factory=dict)
    title: str = "SpecTok"
    examples: Mapping[str, str] = field(default_factory=dict)


# Reading ------------------------------------------------------------------------------------------


def task_of(architectures: Sequence[str] | None) -> str:
    """The task of a checkpoint, by the class that its config names.

    Args:
        architectures: Of the config.

    Raises:
        ValueError: If the class is for none of the tasks.
    """
    for name in architectures or []:
        for ending, task in TASKS.items():
            if name.endswith(ending):
                return task
    raise ValueError(
        f"a checkpoint of a Space must be of a class whose name ends in {', '.join(TASKS)}, found {architectures}: "
        "save it from one of these classes (encoders alone, and models of spectra and images, have no Space)"
    )


def load_models(folder: str | Path | None = None) -> SpaceModels:
    """The models that a Space's `space.json` names.

    Args:
        folder: The Space, written by `write_space`; None = the checkpoint that comes with the package, and its heads.

    Raises:
        ValueError: If the folder is none.
    """
    if folder is None:
        found = _find_checkpoints(DEFAULT, shipped_heads(DEFAULT), ())
        checkpoints = {task: _load(Path(), task, entry) for task, (_, entry) in found.items()}
        autoencoder = checkpoints.pop(RECONSTRUCTION)
        return SpaceModels(autoencoder, checkpoints, TITLE.format(family_of(autoencoder.model.config).name))
    folder = Path(folder)
    if not (folder / SPACE_FILE).is_file():
        raise ValueError(f"{folder} must hold {SPACE_FILE}, found none: write the Space with `spectok space`")
    contents = json.loads((folder / SPACE_FILE).read_text())
    checkpoints = {task: _load(folder, task, entry) for task, entry in contents["checkpoints"].items()}
    examples = {text: str(folder / "examples" / name) for text, name in contents["examples"].items()}
    return SpaceModels(checkpoints.pop(RECONSTRUCTION), checkpoints, contents["title"], examples)


def _load(folder: Path, task: str, entry: Mapping[str, Any]) -> Checkpoint:
    local = folder / entry["source"]
    source = str(local) if local.is_dir() else entry["source"]
    auto_class = AutoModelForPreTraining if task == RECONSTRUCTION else AutoModelForSequenceClassification
    place = {name: entry[name] for name in PLACE if name in entry}
    model = auto_class.from_pretrained(source, **place).eval()
    processor = AutoProcessor.from_pretrained(source, **place)
    return Checkpoint(model, processor, tuple(entry["surveys"]))


# Writing ------------------------------------------------------------------------------------------


def write_space(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    heads: Sequence[str | Path] | None = None,
    title: str | None = None,
    license: str = "mit",
    models: Sequence[str] = (),
    surveys: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write the folder of a Space: a page where a visitor uploads a spectrum and sees what the models make of it.

    Folders of checkpoints are copied into it; checkpoints on the Hub are named, and loaded where the Space runs. So is
    the source of this package copied: the Space runs whether or not the package can be had from PyPI.

    Args:
        checkpoint: The autoencoder: a folder, the name of a checkpoint that comes with the package, or the id of a
            repository on the Hub, with @ and a revision to pin it.
        folder: Where the Space is written, when it is complete; `.git` of a clone stays in it.
        heads: Checkpoints of task heads, at most one per task; which task it is says their config. One in a sub-folder
            of a repository is ORG/NAME/redshift, or alike. None = those that come with a checkpoint of the package.
        title: Of the page; None = it names the model family.
        license: Of the Space, as the Hub spells it: one of `LICENSES`.
        models: Repositories of models that the Space's page links to, beside those that it loads.
        surveys: What the checkpoints were trained on, keys of `SURVEYS`: the page says where a spectrum lies at other
            wavelengths. None = those of the card's facts (`facts.yaml`) beside the checkpoint, else those that were
            simulated for it, where its `run.json` says so.
        overwrite: Replace a Space that was written before.

    Returns:
        The folder.

    Raises:
        ValueError: If a checkpoint is incomplete, of no task or of a task that another one has, or a survey or the
            license is unknown.
        FileExistsError: If the folder holds anything, unless it is a Space that may be overwritten, or is a link to
            nothing.
        OSError: If a checkpoint cannot be found.
    """
    target = Path(folder)
    _check_folder(target, overwrite)
    target = target.resolve()  # links stay, and "." has a name
    if license not in LICENSES:
        raise ValueError(f"license must be an identifier of the Hub such as mit or apache-2.0, found {license!r}")
    if unknown := sorted(set(surveys) - set(SURVEYS)):
        raise ValueError(f"surveys must be among {', '.join(SURVEYS)}, found {', '.join(unknown)}")
    heads = shipped_heads(str(checkpoint)) if heads is None else heads
    found = _find_checkpoints(checkpoint, heads, surveys)
    model_type = str(_config_of(found[RECONSTRUCTION][1]).get("model_type"))
    if title is None:
        title = TITLE.format(FAMILIES[model_type].name if model_type in FAMILIES else model_type)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Within a folder that is there: it may be a file system of its own, between which nothing can be renamed.
    place = target if target.exists() else target.parent
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=place) as aside:
        written = Path(aside) / "new"
        written.mkdir()
        entries = {task: _place(written, task, source, entry) for task, (source, entry) in found.items()}
        surveys_read = FAMILIES[model_type].surveys if model_type in FAMILIES else ()
        examples = _write_examples(written / "examples", surveys_read)
        contents = {"title": title, "checkpoints": entries, "examples": examples}
        (written / SPACE_FILE).write_text(json.dumps(contents, indent=2) + "\n")
        (written / "app.py").write_text(APP)
        (written / "requirements.txt").write_text(_requirements())
        _copy_package(written / "spectok_hf")
        _card(title, license, model_type, entries, models, examples).save(written / "README.md")
        _put(written, target, Path(aside) / "old")
    return Path(folder)


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.is_symlink() and not folder.exists():
        raise FileExistsError(
            f"{folder} must be a folder, found a link to {folder.readlink()}, where nothing is: make that folder, or "
            "pass another one"
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} must be a folder, found a file: pass another folder")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not names - KEPT:
        return
    if SPACE_FILE not in names:
        raise FileExistsError(f"{folder} must be empty or a Space written before, found neither: pass another folder")
    if foreign := sorted(names - CONTENTS - LEFT_BEHIND - KEPT):
        raise FileExistsError(
            f"{folder} must hold a Space and nothing else, found {', '.join(foreign)}: move that, or pass another "
            "folder"
        )
    if not overwrite:
        raise FileExistsError(f"{folder} holds a Space already: pass another folder, or --overwrite (overwrite=True)")


def _find_checkpoints(
    checkpoint: str | Path, heads: Sequence[str | Path], surveys: Sequence[str]
) -> dict[str, tuple[Path | None, dict[str, Any]]]:
    """Of each task the folder to copy, None for one on the Hub, and the entry of `space.json`."""
    found: dict[str, tuple[Path | None, dict[str, Any]]] = {}
    for given in (checkpoint, *heads):
        source, entry = _find(given, surveys)
        task = task_of(_config_of(entry).get("architectures"))
        if not found and task != RECONSTRUCTION:
            raise ValueError(
                f"the first checkpoint of a Space must be an autoencoder (...ForPreTraining), found {given}, of "
                f"{task}: pass it as a head"
            )
        if task in found:
            raise ValueError(f"a Space has one checkpoint per task, found {given} as the second for {task}")
        found[task] = source, entry
    return found


def _config_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a checkpoint, as it is stored."""
    place = {name: entry[name] for name in PLACE if name in entry}
    return PreTrainedConfig.get_config_dict(entry["source"], **place)[0]


def _find(given: str | Path, surveys: Sequence[str]) -> tuple[Path | None, dict[str, Any]]:
    path = find_shipped(given) or Path(given).expanduser()
    if path.is_dir():
        _check_complete(path)
        known = list(surveys) or _training_surveys(str(path)) or _simulated_surveys(path)
        return path, {"source": str(path), "revision": None, "surveys": known}
    place, _, revision = str(given).partition("@")
    root, _, last = place.rpartition("/")
    name, subfolder = (root, last) if "/" in root and last in HEADS else (place, "")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{given} must be a folder, or the id of a model on the Hub, found neither") from error
    known = list(surveys) or _training_surveys(name, revision or None, subfolder)
    entry = {"source": name, "revision": revision or None, "surveys": known}
    return None, entry | ({"subfolder": subfolder} if subfolder else {})


def _check_complete(folder: Path) -> None:
    for names in NEEDED:
        if not any((folder / name).is_file() for name in names):
            raise ValueError(
                f"{folder} must hold a checkpoint and its processor, found no {' or '.join(names)}: save both there "
                "with save_pretrained"
            )


def _training_surveys(source: str, revision: str | None = None, subfolder: str = "") -> list[str]:
    """What the facts of its card, which are published beside a checkpoint, say that it was trained on."""
    place = {"revision": revision, "subfolder": subfolder}
    path = cached_file(source, FACTS_FILE, _raise_exceptions_for_missing_entries=False, **place)
    return [] if path is None else list(load_facts(path).training)


def _simulated_surveys(folder: Path) -> list[str]:
    """What `examples/pretrain.py` and its like note of a run; real data may be of any survey, and count as unknown."""
    if not (folder / "run.json").is_file():
        return []
    data = json.loads((folder / "run.json").read_text()).get("data", {})
    return [] if data.get("data") else [name for name in data.get("simulate", []) if name in SURVEYS]


def _place(written: Path, task: str, source: Path | None, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a checkpoint, which is copied where it is a folder."""
    if source is None:
        return entry
    target = written / "checkpoints" / task
    target.mkdir(parents=True)
    for path in {path for pattern in CHECKPOINT_FILES for path in source.glob(pattern)}:
        shutil.copyfile(path, target / path.name)
    return entry | {"source": str(target.relative_to(written))}


def _copy_package(target: Path) -> None:
    source = Path(__file__).parent.parent
    # The checkpoints of a wheel stay behind: the Space has its own.
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*", "checkpoints"))


def _put(written: Path, folder: Path, old: Path) -> None:
    """Rename what was written to its place; what was there goes with the temporary folder.

    A folder that is there stays, as it may be a link, a clone, or where somebody works: its contents are exchanged.
    """
    if not folder.exists():
        written.rename(folder)
        return
    old.mkdir()
    kept = {*KEPT, old.parent.name}
    moves = [(path, old / path.name) for path in folder.iterdir() if path.name not in kept]
    moves += [(path, folder / path.name) for path in written.iterdir()]
    done = []
    try:
        for source, target in moves:
            source.rename(target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        raise


def _requirements() -> str:
    """What the copied package needs, at the versions that its metadata asks for."""
    lines = [re.sub(r"\s*;.*", "", line) for line in _declared() if "extra ==" not in line or _is_extra(line, "space")]
    return "\n".join(lines) + "\n"


def _declared() -> list[str]:
    try:
        return requires(PACKAGE) or []
    except PackageNotFoundError as error:
        raise ValueError(
            f"write_space needs {PACKAGE} to be installed, found a mere copy of its source: pip install {PACKAGE}"
        ) from error


def _is_extra(requirement: str, extra: str) -> bool:
    return re.search(rf"extra == ['\"]{extra}['\"]", requirement) is not None


def _gradio_version() -> str:
    """The one that is installed, else the lowest that is asked for."""
    try:
        return version("gradio")
    except PackageNotFoundError:
        lowest = next(re.search(r">=([\d.]+)", line) for line in _declared() if line.startswith("gradio"))
        return f"{lowest[1] if lowest else '6.1'}.0"


def _card(
    title: str,
    license: str,
    model_type: str,
    entries: Mapping[str, Mapping[str, Any]],
    models: Sequence[str],
    examples: Mapping[str, str],
) -> SpaceCard:
    on_hub = [entry["source"] for entry in entries.values() if not entry["source"].startswith("checkpoints/")]
    data = SpaceCardData(
        title=title,
        emoji="🌈",
        colorFrom="indigo",
        colorTo="red",
        sdk="gradio",
        sdk_version=_gradio_version(),
        python_version=str(metadata(PACKAGE)["Requires-Python"]).strip("<>=~ "),
        app_file="app.py",
        license=license,
        models=list(dict.fromkeys([*on_hub, *models])) or None,
        tags=["astronomy", "spectroscopy", "spectra", model_type],
        short_description="Upload a spectrum, see its tokens",
    )
    return SpaceCard.from_template(
        data,
        template_path=str(Path(__file__).parent / "templates" / "space_readme.md"),
        page_title=title,
        checkpoints=entries,
        package_version=_declared() and version(PACKAGE),
        examples=list(examples),
        surveys=FAMILIES[model_type].surveys if model_type in FAMILIES else (),
    )


# Examples -----------------------------------------------------------------------------------------


def _write_examples(folder: Path, surveys: Sequence[str]) -> dict[str, str]:
    """One simulated spectrum each, of these surveys (none = of all); gives the files' names by what they show."""
    folder.mkdir()
    names = {}
    for text, (survey, kind, snr) in EXAMPLES.items():
        if surveys and survey not in surveys:
            continue
        names[text] = f"{text.lower().replace(' ', '-')}.csv"
        _write_csv(simulate_survey(survey, 1, kind=kind, snr=snr)[0], folder / names[text])
    return names


def _write_csv(spectrum: Spectrum, path: Path) -> None:
    """A row per pixel, as `read_spectra` reads it; what holds for the whole spectrum stands in the first row."""
    with path.open("w", newline="") as file:
        file.write("# simulated by spectok_hf.simulate_survey, not observed\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("wavelength", "flux", "ivar", "mask", *EXAMPLE_FIELDS))
        constants: list[Any] = [getattr(spectrum, name) for name in EXAMPLE_FIELDS]
        for wavelength, flux, ivar, mask in zip(
            spectrum.wavelength, spectrum.flux, spectrum.ivar, spectrum.mask, strict=True
        ):
            writer.writerow((f"{wavelength:.10g}", f"{flux:.6g}", f"{ivar:.6g}", int(mask), *constants))
            constants = [""] * len(constants)


__all__ = [
    "EXAMPLES",
    "RECONSTRUCTION",
    "SPACE_FILE",
    "TASKS",
    "Checkpoint",
    "SpaceModels",
    "load_models",
    "task_of",
    "write_space",
]
