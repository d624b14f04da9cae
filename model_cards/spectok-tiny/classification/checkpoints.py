"""What a saved folder holds beside weights and settings, so that it loads where this package is not installed.

Transformers copies the file of a class, and what it imports, only for classes that were registered for it, and names
in `auto_map` only the class that was saved. Here every save, of a config, a processor or a model, writes the same
complete set: all code files, the full `auto_map`, the pipelines, the endpoint handler, and the processor's settings.
"""

import functools
import inspect
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import create_repo
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, FEATURE_EXTRACTOR_NAME, cached_file, logging

ENTRIES = ("configuration", "modeling", "processing", "pipeline")  # of a family; Auto classes and pipelines open these
HANDLER = "handler"
# What an Inference Endpoint installs beside what its image has. It names no spectok-hf: all code is in the folder.
REQUIREMENTS = """\
torch>=2.6
transformers>=5.6,<6
numpy>=2.0
# For FITS files, install the package: spectok-hf[astro]
"""
MARK = "# From spectok-hf; save_pretrained writes this file."
# The pipeline of an architecture by the end of its name; every architecture embeds, besides. Transformers looks the
# Auto classes up in its own module, and there all heads stand under AutoModelForSequenceClassification.
PIPELINES = {
    "ForSpectrumClassification": ("spectrum-classification", "SpectrumClassificationPipeline"),
    "ForStellarRegression": ("stellar-parameters", "StellarParametersPipeline"),
    "ForRedshift": ("spectrum-redshift", "SpectrumRedshiftPipeline"),
    "ForPreTraining": ("spectrum-reconstruction", "SpectrumReconstructionPipeline"),
}
EMBEDDING = ("spectrum-embedding", "SpectrumEmbeddingPipeline")
# What `save_pretrained` takes for the sake of `push_to_hub=True`.
PUSH_OPTIONS = ("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr")

logger = logging.get_logger(__name__)


class SelfContained:
    """Mixin of what has `save_pretrained`: the folder is complete before anything is pushed."""

    def save_pretrained(self, save_directory: Any, *, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As in Transformers, with all that makes the folder complete.

        Args:
            save_directory: Folder to write to.
            push_to_hub: Whether to upload what was written.
            **kwargs: As in Transformers.

        Raises:
            NotADirectoryError: If it is a file.
            FileExistsError: If the folder holds another file of the name of one of ours.
            ValueError: If the folder holds the settings of a processor that does not fit.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"save_pretrained writes a folder, found the file {folder}: pass another path")
        push = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
        folder.mkdir(parents=True, exist_ok=True)
        before = self._get_files_timestamps(folder) if push_to_hub else {}  # type: ignore[attr-defined]
        saved = self._save_complete(folder, **kwargs)
        if push_to_hub:
            created = create_repo(
                push.pop("repo_id", folder.name),
                private=push.pop("private", None),
                token=push.get("token"),
                exist_ok=True,
            )
            self._upload_modified_files(folder, created.repo_id, before, **push)  # type: ignore[attr-defined]
        return saved

    def _save_complete(self, folder: Path, **kwargs: Any) -> Any:
        raise NotImplementedError

    def _save_plain(self, folder: Path, **kwargs: Any) -> Any:
        """What Transformers saves."""
        return super().save_pretrained(folder, **kwargs)  # type: ignore[misc]


