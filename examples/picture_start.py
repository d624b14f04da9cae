"""What a training on pictures of spectra begins with: any vision model of Transformers, and how it is to see them."""

import inspect
from pathlib import Path
from typing import Any

from run_settings import read_fields
from transformers import AutoModel, TrainingArguments

from spectok_hf import SpectrumImageProcessor, SpectrumVitConfig, SpectrumVitModel


def make_start(model_args: Any, args: TrainingArguments) -> str:
    """The folder `start` in `output_dir`: an encoder of pictures, and the processor that draws them.

    It is made anew whenever a run begins or goes on, from the same seed.

    Args:
        model_args: Has image_model or image_config, plot_type and image_options.
        args: Says where the output goes.
    """
    folder = Path(args.output_dir, "start")
    with args.main_process_first(local=False, desc="start"):
        if args.process_index == 0:
            model = make_encoder(model_args.image_model, model_args.image_config)
            size = {"image_size": model.config.image_size} if model.config.image_size else {}
            asked = read_fields("image_options", model_args.image_options)
            options = {"plot_type": model_args.plot_type} | size | asked
            known = inspect.signature(SpectrumImageProcessor).parameters.keys() - {"kwargs"}
            if unknown := sorted(options.keys() - known):
                raise ValueError(
                    f"--image_options must be arguments of SpectrumImageProcessor, found {', '.join(unknown)}: it "
                    f"knows {', '.join(sorted(known))}"
                )
            SpectrumImageProcessor(**options).save_pretrained(folder)
            model.save_pretrained(folder)
    return str(folder)


def make_encoder(image_model: str | None, image_config: str | dict[str, Any] | None) -> SpectrumVitModel:
    """An encoder of pictures with the weights of a vision model, or with new ones.

    Args:
        image_model: Folder or Hub id of a vision model.
        image_config: Else the config of one as JSON or a mapping, or a preset of `SpectrumVitConfig`.
    """
    if image_model is not None:
        vision = AutoModel.from_pretrained(image_model, dtype="float32")
        if isinstance(vision, SpectrumVitModel):
            raise ValueError(f"{image_model} is an encoder of spectra already: pass it as --model_name_or_path")
        return SpectrumVitModel.from_vision_model(vision)
    if isinstance(image_config, str) and not image_config.lstrip().startswith("{"):
        return SpectrumVitModel(SpectrumVitConfig.from_preset(image_config))
    return SpectrumVitModel(SpectrumVitConfig(vision_config=read_fields("image_config", image_config)))


__all__ = ["make_encoder", "make_start"]
