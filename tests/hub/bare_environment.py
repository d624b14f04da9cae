"""An environment of torch, transformers and numpy, what they need, and nothing else: links to what is installed."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def needed_distributions(names):
    """The distributions of these names, and all that they need, those that are installed."""
    found, waiting = {}, list(names)
    while waiting:
        name = re.sub("[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for text in found[name].requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


class BareEnvironment:
    """Python processes that see only what they are given, and a Hub cache of their own.

    Args:
        folder: Where the links and the caches go.
        names: Distributions that are there, beside what they need.
        first: Folders that come before the links.
    """

    def __init__(self, folder: Path, names=("torch", "transformers", "numpy"), first=()):
        self.packages = folder / "packages"
        self.packages.mkdir(parents=True)
        self.home = folder / "home"
        self.first = [str(path) for path in first]
        for found in needed_distributions(names).values():
            tops = {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}
            for top in tops:
                link, target = self.packages / top, Path(found.locate_file(top))
                if not link.exists() and target.exists():
                    link.symlink_to(target)

    def run(self, code: str, *arguments: object, environment: Mapping[str, str] | None = None, cwd=None):
        """What a script prints; its failure is the test's."""
        variables = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        variables |= {
            "PYTHONPATH": os.pathsep.join([*self.first, str(self.packages)]),
            "HOME": str(self.home),
            "HF_HOME": str(self.home / "hf"),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        # -S: no site-packages, so that neither the environment of the tests nor an editable install is seen
        done = subprocess.run(
            [sys.executable, "-S", "-s", "-c", code, *map(str, arguments)],
            env=variables,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout
