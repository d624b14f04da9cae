"""Task heads fitted and judged as one method among others: on frozen tokens that are made once, or with the encoder.

The paper's way (arXiv 2510.17959, section 3) is a light head on frozen tokens. Encoding takes nearly all of the time,
so it is done once per spectrum, and the heads are fitted to what came out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig

from ..data.dataset import object_groups
from ..data.labels import class_weights
from ..models.heads import NO_CLASS
from ..models.redshift_posterior import posterior_cdf, posterior_density, recalibrate, redshift_position
from ..models.spectrum import Spectrum
from ..models.spectrum_models import TASKS, TaskModel, task_class
from ..shipped import find_shipped
from .calibration import uncertainty_scale
from .probes import pool_features
from .tasks import Method, NotApplicable, Prediction, Split, Task
from .training import LEAST_VALIDATION, TrainOptions, answers, random_batches, train_model

STATES = ("tokens", "last_hidden_state")
HEADS = dict(zip(("classification", "regression", "redshift"), TASKS, strict=True))
MANY = 1000  # training spectra
SMOOTHING = 7000.0  # km/s, of true redshifts: these tasks have a thousand spectra, not a million

Record = Callable[[Task, Split, TaskModel, Mapping[str, torch.Tensor]], None]
Start = Callable[[Task, Split, int], tuple[TaskModel, Any]]  # a model for a task, and its processor


@dataclass(frozen=True)
class EncodedSpectrum:
    """What a frozen encoder gave for one spectrum: its valid patches alone, of a picture the one state that it has.

    Args:
        tokens: Shape (valid patches, latent_size).
        last_hidden_state: Shape (valid patches, hidden_size).
        token_wavelength: Å, shape (valid patches,); 1 of a picture.
    """

    tokens: torch.Tensor
    last_hidden_state: torch.Tensor
    token_wavelength: torch.Tensor


@dataclass(frozen=True)
class FitOptions:
    """How a head is fitted: AdamW, one cycle of the learning rate, gradients clipped at norm 1.

    Args:
        epochs: Epochs of training.
        most_steps: Steps to stop at, if the epochs have more.
        learning_rate: Highest learning rate; None = 1e-3, or 3e-3 for 1000 training spectra and more, with which a
            head is not by heart before it has learned (found on stars of APOGEE).
        weight_decay: Weight decay.
        batch_size: Spectra per step.
        checks: How often the loss on validation is taken. The best weights are kept where validation has 100 spectra
            or more, else the last.
    """

    epochs: int = 100
    most_steps: int = 3000
    learning_rate: float | None = None
    weight_decay: float = 0.05
    batch_size: int = 16
    checks: int = 20

    def steps(self, count: int) -> int:
        """Optimisation steps for so many training spectra.

        Args:
            count: Training spectra.
        """
        return min(self.epochs * math.ceil(count / self.batch_size), self.most_steps)


class Backbone:
    """A checkpoint whose encoder stays as it is, and what it made of the spectra of each task.

    Args:
        path: Folder, Hub id, or name of a checkpoint that comes with the package ("spectok-tiny"); its encoder counts.
    """

    def __init__(self, path: str):
        self.path = str(find_shipped(path) or path)
        self._encoded: dict[Task, list[EncodedSpectrum]] = {}

    @cached_property
    def encoder(self) -> Any:
        """The encoder, in evaluation mode."""
        return AutoModel.from_pretrained(self.path).eval()

    @cached_property
    def processor(self) -> Any:
        """The checkpoint's processor."""
        return AutoProcessor.from_pretrained(self.path)

    def encode(self, task: Task) -> list[EncodedSpectrum]:
        """The spectra of a task, encoded at the first call.

        Args:
            task: The task.
        """
        if task not in self._encoded:
            self._encoded[task] = encode(self.encoder, self.processor, task.spectra)
        return self._encoded[task]

    def embeddings(self, tasks: Sequence[Task], how: str) -> dict[str, np.ndarray]:
        """One vector per spectrum of each task, for `probes.knn` and `probes.linear_probe`.

        Args:
            tasks: The tasks.
            how: See `probes.pool_features`.
        """
        return {task.name: _pool(self.encode(task), how) for task in tasks}

    def new_model(self, task: Task, split: Split, **fields: Any) -> TaskModel:
        """The encoder under a new head for a task, with the statistics of the training spectra in its config.

        Args:
            task: The task.
            split: Says which spectra train.
            **fields: Further fields of the config.

        Raises:
            ValueError: If the family has no heads.
        """
        if "AutoModelForSequenceClassification" not in self.encoder.config.auto_classes:
            raise ValueError(
                f"a head stands on an encoder of spectra alone, found {type(self.encoder).__name__} in {self.path}: "
                "save its encoder, model.spectrum_model.save_pretrained(folder), with its processor, and pass that"
            )
        fields = TASK_FIELDS[task.kind](task, split) | fields
        head_class = task_class(self.encoder.config, HEADS[task.kind])
        model = head_class.from_pretrained(self.path, **fields)
        uncalibrate(model)  # of another training
        return model


