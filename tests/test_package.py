"""What holds for the package as a whole."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel, AutoModelForPreTraining
from transformers.dynamic_module_utils import get_relative_imports

import spectok_hf
from spectok_hf.models.checkpoints import ENTRIES, code_files

SOURCE = Path(spectok_hf.__file__).parent
MODEL_FILES = sorted((SOURCE / "models").glob("*.py"))
ALLOWED = {"torch", "numpy", "transformers", "huggingface_hub", *sys.stdlib_module_names}
LAYERS = {"models": 0, "shipped": 0, "data": 1, "evaluation": 2, "analysis": 3, "hub": 4, "inference": 5}
LAYERS |= {"encoder": 6, "embedding": 6, "commands": 7}


def test_importing_prints_nothing_and_loads_nothing_optional():
    code = (
        "import sys, spectok_hf; "
        "heavy = {'astropy', 'specutils', 'matplotlib', 'datasets', 'gradio'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_every_public_name_is_there():
    for name in spectok_hf.__all__:
        assert getattr(spectok_hf, name).__doc__, name


@pytest.mark.parametrize("family", ["SpecTok", "OmniSpectra"])
def test_registering_again_changes_nothing(family):
    spectok_hf.register()
    config = getattr(spectok_hf, f"{family}Config").from_preset("tiny")
    assert type(AutoModel.from_config(config)) is getattr(spectok_hf, f"{family}Model")
    assert type(AutoModelForPreTraining.from_config(config)) is getattr(spectok_hf, f"{family}ForPreTraining")


def imports(path):
    """(module, level, inside a try block) of every import of a file."""
    tree = ast.parse(path.read_text())
    guarded = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0, id(node) in guarded) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, id(node) in guarded


# Under the ends of the names of a family's files; each family's own files, and those that they need, travel.
FAMILIES = sorted(path.stem.partition("_")[2] for path in MODEL_FILES if path.stem.startswith("modeling_"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_files_that_auto_classes_and_pipelines_open(family):
    names = {path.name for path in code_files(family)}
    assert {f"{entry}_{family}.py" for entry in ENTRIES} | {"handler.py", "checkpoints.py"} <= names
    assert names <= {path.name for path in MODEL_FILES}


def test_no_file_of_models_is_left_behind():
    travelling = {path.name for family in FAMILIES for path in code_files(family)}
    assert travelling == {path.name for path in MODEL_FILES} - {"__init__.py"}


def test_the_endpoint_handler_stands_alone():
    assert not [module for module, level, _ in imports(SOURCE / "models" / "handler.py") if level]


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_model_files_hold_no_text_that_reads_like_an_import(path):
    found = set(get_relative_imports(path))  # a scan of the text, docstrings included
    assert found == {module for module, level, _ in imports(path) if level}


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_model_files_can_travel_with_a_checkpoint(path):
    siblings = {file.stem for file in MODEL_FILES}
    for module, level, guarded in imports(path):
        if level:
            assert level == 1 and module in siblings, f"{path.name}: only `from .sibling import ...` travels"
        elif not guarded:
            assert module.split(".")[0] in ALLOWED, f"{path.name} imports {module}"


def test_spectrum_needs_numpy_alone():
    assert {module.split(".")[0] for module, _, _ in imports(SOURCE / "models/spectrum.py")} <= {
        "numpy",
        *sys.stdlib_module_names,
    }


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_point_in_one_direction(path):
    for module, level, guarded in imports(path):
        inner = module if level == 2 else module.removeprefix("spectok_hf.") if "spectok_hf." in module else None
        if inner and not guarded:
            assert LAYERS[inner.split(".")[0]] < LAYERS[path.parent.name], f"{path} imports {module}"
