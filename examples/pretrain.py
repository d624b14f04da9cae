"""Pretrain SpecTok on simulated spectra, FITS folders, or a weighted mixture of both.

    python examples/pretrain.py examples/configs/tiny.yaml
    accelerate launch examples/pretrain.py examples/configs/tiny.yaml --max_steps 2000
    python examples/pretrain.py --smoke

A YAML file sets any option of `--help`; options on the command line go before it. A run that was interrupted goes on
from its last checkpoint with the same command; `--overwrite_output` starts anew. After each evaluation the log holds,
for every survey, the loss and the figures of `spectok_hf.evaluation.reconstruction`, and `output_dir/plots` the
reconstruction of one held-out spectrum; beside each training loss it holds the speed. Model and processor are saved to
`output_dir`.

Batches are packed: a fixed number of spectra, whatever their lengths, and no padding. On a GPU, --bf16 --torch_compile
--pad_to with room for the longest batch give one graph of one shape.
"""

import re
import sys
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from run_settings import drop_invalid, parse_options, prepare_output, read_json
from torch.utils.data import Sampler
from transformers import AutoModelForPreTraining, AutoProcessor, Trainer, TrainingArguments, set_seed

from spectok_hf import (
    DataCollatorForPackedSpectra,
    SpecTokConfig,
    SpecTokForPreTraining,
    Spectrum,
    SpectrumProcessor,
    plot_reconstruction,
    read_spectra,
    simulate_survey,
)
from spectok_hf.data.dataset import MixtureSampler, SpectrumDataset, by_survey, split_by_object
from spectok_hf.evaluation.reconstruction import (
    clean_patches,
    fit_baselines,
    format_table,
    judge_by_truth,
    score_spectra,
    summarize,
)
from spectok_hf.evaluation.throughput import Throughput, matmul_rate

LINEAR_MAPS = re.compile(r"(embeddings\.projection|bottleneck|latent_projection|head)\.(weight|bias)$")
SMOKE = {
    "simulate": ["sdss", "apogee"],
    "num_simulated": 12,
    "max_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "per_device_train_batch_size": 4,
    "output_dir": "outputs/pretrain-smoke",
}


