"""Runs Transformers' own common model, config and feature-extraction tests against this package.

They come with the source package of the installed Transformers, which is downloaded once, and so always match it. What
it leaves out, and the tests import, is replaced by the stand-ins below.

    python tests/common/run.py [options of pytest, such as -k test_save_load]
"""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".common_tests"
TEST_FILES = (
    "common_modeling_spectok.py",
    "common_modeling_omnispectra.py",
    "common_modeling_specformer.py",
    "common_modeling_astroclip.py",
    "common_modeling_spectrum_vit.py",
    "common_processing_spectok.py",
    "common_processing_omnispectra.py",
    "common_processing_specformer.py",
    "common_processing_astroclip.py",
    "common_processing_spectrum_vit.py",
)
# Not ours, which turns warnings into errors: Transformers' tests warn.
PYTEST_INI = "[pytest]\naddopts = -q -rfE -W ignore -p no:cacheprovider\n"
UPSTREAM = (
    "test_configuration_common.py",
    "test_feature_extraction_common.py",
    "test_modeling_common.py",
    "test_sequence_feature_extraction_common.py",
)
STAND_INS = {
    # Not run here: the export tests are not in the source package, and our models do not generate.
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    # Fields that every config accepts, each away from its default.
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "architectures": ["SpecTokModel"],
    "chunk_size_feed_forward": 3,
    "dtype": "float16",
    "id2label": {0: "galaxy"},
    "label2id": {"galaxy": "0"},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}
""",
}


def main() -> int:
    """Run the tests; the exit code is pytest's."""
    version = importlib.metadata.version("transformers")
    harness = CACHE / f"transformers-{version}"
    if not harness.is_dir():
        download_tests(version, harness)
    write_stand_ins(harness)
    print(f"Common tests of transformers {version}", flush=True)
    paths = [str(harness), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    options = ["-c", str(harness / "pytest.ini"), "--noconftest"]
    command = [sys.executable, "-m", "pytest", *options, *(str(HERE / name) for name in TEST_FILES), *sys.argv[1:]]
    return subprocess.run(command, cwd=harness, env=environment, check=False).returncode


def download_tests(version: str, harness: Path) -> None:
    """Fetch the test files of one Transformers release; `harness` appears only once it is complete."""
    print(f"Fetching the source package of transformers {version}", flush=True)
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "transformers"]
        done = subprocess.run(
            [*download, "--dest", folder, f"transformers=={version}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{done.stdout}{done.stderr}pip could not fetch the source package of transformers {version}")
        complete = Path(folder) / "harness"
        (complete / "tests").mkdir(parents=True)
        with tarfile.open(Path(folder) / f"transformers-{version}.tar.gz") as archive:
            for name in UPSTREAM:
                member = archive.extractfile(f"transformers-{version}/tests/{name}")
                (complete / "tests" / name).write_bytes(member.read())
        complete.rename(harness)


def write_stand_ins(harness: Path) -> None:
    """Make the downloaded files a package that can be imported."""
    (harness / "pytest.ini").write_text(PYTEST_INI, encoding="utf-8")
    (harness / "tests" / "__init__.py").touch()
    for name, source in STAND_INS.items():
        path = harness / "tests" / name
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(source, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
