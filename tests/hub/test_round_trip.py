"""Published by one call, and loaded where this package is not: every class and every pipeline, bit for bit."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from bare_environment import BareEnvironment
from loopback_hub import CLIENT_WARNINGS, LoopbackHub
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification, pipeline

from spectok_hf import (
    AstroClipProcessor,
    OmniSpectraProcessor,
    SpecformerProcessor,
    SpectrumImageProcessor,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.hub import CardFacts, TrainingSurvey, push

pytestmark = CLIENT_WARNINGS
PIPELINES = {
    "base": ["spectrum-embedding"],
    "pretraining": ["spectrum-reconstruction", "spectrum-embedding"],
    "classification": ["spectrum-classification", "spectrum-embedding"],
    "stellar": ["stellar-parameters", "spectrum-embedding"],
    "redshift": ["spectrum-redshift", "spectrum-embedding"],
}
AUTO_CLASSES = {
    "base": AutoModel,
    "pretraining": AutoModelForPreTraining,
    "classification": AutoModelForSequenceClassification,
    "stellar": AutoModelForSequenceClassification,
    "redshift": AutoModelForSequenceClassification,
}
KINDS = list(PIPELINES)
# Of the other families those that share least: the model that is pretrained, and one head.
OTHERS = [f"{family} {kind}" for family in ("omnispectra", "specformer") for kind in ("pretraining", "redshift")]
OTHERS += ["spectrum_vit classification", "spectrum_vit redshift"]
FAMILIES = [*KINDS, *OTHERS, "astroclip base"]
for table in (PIPELINES, AUTO_CLASSES):
    table |= {
        f"{family} {kind}": table[kind]
        for family in ("omnispectra", "specformer", "astroclip", "spectrum_vit")
        for kind in KINDS
    }
PIPELINES["astroclip base"] = ["spectrum-embedding", "spectrum-image-similarity"]
PROCESSORS = {
    "omnispectra": OmniSpectraProcessor,
    "specformer": SpecformerProcessor,
    "astroclip": lambda: AstroClipProcessor(SpectrumProcessor(), image_size=24),
    "spectrum_vit": lambda: SpectrumImageProcessor(image_size=24),
}
IMAGES = [
    {"flux": flux, "bands": ("g", "r", "z"), "pixel_scale": 0.262}
    for flux in np.random.default_rng(0).normal(size=(2, 3, 30, 30))
]


def family_of(kind):
    return kind.split()[0] if " " in kind else "spectok"


def facts_of(kind):
    survey = "desi" if family_of(kind) == "specformer" else "sdss"
    return CardFacts(
        license="mit",
        training={survey: TrainingSurvey(spectra=100, simulated=100)},
        steps=10,
        batch_size=8,
        hardware="two CPU cores",
        results=[],
    )


def make_processor(kind):
    return PROCESSORS.get(family_of(kind), SpectrumProcessor)()


def inputs_of(kind, columns):
    """What a kind is given: spectra of its grid, and images, where it sees them."""
    seen = {"images": IMAGES} if family_of(kind) == "astroclip" else {}
    return make_processor(kind)(columns[kind], return_tensors="pt", **seen)


def ask(pipe, task, spectrum):
    return pipe({"spectrum": spectrum} if task == "spectrum-image-similarity" else spectrum)


def repo(kind):
    return f"org/{kind if ' ' in kind else f'spectok {kind}'}".replace(" ", "-")


# What someone does who has never seen this repository: the model, the processor and the pipelines by name.
LOAD = """
import importlib.util, json, os, sys
sys.dont_write_bytecode = True
try:
    import spectok_hf
    sys.exit("the package is installed")
except ImportError:
    pass
import numpy as np, torch, transformers