@dataclass
class ModelArguments:
    """What to train."""

    preset: str = field(default="tiny", metadata={"help": "Size of a new model: tiny, small or base."})
    config_overrides: str = field(
        default="{}", metadata={"help": "Fields of SpecTokConfig that differ from the preset, as JSON (or YAML)."}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Continue from this checkpoint instead."})
    patch_pca_start: bool = field(default=True, metadata={"help": "Start a new model from a PCA of patches."})
    linear_lr_factor: float = field(
        default=0.05, metadata={"help": "Learning rate of the maps that this start already solves, times the others'."}
    )


@dataclass
class DataArguments:
    """What to train on."""

    simulate: list[str] = field(default_factory=list, metadata={"help": "Surveys to simulate."})
    num_simulated: int = field(default=500, metadata={"help": "Simulated spectra per survey."})
    data: list[str] = field(default_factory=list, metadata={"help": "FITS files, folders or globs to read."})
    weights: list[float] = field(
        default_factory=list, metadata={"help": "Weights of the sources: each of --simulate, then each of --data."}
    )
    eval_share: float = field(default=0.2, metadata={"help": "Share of the objects held out for evaluation."})
    max_eval: int | None = field(
        default=None, metadata={"help": "Evaluate on at most so many of the held-out spectra of each survey."}
    )
    hide_ratio: float | None = field(
        default=None,
        metadata={"help": "Share hidden in training: of pixels (0.1), or of patches (config.mask_ratio)."},
    )
    pad_to: int | None = field(
        default=None,
        metadata={"help": "Patches per batch, filled up with padding: for --torch_compile, one shape."},
    )
    overwrite_output: bool = field(default=False, metadata={"help": "Delete output_dir and start anew."})
    smoke: bool = field(default=False, metadata={"help": "A run of seconds that touches everything."})


class PretrainingTrainer(Trainer):
    """Adds the speed to its log, and the reconstruction figures and plots of each survey to its evaluation.

    Args:
        baselines: What `fit_baselines` returned.
        sampler: Order of the training spectra.
        linear_lr_factor: Learning rate of the linear maps that the patch-PCA start solves, relative to the others'.
            Adam moves every weight by about the learning rate, and in these maps 32 nearly equal pixels add up: at
            full rate the start is lost first, and most of a short training goes into finding it again.
        **kwargs: Arguments of `Trainer`.
    """

    truth_rows: list[dict[str, object]] = []  # of `judge_by_truth`, once it is trained

    def __init__(self, *, baselines: dict, sampler: Sampler, linear_lr_factor: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.baselines = baselines
        self.sampler = sampler
        self.linear_lr_factor = linear_lr_factor
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        self.throughput = Throughput(self.model, matmul_rate(self.args.device, dtype))

    def training_step(self, model, inputs, *args, **kwargs) -> torch.Tensor:
        """As in `Trainer`, and counts the batch."""
        self.throughput.count(inputs)
        return super().training_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """As in `Trainer`, with the speed beside a training loss: that of this process, since the last log."""
        super().log(logs | self.throughput.report() if "loss" in logs else logs, *args, **kwargs)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As in `Trainer`; its time does not count as training."""
        metrics = super().evaluate(*args, **kwargs)
        self.throughput.restart()
        return metrics

    def _get_train_sampler(self, *args, **kwargs) -> Sampler:
        return self.sampler

    def create_optimizer(self, *args, **kwargs):
        """As in `Trainer`, with the linear maps in parameter groups of their own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        linear = {id(weight) for name, weight in self.model.named_parameters() if LINEAR_MAPS.search(name)}
        for group in list(optimizer.param_groups):
            slow = [weight for weight in group["params"] if id(weight) in linear]
            group["params"] = [weight for weight in group["params"] if id(weight) not in linear]
            if slow:
                optimizer.add_param_group(group | {"params": slow, "lr": group["lr"] * self.linear_lr_factor})
        return optimizer

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        """As in `Trainer`, with figures of the whole data set added to the metrics."""
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        spectra = dataloader.dataset.spectra
        scores = score_spectra(self.model, self.processing_class, spectra, self.baselines)
        row = summarize(scores, self.model.config.latent_size)[0]
        figures = {name: value for name, value in row.items() if isinstance(value, float)}
        prefix = f"{metric_key_prefix}_"
        output.metrics.update({prefix + name.replace(" ", "_"): value for name, value in figures.items()})
        if self.is_world_process_zero():
            path = Path(self.args.output_dir) / "plots" / f"step-{self.state.global_step:07d}" / f"{row['survey']}.png"
            save_plot(self.model, self.processing_class, spectra[0], path)
        return output


def save_plot(model: SpecTokForPreTraining, processor: SpectrumProcessor, spectrum: Spectrum, path: Path) -> None:
    """Write the reconstruction of one spectrum, where matplotlib is installed.

    Args:
        model: The model.
        processor: Its processor.
        spectrum: The spectrum to reconstruct.
        path: PNG file to write.
    """
    try:
        import matplotlib
    except ImportError:
        warnings.warn('no plots: pip install "spectok-hf[plot]" for them', stacklevel=2)
        return
    matplotlib.use("agg")
    inputs = processor(spectrum, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        outputs = model(**inputs, return_loss=False)
    axes = plot_reconstruction(spectrum, processor.post_process_reconstruction(outputs, spectrum)[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    axes[0].figure.savefig(path, dpi=100)
    matplotlib.pyplot.close(axes[0].figure)


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Options from a YAML file, if the first argument is one, and from the command line, which goes before it.

    Args:
        argv: Arguments without the program's name.

    Raises:
        ValueError: If the file sets an option that does not exist.
    """
    return parse_options(
        argv,
        (ModelArguments, DataArguments, TrainingArguments),
        # Every parameter is used in every step.
        defaults={"output_dir": "outputs/pretrain", "ddp_find_unused_parameters": False},
        smoke=SMOKE,
        lists=("simulate", "data", "weights"),
        description=__doc__,
    )


def load_data(
    data: DataArguments, processor: SpectrumProcessor, seed: int
) -> tuple[list[list[Spectrum]], list[Spectrum]]:
    """Training spectra of each source, and the held-out spectra of all; no object is in both.

    Args:
        data: Where they come from.
        processor: The processor of the model; spectra it finds no valid patch in are dropped, and counted.
        seed: Seed of simulation and split.

    Raises:
        ValueError: If there is no source, or nothing can be held out.
    """
    if not data.simulate and not data.data:
        raise ValueError("nothing to train on: pass --simulate sdss desi ..., --data FOLDER ..., or both")
    sources = [simulate_survey(survey, data.num_simulated, seed=seed) for survey in data.simulate]
    sources += [read_spectra(path, on_error="warn") for path in data.data]
    sources = [drop_invalid(source, processor) for source in sources]
    train, held_out = split_by_object([s for source in sources for s in source], data.eval_share, seed=seed)
    if not held_out:
        raise ValueError(f"found {len(train)} spectra, and no survey with two objects: pass more, to hold some out")
    kept = set(map(id, train))
    held_out = [spectrum for group in by_survey(held_out).values() for spectrum in group[: data.max_eval]]
    return [[spectrum for spectrum in source if id(spectrum) in kept] for source in sources], held_out


def make_model(args: ModelArguments) -> tuple[SpecTokForPreTraining, SpectrumProcessor]:
    """The model to train, from a checkpoint or new, and its processor.

    Args:
        args: What to make.
    """
    if args.model_name_or_path:
        path = args.model_name_or_path
        return AutoModelForPreTraining.from_pretrained(path), AutoProcessor.from_pretrained(path)
    model = SpecTokForPreTraining(SpecTokConfig.from_preset(args.preset, **read_json(args.config_overrides)))
    return model, SpectrumProcessor(patch_size=model.config.patch_size)


def start_from_patch_pca(model: SpecTokForPreTraining, args: ModelArguments, train: SpectrumDataset) -> bool:
    """Start a new model from a PCA of the training patches, where it can; says whether it did.

    Args:
        model: The model.
        args: Whether it is wanted, and whether the model is new.
        train: Training spectra.
    """
    wanted = args.patch_pca_start and not args.model_name_or_path and model.config.decoder_type == "mirror"
    if wanted:
        model.initialize_from_patch_pca(*map(torch.from_numpy, clean_patches(train.features)))
    return wanted


def make_collator(
    model: SpecTokForPreTraining, processor: SpectrumProcessor, data: DataArguments, seed: int
) -> DataCollatorForPackedSpectra:
    """Packed batches that hide what the objective asks for: runs of pixels, or patches.

    Args:
        model: The model.
        processor: Its processor.
        data: Says how much to hide, and to pad.
        seed: Seed of the draw.
    """
    hide, ratio = ("patches", model.config.mask_ratio) if model.config.objective == "masked" else ("runs", 0.1)
    ratio = ratio if data.hide_ratio is None else data.hide_ratio
    return DataCollatorForPackedSpectra(processor, hide=hide, hide_ratio=ratio, seed=seed, pad_to=data.pad_to)


def main(argv: list[str] | None = None) -> tuple[PretrainingTrainer, list[Spectrum]]:
    """Train, evaluate, save.

    Args:
        argv: Arguments; None = those of the command line.

    Returns:
        The trainer and the held-out spectra.
    """
    model_args, data_args, args = parse_arguments(sys.argv[1:] if argv is None else argv)
    described = asdict(data_args) | {"overwrite_output": False}
    settings = {"model": asdict(model_args), "data": described, "seed": args.seed}
    checkpoint = prepare_output(args, settings, overwrite=data_args.overwrite_output)
    set_seed(args.seed)
    model, processor = make_model(model_args)
    sources, held_out = load_data(data_args, processor, args.seed)
    train = SpectrumDataset([spectrum for source in sources for spectrum in source], processor)
    sizes = [len(source) for source in sources]
    model.remember_processor(processor)
    from_pca = start_from_patch_pca(model, model_args, train)
    trainer = PretrainingTrainer(
        model=model,
        args=args,
        processing_class=processor,
        data_collator=make_collator(model, processor, data_args, args.seed),
        train_dataset=train,
        eval_dataset={name: SpectrumDataset(part, processor) for name, part in by_survey(held_out).items()},
        baselines=fit_baselines(train.spectra, processor, model.config.latent_size),
        sampler=MixtureSampler(sizes, data_args.weights or sizes, seed=args.seed),
        linear_lr_factor=model_args.linear_lr_factor if from_pca else 1.0,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if trainer.is_world_process_zero():
        trainer.truth_rows = report(trainer, held_out, data_args.simulate)
    return trainer, held_out


def report(trainer: PretrainingTrainer, held_out: list[Spectrum], simulated: list[str]) -> list[dict[str, object]]:
    """Print the tables of the finished model and write them to `output_dir/report.md`.

    Args:
        trainer: The trainer.
        held_out: Held-out spectra.
        simulated: Surveys to judge by the noise-free truth.

    Returns:
        The rows of `judge_by_truth`; none without simulated surveys.
    """
    model, processor, baselines = trainer.model, trainer.processing_class, trainer.baselines
    rows = summarize(score_spectra(model, processor, held_out, baselines), model.config.latent_size)
    text = f"Held-out spectra, medians of chi2 per pixel:\n\n{format_table(rows)}"
    judged = judge_by_truth(model, processor, simulated, baselines)
    if judged:
        text += f"\n\nChi2 per pixel against the noise-free truth, medians:\n\n{format_table(judged)}"
    print(f"\n{text}")
    Path(trainer.args.output_dir, "report.md").write_text(text + "\n")
    return judged


if __name__ == "__main__":
    main()