def encode(model: Any, processor: Any, spectra: Sequence[Spectrum], *, batch_size: int = 16) -> list[EncodedSpectrum]:
    """What an encoder makes of spectra, without a gradient.

    Args:
        model: An encoder, of whichever family.
        processor: Its processor.
        spectra: The spectra.
        batch_size: Spectra per call.
    """
    model.eval()
    encoded = []
    for first in range(0, len(spectra), batch_size):
        inputs = processor(list(spectra[first : first + batch_size]), return_tensors="pt").to(model.device)
        with torch.inference_mode():
            outputs = model(**inputs)
        if "token_wavelength" not in outputs:  # pictures: one state each, of no wavelength
            states = outputs.pooler_output.cpu()[:, None]
            encoded += [EncodedSpectrum(one.clone(), one.clone(), torch.ones(1)) for one in states]
            continue
        for row, valid in enumerate(outputs.attention_mask > 0):
            kept = {name: outputs[name][row][valid].cpu().clone() for name in (STATES[1], "token_wavelength")}
            same = outputs["tokens"] is outputs[STATES[1]]  # where there is no bottleneck: once is enough
            tokens = kept[STATES[1]] if same else outputs["tokens"][row][valid].cpu().clone()
            encoded.append(EncodedSpectrum(tokens=tokens, **kept))
    return encoded


def frozen_head(
    backbone: Backbone, options: FitOptions | None = None, *, record: Record | None = None, **fields: Any
) -> Method:
    """The method of a head on frozen states.

    Args:
        backbone: Whose states.
        options: How it is fitted.
        record: Called with the task, the split, the model and all that it says of the test spectra.
        **fields: Further fields of the config, `head_input` among them.
    """

    def method(task: Task, split: Split, seed: int) -> Prediction:
        model = fitted_head(backbone, task, split, seed, options, **fields)
        outputs = head_outputs(model, [backbone.encode(task)[row] for row in split.test])
        if record is not None:
            record(task, split, model, outputs)
        return _predict(task, outputs)

    return method


def fitted_head(
    backbone: Backbone, task: Task, split: Split, seed: int, options: FitOptions | None = None, **fields: Any
) -> TaskModel:
    """A new head on frozen states, fitted to the training spectra of a task and calibrated on its validation spectra.

    Args:
        backbone: Whose states.
        task: The task.
        split: The split.
        seed: Seed of the head's weights and of the order of training.
        options: How it is fitted.
        **fields: Further fields of the config.
    """
    torch.manual_seed(seed)
    model = backbone.new_model(task, split, **fields)
    encoded, labels = backbone.encode(task), task_labels(task)
    fit_head(model, encoded, labels, split.train, split.validation, options or FitOptions())
    calibrate(model, head_outputs(model, [encoded[row] for row in split.validation]), labels[split.validation])
    return model


def finetuned(
    backbone: Backbone,
    *,
    epochs: int = 20,
    learning_rate: float = 5e-4,
    batch_size: int = 8,
    most_steps: int = 1500,
    options: FitOptions | None = None,
    record: Record | None = None,
    **fields: Any,
) -> Method:
    """The method of fine-tuning everything with `Trainer`, from a head that was fitted on frozen states before.

    With a new head the first gradients would be noise, and would harm the encoder (Kumar et al. 2022,
    arXiv 2202.10054).

    Args:
        backbone: Where it starts from.
        epochs: Epochs of fine-tuning.
        learning_rate: Highest learning rate; it falls to 0.
        batch_size: Spectra per step.
        most_steps: Steps to stop at, if the epochs have more.
        options: How the head is fitted before.
        record: As for `frozen_head`.
        **fields: Further fields of the config.
    """

    def start(task: Task, split: Split, seed: int) -> tuple[TaskModel, Any]:
        return fitted_head(backbone, task, split, seed, options, **fields), backbone.processor

    def method(task: Task, split: Split, seed: int) -> Prediction:
        steps = min(epochs * math.ceil(len(split.train) / batch_size), most_steps)
        training = TrainOptions(steps=steps, learning_rate=learning_rate, batch_size=batch_size)
        return trained(start, training, record=record)(task, split, seed)

    return method


