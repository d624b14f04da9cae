"""Embed spectra in bulk, and read what was written: one row per spectrum, in Parquet files.

    python examples/embed.py --smoke
    python examples/embed.py survey/*.fits
    python examples/embed.py survey/*.fits --model org/spectok --output embeddings
    torchrun --nproc-per-node 8 examples/embed.py shards --model org/spectok --output embeddings

It is what `spectok embed` does, by its function; a killed run goes on where it stopped.
"""

import argparse

import datasets
import numpy as np
import torch
from accelerate import PartialState

from spectok_hf import SpecTokConfig, SpecTokModel, SpectrumProcessor
from spectok_hf.embedding import embed_spectra

SMOKE_SOURCES = ["simulate:sdss:24", "simulate:desi:16", "simulate:apogee:8"]
SMOKE_MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="files, folders, patterns, shards, simulate:SURVEY:COUNT[:SEED]")
    parser.add_argument("--model", default="spectok-tiny", help="a folder, ORG/NAME on the Hub, or what is shipped")
    parser.add_argument("--output", default="embeddings", help="folder of the Parquet files")
    parser.add_argument("--tokens", action="store_true", help="write the tokens too")
    parser.add_argument("--workers", type=int, default=0, help="processes that read, beside each that encodes")
    parser.add_argument("--smoke", action="store_true", help="simulated spectra and a new, untrained model")
    args = parser.parse_args()
    if not args.smoke and not args.sources:
        parser.error("sources are needed, or --smoke")
    return args


def main() -> None:
    args = parse_arguments()
    model = args.model
    if args.smoke:
        torch.manual_seed(0)
        model = (SpecTokModel(SpecTokConfig(**SMOKE_MODEL)), SpectrumProcessor())
    outcome = embed_spectra(
        args.sources or SMOKE_SOURCES,
        model,
        args.output,
        tokens=args.tokens,
        num_workers=args.workers,
        progress=True,
    )
    state = PartialState()
    if state.is_main_process:
        print(f"{args.output}: {outcome}")
        describe(args.output)
    state.destroy_process_group()


def describe(folder: str) -> None:
    """Read a folder of embeddings as anybody would, and say what is in it."""
    rows = datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train")
    rows = rows.filter(lambda reason: reason is None, input_columns="reason")
    embeddings = np.asarray(rows.with_format("numpy")["embedding"][:])
    print(f"{len(rows)} embeddings of {embeddings.shape[1]} numbers, of {', '.join(sorted(set(rows['survey'][:])))}")
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    likeness = unit @ unit[0]
    likeness[0] = -np.inf
    nearest = int(np.argmax(likeness))
    print(f"most like {rows[0]['object_id']}: {rows[nearest]['object_id']} (cosine {likeness[nearest]:.4f})")


if __name__ == "__main__":
    main()
