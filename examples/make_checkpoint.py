"""A shipped checkpoint from the spectra to its folder in `model_cards`, in steps that go on where they were killed.

    python examples/make_checkpoint.py spectok-tiny --spectra ../shared/spectra
    python examples/make_checkpoint.py spectok-small --spectra ../shared/spectra --launch "accelerate launch"
    python examples/make_checkpoint.py spectok-base --shards a --steps pretraining --launch torchrun
    python examples/make_checkpoint.py spectok-tiny --spectra ../shared/spectra --steps tables card

Steps: `data` writes shards (`checkpoint_data.py`), `pretraining` trains the autoencoder on them
(`pretrain.py configs/<name>.yaml`), `heads` fine-tunes three heads, `lamost` trains two short autoencoders, with and
without that survey, `weights` writes the folder (`publish_checkpoint.py`), `tables` measures each figure of its cards,
for which that folder and the spectra suffice, and `card` puts them in (`card_figures.py`). A step is done when its
last file is there, and newer than those of the steps before it that are asked for; it is not done again. Once there
are shards, pretraining needs neither astropy, nor `datasets`, nor `evaluate`.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from real_spectra import add_spectra_option

EXAMPLES = Path(__file__).parent
CARDS = EXAMPLES.parent / "model_cards"
NAMES = ("spectok-tiny", "spectok-small", "spectok-base")
MANIFEST = "manifest.json"
# A head's folder, and the script that trains it by the configuration of the same name.
HEADS = {
    "classification": "finetune_classification.py",
    "stellar-parameters": "finetune_stellar_parameters.py",
    "redshift": "finetune_redshift.py",
}
# What measures the figures of the cards, the stem or folder that it writes, and what is there in the end.
TABLES = (
    ("evaluate_reconstruction.py", "reconstruction", "reconstruction.md"),
    ("latent_space.py", "latent_space", "latent_space/neighbours.md"),
    ("evaluate_transfer.py", "transfer", "transfer.md"),
    ("evaluate_transfer.py", "lamost", "lamost.md"),
    ("evaluate_checkpoint.py", "tasks", "tasks.md"),
    ("evaluate_checkpoint.py", "heads", "heads.md"),
)
LAMOST = {"with": [], "without": ["--without", "lamost", "lamost_mrs"]}
OF_HEADS = ("shipped head", "PCA + ridge, raw flux", "MLP, raw flux")
# Options of the step `data`: a larger model sees more.
SIZES: dict[str, list[str]] = {
    "spectok-tiny": [],
    "spectok-small": ["--simulated", "30000", "--drawn", "60000"],
    "spectok-base": ["--simulated", "100000", "--drawn", "60000"],
}
Command = tuple[list[str], Path]  # and what is there when it has run to its end


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES, help="the checkpoint")
    add_spectra_option(parser)
    parser.add_argument("--output", type=Path, default=Path("outputs/checkpoints"), help="where everything goes")
    parser.add_argument("--shards", nargs="+", help="train on these shards instead of those of the step `data`")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="steps to do; default: all")
    parser.add_argument("--launch", default="", help="what starts the training's processes, such as torchrun ...")
    parser.add_argument("--options", default="", help="further options of the training, in one text")
    parser.add_argument("--head_options", default="", help="further options of the heads, such as --use_cpu false")
    parser.add_argument("--jobs", type=int, default=2, help="processes of the step `tables`")
    parser.add_argument("--dry_run", action="store_true", help="print the commands only")
    return parser.parse_args(argv)


def data(args: argparse.Namespace) -> Iterator[Command]:
    """Shards of all spectra but those held out."""
    if not args.shards:
        shards = args.output / args.name / "shards"
        yield [*script("checkpoint_data.py"), str(args.spectra), str(shards), *SIZES[args.name]], shards / MANIFEST


def pretraining(args: argparse.Namespace) -> Iterator[Command]:
    """The autoencoder."""
    folder = args.output / args.name / "pretraining"
    launch = shlex.split(args.launch)
    command = [*launch, str(EXAMPLES / "pretrain.py")] if launch else script("pretrain.py")
    command += [str(EXAMPLES / "configs" / f"{args.name}.yaml"), "--output_dir", str(folder)]
    command += ["--shards", *(args.shards or [str(args.output / args.name / "shards")]), *shlex.split(args.options)]
    yield command, folder / "report.md"


def lamost(args: argparse.Namespace) -> Iterator[Command]:
    """Two short trainings alike but for LAMOST: what a checkpoint makes of a survey that it has never seen."""
    for (command, _), (name, without) in zip(list(pretraining(args)) * 2, LAMOST.items(), strict=True):
        folder = args.output / args.name / "lamost" / name
        options = ["--output_dir", str(folder), "--max_steps", "1000", *without]
        yield [*command, *options], folder / "report.md"


def heads(args: argparse.Namespace) -> Iterator[Command]:
    """Three heads, each with the encoder under it."""
    start = args.output / args.name / "pretraining"
    sources = args.output / args.name / "shards-sources"
    if args.shards:
        raise ValueError("heads need labelled spectra: train them by the scripts finetune_*.py, or leave out --shards")
    for head, name in HEADS.items():
        folder = args.output / args.name / head
        config = EXAMPLES / "configs" / f"finetune_checkpoint_{head.replace('-', '_')}.yaml"
        grid = "apogee" if head == "stellar-parameters" else "boss"
        files = [str(sources / "real.parquet"), *map(str, sorted(sources.glob(f"{grid}-[0-9]*.parquet")))]
        options = ["--model_name_or_path", str(start), "--output_dir", str(folder), "--data", *files]
        yield [*script(name), str(config), *options, *shlex.split(args.head_options)], folder / "report.md"


def tables(args: argparse.Namespace) -> Iterator[Command]:
    """Every figure of the cards: of the folder in `model_cards`, as it is shipped."""
    folder, start = args.output / args.name / "tables", str(CARDS / args.name)
    spectra = ["--spectra", str(args.spectra)]
    lamost = args.output / args.name / "lamost"
    for name, output, done in TABLES:
        if output == "lamost" and not lamost.is_dir() and "lamost" not in args.steps:
            continue
        begin = str(lamost / "with") if output == "lamost" else start
        more = {
            "lamost": ["--compare", str(lamost / "without")],
            "tasks": ["--jobs", str(args.jobs)],
            "heads": ["--jobs", str(args.jobs), "--heads", start, "--methods", *OF_HEADS],
        }.get(output, [])
        yield [*script(name), begin, *spectra, "--output", str(folder / output), *more], folder / done


def weights(args: argparse.Namespace) -> Iterator[Command]:
    """The folder in `model_cards`, with what cards can say before anything is measured."""
    folder = args.output / args.name
    yield [*script("publish_checkpoint.py"), str(folder), str(CARDS / args.name)], folder / "weights.json"


def card(args: argparse.Namespace) -> Iterator[Command]:
    """The figures in the cards, written anew each time."""
    yield [*script("card_figures.py"), str(args.output / args.name / "tables"), str(CARDS / args.name)], Path()


STEPS: dict[str, Callable[[argparse.Namespace], Iterator[Command]]] = {
    "data": data,
    "pretraining": pretraining,
    "heads": heads,
    "lamost": lamost,
    "weights": weights,
    "tables": tables,
    "card": card,
}


def script(name: str) -> list[str]:
    """What runs one of the scripts beside this one.

    Args:
        name: Its file.
    """
    return [sys.executable, str(EXAMPLES / name)]


def run(args: argparse.Namespace) -> None:
    """Do the steps in their order.

    Args:
        args: Options.

    Raises:
        ValueError: If a step needs the catalogue folder, and there is none.
        subprocess.CalledProcessError: If a step fails.
    """
    if args.spectra is None and {"data", "tables"} & set(args.steps) - ({"data"} if args.shards else set()):
        raise ValueError("the real spectra are needed: pass --spectra FOLDER, or set SPECTOK_SPECTRA")
    newest = 0.0  # of what the steps so far have made
    for step in STEPS:
        commands = list(STEPS[step](args)) if step in args.steps else []
        before = newest
        for command, done in commands:
            if done.is_file() and done.stat().st_mtime >= before:
                print(f"{step}: {done} is there")
                newest = max(newest, done.stat().st_mtime)
                continue
            print(f"{step}: {shlex.join(command)}", flush=True)
            if not args.dry_run:
                subprocess.run(command, check=True)
                newest = max(newest, done.stat().st_mtime if done.is_file() else 0.0)


if __name__ == "__main__":
    run(parse_arguments())