def trained(
    start: Start,
    options: TrainOptions | None = None,
    *,
    record: Record | None = None,
) -> Method:
    """The method of training a whole model with `Trainer`, from where it starts, whichever inputs it takes.

    Then it is calibrated on the validation spectra, and answers for the test spectra by itself.

    Args:
        start: Gives the model for a task, new or from a checkpoint, and its processor: `from_checkpoint` or
            `from_config`. What it has frozen stays as it is.
        options: How it is trained.
        record: As for `frozen_head`.
    """

    def method(task: Task, split: Split, seed: int) -> Prediction:
        torch.manual_seed(seed)
        model, processor = start(task, split, seed)
        uncalibrate(model)
        labels = task_labels(task)
        train, validation, test = ([task.spectra[row] for row in part] for part in vars(split).values())
        parts = (train, labels[split.train]), (validation, labels[split.validation])
        train_model(model, processor, *parts, options or TrainOptions(), seed=seed)
        calibrate(model, answers(model, processor, validation), labels[split.validation])
        outputs = answers(model, processor, test)
        if record is not None:
            record(task, split, model, outputs)
        return _predict(task, outputs)

    return method


def from_checkpoint(backbone: Backbone, **fields: Any) -> Start:
    """The start of `trained` from a checkpoint under a new head.

    Args:
        backbone: The checkpoint.
        **fields: Further fields of the config.
    """
    return lambda task, split, seed: (backbone.new_model(task, split, **fields), backbone.processor)


def from_config(config: PreTrainedConfig, processor: Any, **fields: Any) -> Start:
    """The start of `trained` from new weights.

    Args:
        config: Sizes of the model, of whichever family.
        processor: The processor that it is to have.
        **fields: Further fields of the config.
    """

    def start(task: Task, split: Split, seed: int) -> tuple[TaskModel, Any]:
        known = config.to_dict() | TASK_FIELDS[task.kind](task, split) | fields
        return task_class(config, HEADS[task.kind])(type(config).from_dict(known)), processor

    return start


def trained_head(folders: Mapping[str, str]) -> Method:
    """The method of heads that were trained before, with the encoders under them: nothing of the task is learned.

    To real spectra, which they may have been trained on, it is not applicable, nor to a task whose groups keep apart
    what is more than objects: nobody knows what of it they have seen.

    Args:
        folders: Checkpoint of the head for each kind of task.
    """

    def method(task: Task, split: Split, seed: int) -> Prediction:
        if task.kind not in folders:
            raise NotApplicable(f"there is no trained head for {task.kind}")
        if any(spectrum.truth is None for spectrum in task.spectra):
            raise NotApplicable("it was trained on some of these objects")
        if task.groups != object_groups(task.spectra):
            raise NotApplicable("it may have been trained on others of these groups")
        model = _load_head(folders[task.kind], task.kind)
        known = list(model.config.target_names or ()) if task.kind == "regression" else list(task.target_names)
        if missing := sorted({*task.target_names} - {*known}):
            raise NotApplicable(f"it does not know {', '.join(missing)}")
        processor = AutoProcessor.from_pretrained(folders[task.kind])
        encoded = encode(model.base_model, processor, [task.spectra[row] for row in split.test])
        outputs = head_outputs(model, encoded)
        if task.kind == "classification":
            names = [model.config.id2label[row] for row in outputs["logits"].argmax(-1).tolist()]
            return Prediction(np.asarray(names))
        if task.kind == "regression":
            columns = [known.index(name) for name in task.target_names]
            outputs = {name: values[:, columns] for name, values in outputs.items() if values.ndim == 2}
        return _predict(task, outputs)

    return method


def _load_head(folder: str, kind: str) -> TaskModel:
    """The model of a kind of task that lies in a folder, of whichever family."""
    return task_class(AutoConfig.from_pretrained(folder), HEADS[kind]).from_pretrained(folder)