class SelfContainedConfig(SelfContained):
    """Mixin of configs.

    `auto_classes` names the classes of the family, as "file.Class", for each Auto class that Transformers knows;
    `processor_fields` what config and processor must agree in.
    """

    auto_classes: Mapping[str, str] = {}
    processor_fields: Sequence[str] = ("patch_size",)  # which the processor has as well
    own_pipelines: Sequence[tuple[str, str]] = ()  # tasks of the family's encoder, with the pipelines' classes
    # Set by the installed package, which registers the pipelines: Transformers asks for trust_remote_code wherever a
    # config names some of its own.
    pipelines_are_registered = False

    def new_processor(self) -> Any:
        """A processor that cuts patches as models of this config read them, else with its defaults."""
        settings = {name: getattr(self, name) for name in self.processor_fields}
        return class_named(self.auto_classes["AutoProcessor"])(**settings)

    def processor_values(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the saved settings of a processor say of `processor_fields`.

        Args:
            settings: The settings.
        """
        return {name: settings.get(name) for name in self.processor_fields}

    def _save_complete(self, folder: Path, **kwargs: Any) -> Any:
        check_code(folder, _family(type(self)))
        architecture = (getattr(self, "architectures", None) or [""])[0]
        self.auto_map = dict(self.auto_classes)
        self.custom_pipelines = custom_pipelines(self.auto_classes, architecture, self.own_pipelines)
        try:
            saved = self._save_plain(folder, **kwargs)
        finally:
            if self.pipelines_are_registered:
                self.__dict__.pop("custom_pipelines", None)
        write_code(folder, _family(type(self)))
        return saved


class SelfContainedProcessor(SelfContained):
    """Mixin of processors."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in Transformers; a setting that the processor does not know is warned about, as by its constructor.

        Args:
            pretrained_model_name_or_path: Folder, or name on the Hub.
            **kwargs: As in Transformers.
        """
        asked, from_pipeline = kwargs.pop("return_unused_kwargs", False), "_from_pipeline" in kwargs
        stacklevel = 3 if "_from_auto" in kwargs else 2  # the caller's line
        processor, unused = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, return_unused_kwargs=True, **kwargs
        )
        if asked:
            return processor, unused
        unknown = sorted(name for name in unused.keys() - _LOADING if not name.startswith("_"))
        if unknown and not from_pipeline:  # which gives what is for the model to all
            text = f"{cls.__name__} does not know {', '.join(unknown)}: check the spelling"
            warnings.warn(text, stacklevel=stacklevel)
        return processor

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in Transformers; a setting may also be given that the file, an older one, does not hold.

        Args:
            feature_extractor_dict: Saved settings.
            **kwargs: As in Transformers.
        """
        known = inspect.signature(cls).parameters.keys() & kwargs.keys()
        given = {name: kwargs.pop(name) for name in known}
        return super().from_dict(feature_extractor_dict | given, **kwargs)  # type: ignore[misc]

    def _save_complete(self, folder: Path, **kwargs: Any) -> Any:
        check_code(folder, _family(type(self)))
        ours = _ours(type(self))
        reference = f"{_file(ours)}.{ours.__name__}"
        self.auto_map = dict.fromkeys(("AutoFeatureExtractor", "AutoProcessor"), reference)
        saved = self._save_plain(folder, **kwargs)
        write_code(folder, _family(type(self)))
        return saved


class SelfContainedModel(SelfContained):
    """Mixin of models, which remember the settings of the processor that lay beside their weights."""

    config: PreTrainedConfig
    processor_settings: dict[str, Any] | None = None  # None = a new model, {} = nothing lay there

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers; the settings of the processor beside the weights are kept, to be saved with them again.

        Args:
            pretrained_model_name_or_path: Folder, or name on the Hub.
            *args: As in Transformers.
            **kwargs: As in Transformers.

        Raises:
            ValueError: If the settings cannot be read.
        """
        options = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
        settings = read_processor_settings(pretrained_model_name_or_path, options)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.processor_settings = model.base_model.processor_settings = settings
        return loaded

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in Transformers, with all that makes the folder complete.

        Args:
            save_directory: Folder to write to.
            is_main_process: Whether this process writes.
            state_dict: What to save in place of the model's own weights.
            push_to_hub: Whether to upload what was written.
            **kwargs: As in Transformers.

        Raises:
            NotADirectoryError: If it is a file.
            FileExistsError: If the folder holds another file of the name of one of ours.
            ValueError: If the folder holds a processor other than the one that this model was trained with.
        """
        own = {"is_main_process": is_main_process, "state_dict": state_dict}
        super().save_pretrained(save_directory, push_to_hub=push_to_hub and is_main_process, **own, **kwargs)

    def remember_processor(self, processor: Any) -> None:
        """Say which processor a new model was trained with: it is saved along. Loaded models know theirs.

        Args:
            processor: The processor.

        Raises:
            ValueError: If it is that of another family, or cuts patches otherwise than the model reads them.
        """
        check_processor(self.config, processor)
        settings = json.loads(processor.to_json_string())  # as saved files have them: JSON knows no tuples
        base: Any = self.base_model  # type: ignore[attr-defined]
        self.processor_settings = base.processor_settings = settings

    def own_processor(self) -> Any:
        """The processor that this model was trained with; of a new model that was not told the default one, with a
        warning.

        Raises:
            ValueError: If the model was loaded from where no processor lay.
        """
        if self.processor_settings:
            return class_named(self.config.auto_classes["AutoProcessor"]).from_dict(self.processor_settings)
        if self.processor_settings is not None:
            raise ValueError(
                "the processor that a model was trained with must be known, found none beside its weights: pass it, "
                "or call model.remember_processor(processor)"
            )
        processor = self.config.new_processor()
        name = type(processor).__name__
        logger.warning(
            f"this model does not know which processor it was trained with: {name}() with its defaults is taken "
            f"(medium={processor.medium!r}). Call model.remember_processor(processor), or save yours beside it"
        )
        return processor

    def _save_complete(self, folder: Path, **kwargs: Any) -> Any:
        path = folder / FEATURE_EXTRACTOR_NAME
        writes = _saves_here(kwargs.get("is_main_process", True))
        if writes:
            check_code(folder, _family(type(self)))
            if path.is_file():
                self.check_own_processor(json.loads(path.read_text()), str(path))
        saved = self._save_plain(folder, **kwargs)
        if writes:
            _let_others_read(folder)
        if writes and not path.is_file():
            self._save_processor(folder)
        return saved

    def _save_processor(self, folder: Path) -> None:
        if self.processor_settings == {}:
            logger.warning(
                f"no processor lay beside the loaded weights, and none is saved to {folder}: save yours there"
            )
        else:
            self.own_processor().save_pretrained(folder)

    def check_own_processor(self, found: Mapping[str, Any], name: str) -> None:
        """Refuse the settings of a processor other than the one that this model was trained with, where that is known.

        Args:
            found: The settings, as they are saved.
            name: What they are of, for the message.

        Raises:
            ValueError: If one differs that changes what a model reads of a spectrum.
        """
        check_settings(self.config, found, name)
        own = self.processor_settings or {}
        differ = sorted(
            f"{field}={found.get(field)!r} (of this model: {own[field]!r})"
            for field in own.keys() - _NOT_OF_THE_SPECTRUM
            if found.get(field) != own[field]
        )
        if differ:
            raise ValueError(
                f"{name} is not the processor that this model was trained with, found {', '.join(differ)}: save to "
                "another folder, or call model.remember_processor(processor) if it is the right one"
            )


def class_named(reference: str) -> Any:
    """One of the classes that lie beside this file.

    Args:
        reference: "file.Class", as in `auto_classes`.
    """
    file, _, name = reference.partition(".")
    return getattr(import_module(f".{file}", __package__), name)


def check_processor(config: PreTrainedConfig, processor: Any) -> None:
    """Refuse a processor that cuts or normalises spectra otherwise than a model reads them.

    Args:
        config: The model's.
        processor: The processor.

    Raises:
        ValueError: If it is that of another family, or its patches are others.
    """
    ours = {path.stem for path in Path(__file__).parent.glob("processing_*.py")}  # also of a copy that travels
    names = ((kind.__module__.rpartition(".")[2], kind.__name__) for kind in type(processor).__mro__)
    kind = next((f"{file}.{name}" for file, name in names if file in ours), None)
    settings = processor.to_dict() if kind else {}
    check_settings(config, settings | {"auto_map": {"AutoProcessor": kind}}, type(processor).__name__)


def check_settings(config: PreTrainedConfig, settings: Mapping[str, Any], source: str) -> None:
    """As `check_processor`, of a processor that was saved.

    Args:
        config: The model's.
        settings: What was saved.
        source: Where, for the message.

    Raises:
        ValueError: As there.
    """
    own = config.auto_classes["AutoProcessor"]
    kind = ((settings.get("auto_map") or {}).get("AutoProcessor") or own).rpartition("--")[2]  # behind a repository
    if kind != own:
        raise ValueError(
            f"{type(config).__name__} needs the processor {own.partition('.')[2]}, found {kind.partition('.')[2]} in "
            f"{source}: pass the one that was saved with the model, or save to another folder"
        )
    wanted = {name: getattr(config, name) for name in config.processor_fields}
    found = config.processor_values(settings)
    if found != wanted:
        described = [", ".join(f"{name}={value}" for name, value in each.items()) for each in (wanted, found)]
        raise ValueError(
            f"the processor must prepare spectra as the model reads them, {described[0]}, found {described[1]} in "
            f"{source}: pass the model's own processor, or save to another folder"
        )


def custom_pipelines(
    auto_classes: Mapping[str, str], architecture: str, more: Sequence[tuple[str, str]] = ()
) -> dict[str, dict[str, Any]]:
    """The pipelines that a checkpoint can run, as Transformers reads them from its config.

    Args:
        auto_classes: Of the family.
        architecture: Name of the class that was saved; "" = none.
        more: Further ones of the encoder: tasks, and their classes.
    """
    file = auto_classes["AutoModel"].partition(".")[0].replace("modeling_", "pipeline_")
    own = [(*pipeline, end) for end, pipeline in PIPELINES.items() if architecture.endswith(end)]
    own += [(*pipeline, "") for pipeline in more]
    found = {}
    for task, name, end in [*own, (*EMBEDDING, "")]:
        auto_class = {"": "AutoModel", "ForPreTraining": "AutoModelForPreTraining"}.get(
            end, "AutoModelForSequenceClassification"
        )
        found[task] = {"impl": f"{file}.{name}", "pt": [auto_class], "type": "multimodal"}
    return found


# Code ---------------------------------------------------------------------------------------------


def write_code(folder: Path, family: str) -> None:
    """Copy the code of a model family into a folder, after `check_code`.

    A file says at its end which others it needs: Transformers finds them by a scan of the text, and brings only those
    to where it runs them (5.6, of a local folder, not even those that they name in turn).

    Args:
        folder: Where to.
        family: End of the names of its files, "spectok" for `modeling_spectok.py`.
    """
    sources = code_files(family)
    needed = "".join(f"    from .{source.stem} import __name__\n" for source in sources)
    for source in sources:
        text = source.read_text(encoding="utf-8").partition(f"\n{MARK}")[0].rstrip() + f"\n{MARK}\n"
        if source.stem.partition("_")[0] in ENTRIES:
            text += f"if False:  # Transformers looks here for what must lie beside this file\n{needed}"
        _write(folder / source.name, text)
    if not (folder / "requirements.txt").exists():
        _write(folder / "requirements.txt", REQUIREMENTS)


def _write(path: Path, text: str) -> None:
    """Write a file as a whole, whoever reads or writes it meanwhile."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


@functools.cache
def code_files(family: str) -> list[Path]:
    """The files that a model family needs, in the order of their names; this one lies among them.

    Args:
        family: End of the names of its files.
    """
    here = Path(__file__).parent
    entries = [here / f"{name}.py" for name in (*(f"{entry}_{family}" for entry in ENTRIES), HANDLER)]
    found = {Path(path) for entry in entries for path in get_relative_import_files(entry)}
    return sorted(found.union(entries))


def check_code(folder: Path, family: str) -> None:
    """Raise a `FileExistsError` where a folder holds somebody else's file under the name of one of ours.

    Args:
        folder: Where code is to be written; it may be absent.
        family: End of the names of its files.
    """
    for source in code_files(family):
        path = folder / source.name
        if path.is_file() and f"\n{MARK}" not in path.read_text(encoding="utf-8", errors="replace"):
            raise FileExistsError(
                f"{path} would be overwritten by code that belongs to the checkpoint, and is not from an earlier one: "
                "save to another folder, or move that file away"
            )


# Settings of the processor -------------------------------------------------------------------------

# Settings that change no number of a spectrum.
_NOT_OF_THE_SPECTRUM = {"auto_map", "feature_extractor_type", "name_or_path", "on_invalid", "processor_class"}
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_LOADING = {"code_revision", "trust_remote_code"}  # what Auto classes leave for a processor that say how to load it


def read_processor_settings(source: Any, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the processor that lies beside a model's weights; empty where there is none.

    Args:
        source: Folder, or name on the Hub.
        options: Of `from_pretrained`, which say how to reach it.

    Raises:
        ValueError: If they are not JSON.
    """
    if source is None:
        return None
    try:
        path = cached_file(source, FEATURE_EXTRACTOR_NAME, _raise_exceptions_for_missing_entries=False, **options)
    except OSError:  # not to be reached, and not in the cache
        path = None
    if path is None:
        return {}
    try:
        settings: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} must hold the settings of a processor in JSON: {error}. Save it once more"
        ) from error
    return settings


