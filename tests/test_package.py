"""What holds for the package as a whole."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel, AutoModelForPreTraining

import spectok_hf

SOURCE = Path(spectok_hf.__file__).parent
MODEL_FILES = sorted((SOURCE / "models").glob("*.py"))
ALLOWED = {"torch", "numpy", "transformers", "huggingface_hub", *sys.stdlib_module_names}
LAYERS = {"models": 0, "data": 1, "evaluation": 2, "analysis": 3}


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


def test_registering_again_changes_nothing():
    spectok_hf.register()
    config = spectok_hf.SpecTokConfig.from_preset("tiny")
    assert type(AutoModel.from_config(config)) is spectok_hf.SpecTokModel
    assert type(AutoModelForPreTraining.from_config(config)) is spectok_hf.SpecTokForPreTraining


def imports(path):
    """(module, level, inside a try block) of every import of a file."""
    tree = ast.parse(path.read_text())
    guarded = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0, id(node) in guarded) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, id(node) in guarded


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
