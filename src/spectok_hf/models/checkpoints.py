"""What a saved folder holds beside weights and settings, so that it loads where this package is not installed.

Transformers copies the file of a class, and what it imports, only for classes that were registered for it, and names
in `auto_map` only the class that was saved. Here every save, of a config, a processor or a model, writes the same
complete set: all code files, the full `auto_map`, the pipelines, the endpoint handler, and the processor's settings.
"""

import functools
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import FEATURE_EXTRACTOR_NAME, logging

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
PUSH_OPTIONS = (
    *("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags"),
)

logger = logging.get_logger(__name__)


class SelfContained:
    """Mixin of what has `save_pretrained`: the folder is complete before anything is pushed."""

    def save_pretrained(self, save_directory: Any, *, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As in Transformers, with all that makes the folder complete.

        Args:
            save_directory: Folder to write to.
            push_to_hub: Whether to upload as `push_to_hub` does, afterwards.
            **kwargs: As in Transformers.

        Raises:
            FileExistsError: If the folder holds another file of the name of one of ours.
            ValueError: If the folder holds the settings of a processor that does not fit.
        """
        push = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
        saved = self._save_complete(Path(save_directory), **kwargs)
        if push_to_hub:
            self.push_to_hub(push.pop("repo_id", Path(save_directory).name), **push)  # type: ignore[attr-defined]
        return saved

    def _save_complete(self, folder: Path, **kwargs: Any) -> Any:
        raise NotImplementedError

    def _save_plain(self, folder: Path, **kwargs: Any) -> Any:
        """What Transformers saves."""
        return super().save_pretrained(folder, **kwargs)  # type: ignore[misc]


class SelfContainedConfig(SelfContained):
    """Mixin of configs.

    `auto_classes` names the classes of the family, as "file.Class", for each Auto class that Transformers knows.
    """

    auto_classes: Mapping[str, str] = {}
    # Set by the installed package, which registers the pipelines: Transformers asks for trust_remote_code wherever a
    # config names some of its own.
    pipelines_are_registered = False

    def _save_complete(self, folder: Path, **kwargs: Any) -> Any:
        check_code(folder, _family(type(self)))
        architecture = (getattr(self, "architectures", None) or [""])[0]
        self.auto_map = full_auto_map(self.auto_classes, architecture)
        self.custom_pipelines = custom_pipelines(self.auto_classes, architecture)
        try:
            saved = self._save_plain(folder, **kwargs)
        finally:
            if self.pipelines_are_registered:
                del self.custom_pipelines
        write_code(folder, _family(type(self)))
        return saved


class SelfContainedProcessor(SelfContained):
    """Mixin of processors."""

    def _save_complete(self, folder: Path, **kwargs: Any) -> Any:
        check_code(folder, _family(type(self)))
        reference = f"{_file(type(self))}.{type(self).__name__}"
        self.auto_map = dict.fromkeys(("AutoFeatureExtractor", "AutoProcessor"), reference)
        saved = self._save_plain(folder, **kwargs)
        write_code(folder, _family(type(self)))
        return saved


class SelfContainedModel(SelfContained):
    """Mixin of models, which remember the settings of the processor that lay beside their weights."""

    config: PreTrainedConfig
    processor_settings: dict[str, Any] | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers; the settings of the processor beside the weights are kept, to be saved with them again.

        Args:
            pretrained_model_name_or_path: Folder, or name on the Hub.
            *args: As in Transformers.
            **kwargs: As in Transformers.
        """
        options = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.processor_settings = read_processor_settings(pretrained_model_name_or_path, options)
        return loaded

    def remember_processor(self, processor: Any) -> None:
        """Say which processor a new model was trained with: it is saved along. Loaded models know theirs.

        Args:
            processor: The processor.

        Raises:
            ValueError: If it cuts patches of another size than the model reads.
        """
        settings = processor.to_dict()
        self._check_patch_size(settings, repr(type(processor).__name__))
        self.processor_settings = settings

    def _save_complete(self, folder: Path, **kwargs: Any) -> Any:
        path = folder / FEATURE_EXTRACTOR_NAME
        if path.is_file():
            self._check_patch_size(json.loads(path.read_text()), str(path))
        check_code(folder, _family(type(self)))
        saved = self._save_plain(folder, **kwargs)
        if _saves_here(kwargs.get("is_main_process", True)) and not path.is_file():
            self.own_processor().save_pretrained(folder)
        return saved

    def own_processor(self) -> Any:
        """The processor that this model was trained with; where it is not known the default one, with a warning."""
        auto_classes = self.config.auto_classes  # type: ignore[attr-defined]
        file, _, name = auto_classes["AutoProcessor"].partition(".")
        processor_class = getattr(import_module(f".{file}", __package__), name)
        if self.processor_settings is not None:
            return processor_class.from_dict(self.processor_settings)
        processor = processor_class(patch_size=self.config.patch_size)
        logger.warning_once(
            f"this model does not know which processor it was trained with: {name}() with its defaults is taken "
            f"(medium={processor.medium!r}). Call model.remember_processor(processor), or save yours beside it"
        )
        return processor

    def _check_patch_size(self, settings: Mapping[str, Any], source: str) -> None:
        if settings.get("patch_size") != self.config.patch_size:
            raise ValueError(
                f"the processor must cut patches of {self.config.patch_size} pixels, as the model reads, found "
                f"{settings.get('patch_size')} in {source}: pass the model's own processor, or save to another folder"
            )


def full_auto_map(auto_classes: Mapping[str, str], architecture: str) -> dict[str, str]:
    """The class for every Auto class; that for AutoModelForSequenceClassification is the head that was saved.

    Args:
        auto_classes: Of the family.
        architecture: Name of the class that was saved; "" = none.
    """
    heads = [end for end, (task, _) in PIPELINES.items() if end != "ForPreTraining"]
    own = {}
    if architecture.endswith(tuple(heads)):
        own["AutoModelForSequenceClassification"] = f"{auto_classes['AutoModel'].partition('.')[0]}.{architecture}"
    return {**auto_classes, **own}


def custom_pipelines(auto_classes: Mapping[str, str], architecture: str) -> dict[str, dict[str, Any]]:
    """The pipelines that a checkpoint can run, as Transformers reads them from its config; its own task comes first.

    Args:
        auto_classes: Of the family.
        architecture: Name of the class that was saved; "" = none.
    """
    file = auto_classes["AutoModel"].partition(".")[0].replace("modeling_", "pipeline_")
    own = [(*pipeline, end) for end, pipeline in PIPELINES.items() if architecture.endswith(end)]
    found = {}
    for task, name, end in [*own, (*EMBEDDING, "")]:
        auto_class = {"": "AutoModel", "ForPreTraining": "AutoModelForPreTraining"}.get(
            end, "AutoModelForSequenceClassification"
        )
        found[task] = {"impl": f"{file}.{name}", "pt": [auto_class], "type": "multimodal"}
    return found


# Code ---------------------------------------------------------------------------------------------


def write_code(folder: Path, family: str) -> None:
    """Copy the code of a model family into a folder.

    A file says at its end which others it needs: Transformers finds them by a scan of the text, and brings only those
    to where it runs them (before 5.12 or so, of a local folder, not even those that they name in turn).

    Args:
        folder: Where to.
        family: End of the names of its files, "spectok" for `modeling_spectok.py`.

    Raises:
        FileExistsError: If the folder holds another file of the name of one of ours.
    """
    sources = code_files(family)
    check_code(folder, family)
    needed = "".join(f"    from .{source.stem} import __name__\n" for source in sources)
    for source in sources:
        text = source.read_text(encoding="utf-8").partition(f"\n{MARK}")[0].rstrip() + f"\n{MARK}\n"
        if source.stem.partition("_")[0] in ENTRIES:
            text += f"if False:  # Transformers looks here for what must lie beside this file\n{needed}"
        (folder / source.name).write_text(text, encoding="utf-8")
    if not (folder / "requirements.txt").exists():
        (folder / "requirements.txt").write_text(REQUIREMENTS)


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

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def read_processor_settings(source: Any, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the processor that lies beside a model's weights; None where there is none.

    Args:
        source: Folder, or name on the Hub.
        options: Of `from_pretrained`, which say how to reach it.
    """
    if source is None:
        return None
    from transformers.feature_extraction_utils import FeatureExtractionMixin

    try:
        return FeatureExtractionMixin.get_feature_extractor_dict(source, **options)[0]
    except (OSError, ValueError):
        return None


def _family(owner: type) -> str:
    return _file(owner).partition("_")[2]


def _file(owner: type) -> str:
    return owner.__module__.rpartition(".")[2]


def _saves_here(is_main_process: bool) -> bool:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return is_main_process and not (distributed and torch.distributed.get_rank())


__all__ = [
    "PIPELINES",
    "SelfContainedConfig",
    "SelfContainedModel",
    "SelfContainedProcessor",
    "code_files",
    "write_code",
]