def _family(owner: type) -> str:
    return _file(_ours(owner)).partition("_")[2]


def _file(owner: type) -> str:
    return owner.__module__.rpartition(".")[2]


def _ours(owner: type) -> type:
    """A class of these files: the one itself, or that which a user's own one comes from."""
    ours = next(base for base in owner.__mro__ if base.__module__.rpartition(".")[0] == __package__)
    if ours is not owner and owner.__name__ != f"FSDP{ours.__name__}":  # which torch makes of a sharded model
        logger.warning_once(f"the code of {owner.__name__} is not saved, only that of {ours.__name__}: it is not ours")
    return ours


def _let_others_read(folder: Path) -> None:
    """Give weights the permissions of the config: safetensors 0.8 writes them for their owner alone."""
    for weights in folder.glob("model*.safetensors"):
        with suppress(OSError):  # where a file system knows no permissions
            shutil.copymode(folder / CONFIG_NAME, weights)


def _saves_here(is_main_process: bool) -> bool:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return is_main_process and not (distributed and torch.distributed.get_rank())


__all__ = [
    "PIPELINES",
    "SelfContainedConfig",
    "SelfContainedModel",
    "SelfContainedProcessor",
    "check_processor",
    "class_named",
    "code_files",
    "read_processor_settings",
    "write_code",
]
# From spectok-hf; save_pretrained writes this file.