def fit_head(
    model: TaskModel,
    encoded: Sequence[EncodedSpectrum],
    labels: torch.Tensor,
    train: np.ndarray,
    validation: np.ndarray,
    options: FitOptions,
) -> None:
    """Fit the head of a model to encoded spectra, in place; the encoder is not touched.

    Args:
        model: The model; its config says what the head reads.
        encoded: All spectra.
        labels: What the model takes as labels, one entry per spectrum.
        train: Indices of the training spectra.
        validation: Indices of the validation spectra.
        options: How.
    """
    head = model.head
    steps = options.steps(len(train))
    rate = options.learning_rate or (1e-3 if len(train) < MANY else 3e-3)
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    keep_best = len(validation) >= LEAST_VALIDATION
    least, best = math.inf, None
    for step, places in enumerate(random_batches(len(train), options.batch_size, steps), 1):
        rows = train[places.numpy()]
        head.train()
        inputs = _pad([encoded[row] for row in rows], model.config.head_input)
        model.adapt(**inputs, labels=labels[rows]).loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if keep_best and step % max(steps // options.checks, 1) == 0:
            loss = _mean_loss(model, [encoded[row] for row in validation], labels[validation])
            if loss < least:
                least, best = loss, {name: value.clone() for name, value in head.state_dict().items()}
    if best is not None:
        head.load_state_dict(best)
    head.eval()


def calibrate(model: TaskModel, outputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> None:
    """Put into a model's config what makes its uncertainties true on validation spectra, in place.

    Uncertainties of targets get one factor each, so that 68 % of the errors lie within them; a posterior gets the
    temperature and the recalibration of the highest likelihood. What has neither stays as it is.

    Args:
        model: The model, not calibrated yet.
        outputs: What it says of the validation spectra.
        labels: Their labels.

    Raises:
        ValueError: If the model is calibrated already.
    """
    config = model.config
    calibrated = (config.uncertainty_scale, config.redshift_temperature, list(config.redshift_recalibration))
    if calibrated != (None, 1.0, [1.0, 1.0]):
        raise ValueError(f"the model is calibrated already {calibrated}: call uncalibrate(model), then predict again")
    if outputs.get("uncertainties") is not None:
        labels = labels.reshape(outputs["predictions"].shape)
        residuals = (outputs["predictions"] - labels).double().numpy()
        config.uncertainty_scale = uncertainty_scale(residuals, outputs["uncertainties"].double().numpy()).tolist()
    if outputs.get("posterior") is not None:
        position = redshift_position(config, labels.double())
        known = position.isfinite()
        numbers = _calibrated(outputs["posterior"].double()[known], position[known])
        config.redshift_temperature, config.redshift_recalibration = numbers[0], numbers[1:]


def _calibrated(posterior: torch.Tensor, position: torch.Tensor) -> list[float]:
    """Temperature and exponents of recalibration with the highest likelihood of the truths.

    The exponents stay 1 where validation is too small to tell them.
    """
    logits = posterior.clamp(min=1e-30).log()
    free = torch.zeros(3 if len(position) >= LEAST_VALIDATION else 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([free], max_iter=100, line_search_fn="strong_wolfe")

    def numbers() -> torch.Tensor:
        return torch.cat([free, free.new_zeros(3 - len(free))]).clamp(-2, 2).exp()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        temperature, first, second = numbers()
        calibrated = recalibrate((logits / temperature).softmax(-1), first, second)
        loss = -posterior_density(calibrated, position).clamp(min=1e-12).log().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return numbers().tolist()


def uncalibrate(model: TaskModel) -> None:
    """Take back what `calibrate` did, for a model that is to be trained further.

    Args:
        model: The model.
    """
    model.config.uncertainty_scale = None
    model.config.redshift_temperature, model.config.redshift_recalibration = 1.0, [1.0, 1.0]


def redshift_pit(model: TaskModel, posterior: torch.Tensor, redshift: torch.Tensor) -> np.ndarray:
    """Probability integral transform of true redshifts: uniform between 0 and 1 if posteriors are honest. Shape (n,).

    Args:
        model: The model, whose config says where the nodes are.
        posterior: Probability of each node, shape (n, bins).
        redshift: True redshifts, shape (n,).
    """
    return posterior_cdf(posterior.double(), redshift_position(model.config, redshift.double())).numpy()


def task_labels(task: Task) -> torch.Tensor:
    """The labels of a task as its model takes them.

    Args:
        task: The task.
    """
    if task.kind == "classification":
        number = {name: row for row, name in enumerate(task.classes)}
        return torch.tensor([number.get(name, NO_CLASS) for name in task.labels.tolist()])
    return torch.tensor(task.labels, dtype=torch.float32)


def _class_fields(task: Task, split: Split) -> dict[str, Any]:
    names = dict(enumerate(task.classes))
    counts = [max(int((task.labels[split.train] == name).sum()), 1) for name in task.classes]
    weights = class_weights(counts, "inverse-sqrt")
    return {"id2label": names, "label2id": {name: row for row, name in names.items()}, "class_weights": weights}


def _target_fields(task: Task, split: Split) -> dict[str, Any]:
    known = task.labels[split.train]
    return {
        "target_names": list(task.target_names),
        "target_units": list(task.target_units) or None,
        "target_mean": np.nanmean(known, 0).tolist(),
        "target_std": np.nanstd(known, 0).tolist(),
        "predict_uncertainty": True,
    }


def _redshift_fields(task: Task, split: Split) -> dict[str, Any]:
    return {"redshift_smoothing": SMOOTHING}


TASK_FIELDS = {"classification": _class_fields, "regression": _target_fields, "redshift": _redshift_fields}


def _pad(encoded: Sequence[EncodedSpectrum], head_input: str) -> dict[str, torch.Tensor]:
    """Arguments of `adapt`, padded to the longest spectrum."""
    pad = torch.nn.utils.rnn.pad_sequence
    wavelength = pad([one.token_wavelength for one in encoded], batch_first=True)
    states = pad([getattr(one, head_input) for one in encoded], batch_first=True)
    return {"states": states, "token_wavelength": wavelength, "attention_mask": wavelength > 0}


def head_outputs(
    model: TaskModel, encoded: Sequence[EncodedSpectrum], *, batch_size: int = 64
) -> dict[str, torch.Tensor]:
    """What the head of a model says of encoded spectra.

    Args:
        model: The model.
        encoded: The spectra.
        batch_size: Spectra per call.
    """
    model.eval()
    parts = []
    for first in range(0, len(encoded), batch_size):
        with torch.inference_mode():
            parts.append(model.adapt(**_pad(encoded[first : first + batch_size], model.config.head_input)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _mean_loss(model: TaskModel, encoded: Sequence[EncodedSpectrum], labels: torch.Tensor, size: int = 64) -> float:
    model.eval()
    total = 0.0
    for first in range(0, len(encoded), size):
        part = encoded[first : first + size]
        with torch.inference_mode():
            inputs = _pad(part, model.config.head_input)
            total += model.adapt(**inputs, labels=labels[first : first + size]).loss.item() * len(part)
    return total / len(encoded)


def _predict(task: Task, outputs: Mapping[str, torch.Tensor]) -> Prediction:
    if task.kind == "classification":
        return Prediction(np.asarray(task.classes)[outputs["logits"].argmax(-1).numpy()])
    if task.kind == "redshift":
        return Prediction(outputs["redshift"].double().numpy(), outputs["uncertainty"].double().numpy())
    claimed = outputs.get("uncertainties")
    return Prediction(outputs["predictions"].double().numpy(), None if claimed is None else claimed.double().numpy())


def _pool(encoded: Sequence[EncodedSpectrum], how: str) -> np.ndarray:
    """Pooled hidden states, shape (n, d); segments are those of the range of all spectra together."""
    ends = [(float(one.token_wavelength.min()), float(one.token_wavelength.max())) for one in encoded]
    span = min(first for first, _ in ends), max(last for _, last in ends)
    return np.stack(
        [
            pool_features(
                one.last_hidden_state.numpy(),
                np.ones(len(one.token_wavelength)),
                one.token_wavelength.numpy(),
                how=how,
                span=span,
            )
            for one in encoded
        ]
    )


__all__ = [
    "SMOOTHING",
    "Backbone",
    "EncodedSpectrum",
    "FitOptions",
    "calibrate",
    "encode",
    "finetuned",
    "fit_head",
    "fitted_head",
    "from_checkpoint",
    "from_config",
    "frozen_head",
    "head_outputs",
    "redshift_pit",
    "task_labels",
    "trained",
    "trained_head",
    "uncalibrate",
]