columns = dict(np.load(sys.argv[1]))
every = [{name: columns[f"{name}{i}"] for name in ("flux", "wavelength", "ivar", "mask")} for i in range(4)]
fluxes = np.random.default_rng(0).normal(size=(2, 3, 30, 30))
images = [{"flux": flux, "bands": ("g", "r", "z"), "pixel_scale": 0.262} for flux in fluxes]
for where, auto_class, family, tasks, revision, answers, save_to in json.loads(sys.argv[2]):
    spectra = every[2:] if family == "specformer" else every[:2]
    seen, request_options = {}, {}
    if family == "astroclip":  # whose endpoint answers for spectra if it is asked to
        seen, request_options = {"images": images}, {"parameters": {"task": "spectrum-embedding"}}
    options = {"trust_remote_code": True} | ({"revision": revision} if revision else {})
    assert transformers.AutoConfig.from_pretrained(where, **options).model_type == family
    model = getattr(transformers, auto_class).from_pretrained(where, **options)
    processor = transformers.AutoProcessor.from_pretrained(where, **options)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(where, **options)
    inputs = processor(spectra, return_tensors="pt", **seen)
    same = extractor(spectra, return_tensors="pt", **seen)
    assert all(torch.equal(inputs[name], other) for name, other in same.items())
    with torch.no_grad():
        outputs = model(**inputs)
    np.savez(answers, **{name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)})
    pipes = {task: transformers.pipeline(task, model=where, **options) for task in tasks}
    asked = {task: [{"spectrum": one} if "similarity" in task else one for one in spectra] for task in tasks}
    found = {task: [pipe(one) for one in asked[task]] for task, pipe in pipes.items()}
    if os.path.isdir(where):  # as an endpoint does
        spec = importlib.util.spec_from_file_location("handler", os.path.join(where, "handler.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        request = {name: values.tolist() for name, values in spectra[0].items()}
        found["endpoint"] = module.EndpointHandler(where)({"inputs": request, **request_options})
    with open(answers + ".json", "w") as file:
        json.dump(found, file, allow_nan=False)
    if save_to:
        model.save_pretrained(save_to)
print("loaded with transformers", transformers.__version__)
"""


def columns_of(spectra):
    return [{name: getattr(s, name) for name in ("flux", "wavelength", "ivar", "mask")} for s in spectra]


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """Two spectra of each kind as mappings of arrays, and the file that others read them from."""
    spectra = [simulate_survey(survey, 1, seed=1)[0] for survey in ("sdss", "galah")]
    path = tmp_path_factory.mktemp("spectra") / "spectra.npz"
    found = columns_of([*spectra, *simulate_survey("desi", 2, seed=1)])
    np.savez(path, **{f"{name}{i}": value for i, one in enumerate(found) for name, value in one.items()})
    return {kind: found[2:] if family_of(kind) == "specformer" else found[:2] for kind in PIPELINES}, path


class Elsewhere:
    """Loads checkpoints in one process without the package, and reads what it found."""

    def __init__(self, environment, path, folder):
        self.environment, self.path, self.folder = environment, path, folder

    def load(self, places, variables=None):
        """Outputs and answers by kind, from where each kind lies: (place, revision, where to save it again)."""
        self.folder.mkdir()
        requests = [
            (
                str(place),
                AUTO_CLASSES[kind].__name__,
                family_of(kind),
                PIPELINES[kind],
                revision,
                str(self.folder / f"{kind}.npz"),
                again,
            )
            for kind, (place, revision, again) in places.items()
        ]
        printed = self.environment.run(LOAD, self.path, json.dumps(requests), environment=variables)
        assert "loaded with transformers" in printed
        return {
            kind: (dict(np.load(request[5])), json.loads(Path(f"{request[5]}.json").read_text()))
            for kind, request in zip(places, requests, strict=True)
        }


@pytest.fixture(scope="module")
def published(make_model, bare_environment, columns, tmp_path_factory):
    """Every kind pushed twice, loaded elsewhere at its first commit, saved there, and loaded from that again."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch, LoopbackHub() as hub:
        hub.attach(patch, folder / "home")
        commits = {
            kind: push(make_model(kind), make_processor(kind), repo(kind), card=facts_of(kind)) for kind in FAMILIES
        }
        for kind in FAMILIES:
            push(make_model(kind, seed=1), make_processor(kind), repo(kind), card=facts_of(kind))
            write_files(hub.files(repo(kind), commits[kind].oid), folder / "pinned" / kind)
        places = {kind: (repo(kind), commit.oid, str(folder / "resaved" / kind)) for kind, commit in commits.items()}
        variables = hub.environment(folder / "elsewhere")
        pinned = Elsewhere(bare_environment, columns[1], folder / "first").load(places, variables)
    resaved = {kind: (folder / "resaved" / kind, None, None) for kind in FAMILIES}
    again = Elsewhere(bare_environment, columns[1], folder / "again").load(resaved)
    return folder, pinned, again


def write_files(files, folder):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("kind", FAMILIES)
def test_pushed_by_one_call_and_loaded_at_a_pinned_revision_without_the_package(kind, published, columns):
    folder, pinned, _ = published
    outputs, answers = pinned[kind]
    model = AUTO_CLASSES[kind].from_pretrained(folder / "pinned" / kind)
    assert type(model).__module__.startswith("spectok_hf.")
    with torch.no_grad():
        expected = model(**inputs_of(kind, columns[0]))
    expected = {name: value.numpy() for name, value in expected.items() if isinstance(value, torch.Tensor)}
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():  # bit by bit
        np.testing.assert_array_equal(outputs[name], value, err_msg=name)
    for task in PIPELINES[kind]:
        pipe = pipeline(task, model=str(folder / "pinned" / kind))
        assert answers[task] == [ask(pipe, task, one) for one in columns[0][kind]], task
        assert answers[task][0] != answers[task][1]


@pytest.mark.parametrize("kind", FAMILIES)
def test_saved_without_the_package_a_checkpoint_stays_complete(kind, published):
    folder, pinned, again = published
    before = {path.name: path for path in (folder / "pinned" / kind).iterdir()}
    after = {path.name: path for path in (folder / "resaved" / kind).iterdir()}
    assert after.keys() == before.keys() - {"README.md", "facts.yaml", ".gitattributes"}
    for name, path in after.items():
        assert path.suffix != ".py" or path.read_bytes() == before[name].read_bytes(), name
    assert again[kind][1].pop("endpoint") == pinned[kind][1][PIPELINES[kind][0]][0]
    assert again[kind][1] == pinned[kind][1]
    assert all(np.array_equal(again[kind][0][name], value) for name, value in pinned[kind][0].items())


def test_the_newest_commit_is_what_a_name_alone_loads(hub, make_model, tmp_path):
    card = facts_of("base")
    commits = [push(make_model("base", seed=seed), SpectrumProcessor(), "org/spectok", card=card) for seed in (0, 1)]
    files = [hub.files("org/spectok", revision) for revision in (*(commit.oid for commit in commits), "main")]
    assert files[2] == files[1] and files[2]["model.safetensors"] != files[0]["model.safetensors"]
    assert len(hub.repos["models", "org/spectok"].branches) == 1


@pytest.fixture(scope="module")
def lowest_and_latest(tmp_path_factory):
    """Environments from the registry, without the package: of the lowest supported Transformers, and the latest."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (bounds,) = (text for text in project["dependencies"] if text.startswith("transformers"))
    lowest = re.search(r">=([\d.]+)", bounds).group(1)
    environments = {}
    for name, wanted in (("lowest", f"transformers=={lowest}"), ("latest", bounds)):
        folder = tmp_path_factory.mktemp(name)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", folder / "installed", wanted], check=True)
        environments[name] = BareEnvironment(folder, ("torch",), first=[folder / "installed"])
    return environments


@pytest.mark.slow
def test_one_folder_loads_on_the_lowest_and_the_latest_transformers(lowest_and_latest, make_model, columns, tmp_path):
    for kind in FAMILIES:
        model = make_model(kind)
        model.remember_processor(make_processor(kind))
        model.save_pretrained(tmp_path / kind)
    version = "import transformers; print(transformers.__version__)"
    versions = {name: environment.run(version).split()[-1] for name, environment in lowest_and_latest.items()}
    print("transformers:", versions)
    assert versions["lowest"] != versions["latest"]
    found = {
        name: Elsewhere(environment, columns[1], tmp_path / f"answers-{name}").load(
            {kind: (tmp_path / kind, None, str(tmp_path / name / kind)) for kind in FAMILIES}
        )
        for name, environment in lowest_and_latest.items()
    }
    for kind in FAMILIES:
        (lowest, lowest_answers), (latest, latest_answers) = found["lowest"][kind], found["latest"][kind]
        assert lowest_answers == latest_answers
        assert all(np.array_equal(lowest[name], value) for name, value in latest.items())
    # What one has saved, the other loads.
    crossed = Elsewhere(lowest_and_latest["lowest"], columns[1], tmp_path / "crossed").load(
        {kind: (tmp_path / "latest" / kind, None, None) for kind in FAMILIES}
    )
    assert {kind: answers for kind, (_, answers) in crossed.items()} == {
        kind: answers for kind, (_, answers) in found["latest"].items()
    }


def test_heads_in_folders_of_one_name_do_not_become_each_other(make_model, bare_environment, columns, tmp_path):
    """Transformers keeps one class per config class, and folders of one name and code share theirs."""
    places = {}
    kinds = ("classification", "stellar", "redshift", "pretraining")
    for kind in (*kinds, "omnispectra classification", "omnispectra stellar"):
        folder = tmp_path / kind / "final"
        model = make_model(kind)
        model.remember_processor(make_processor(kind))
        model.save_pretrained(folder)
        places[kind] = (folder, None, None)
    found = Elsewhere(bare_environment, columns[1], tmp_path / "answers").load(places)
    expected = {"classification": "logits", "stellar": "predictions", "redshift": "zwarn", "pretraining": "tokens"}
    expected |= {f"omnispectra {kind}": expected[kind] for kind in kinds[:2]}
    assert all(name in found[kind][0] for kind, name in expected.items())
    with torch.no_grad():
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stellar" / "final")
        outputs = model(**inputs_of("stellar", columns[0]))
    np.testing.assert_array_equal(found["stellar"][0]["predictions"], outputs.predictions.numpy())
