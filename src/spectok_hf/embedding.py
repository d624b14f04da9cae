"""`embed_spectra`: millions of spectra as Parquet files of embeddings, over processes and devices."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .data.collators import TOKEN_BUDGET
from .data.resumable import Outcome, PartFolder
from .data.shards import SPECTRA_PER_SHARD
from .inference.answers import DTYPES, EmbeddingAnswers, load_encoder
from .inference.part_runs import OUTPUT, RunOptions, answer_sources
from .models.processing_spectok import SpectrumProcessor
from .models.spectrum import check_choice

FORMAT = "spectok_hf.embeddings/2"
MANIFEST = ".manifest.json"  # hidden, as what reads the folder would take it for data


def embed_spectra(
    sources: Iterable[str | Path] | str | Path,
    checkpoint: str | Path | tuple[Any, SpectrumProcessor],
    folder: str | Path,
    *,
    tokens: bool = False,
    survey: str | None = None,
    generation: str | None = None,
    spectra_per_part: int = SPECTRA_PER_SHARD,
    token_budget: int = TOKEN_BUDGET,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    on_error: str = "skip",
    overwrite: bool = False,
    verify: bool = False,
    progress: bool = False,
) -> Outcome:
    """Write one embedding per spectrum of any sources as Parquet files, in the order of the sources.

    Sources are cut into parts, which are dealt to the processes of `accelerate launch` or `torchrun`; each part
    becomes a file, which appears whole. The same call goes on where a killed one stopped, and the folder ends byte for
    byte as it would have without the kill (on the same kind of device: batches depend on the part alone). A few
    hundred spectra are in memory at a time.

    | column | what |
    |---|---|
    | source, row | where the spectrum stands; rows of the files are in the order of the sources |
    | survey, object_id | what the spectrum says, null where it says nothing |
    | embedding | `pooler_output`, hidden_size numbers, float32; null where there is none |
    | tokens, token_wavelength | with `tokens`: of the valid patches, latent_size numbers each, float32; Å |
    | num_patches, valid_patches, good_share | patches, valid ones, share of good pixels |
    | snr | median of flux / error over good pixels |
    | scale | what the flux was divided by |
    | wavelength_min, wavelength_max | first and last pixel, Å, as the spectrum has them |
    | outside | in what respects it lies outside what the checkpoint saw in training; "" = in none |
    | reason | why there is no embedding; else null |

    Args:
        sources: What `plan_parts` takes: files, folders, patterns, folders of shards, simulations.
        checkpoint: A folder, ORG/NAME or ORG/NAME@REVISION on the Hub, the name of one that comes with the package
            ("spectok-tiny"); or a model and its processor. Heads are not used. A model is moved to the device, and
            made float32.
        folder: Where to write; made where it is absent.
        tokens: Whether to write tokens too.
        survey: Survey of rows of tables that do not say theirs.
        generation: Generation of Multimodal Universe Parquet files that do not show theirs, "preview" or "hats".
        spectra_per_part: Most rows, or files, of a part; files are 256, or 64 MiB, at most.
        token_budget: Most patches of a batch; a spectrum with more is a batch of its own. A picture of 224 x 224
            pixels counts as 196.
        num_workers: Processes that read and patch spectra, beside each one that encodes; 0 = none.
        device: Where to encode; None = what accelerate chooses.
        dtype: "float32", or "bfloat16" or "float16" to compute in mixed precision; embeddings are float32.
        on_error: What to do about an entry that cannot be read, or a damaged file or shard: "skip", which gives it a
            row with a reason and counts it, or "raise".
        overwrite: Begin anew in a folder that was made from other sources, or with another model or settings.
        verify: Compare the checksums of the files that are there, and write damaged ones anew; else their sizes are.
        progress: Whether to show a progress bar, in the main process.

    Returns:
        The manifest (model, settings, counts, what has no embedding and why, files with checksums), and what this
        run did, all processes together.

    Raises:
        FileNotFoundError: If a source is missing.
        ValueError: If the folder was begun with other sources, settings or weights, or holds a source, another run
            writes into it, no spectrum has an embedding, the device cannot be used, or, with "raise", an entry cannot
            be read.
    """
    check_choice("dtype", dtype, tuple(DTYPES))
    options = RunOptions(
        survey=survey,
        generation=generation,
        spectra_per_part=spectra_per_part,
        token_budget=token_budget,
        num_workers=num_workers,
        device=device,
        on_error=on_error,
        overwrite=overwrite,
        verify=verify,
        progress=progress,
    )
    name = type(checkpoint[0]).__name__ if isinstance(checkpoint, tuple) else str(checkpoint)

    def load(where: torch.device) -> EmbeddingAnswers:
        model, processor = checkpoint if isinstance(checkpoint, tuple) else load_encoder(checkpoint)
        return EmbeddingAnswers(model, processor, ("tokens",) if tokens else (), device=where, dtype=dtype)

    # The name is not compared when a run goes on: a folder has many.
    output = PartFolder(folder, OUTPUT, "spectok embed", manifest=MANIFEST)
    return answer_sources(
        sources, load, output, format=FORMAT, said={"model": name}, what="embedding", options=options
    )


__all__ = ["embed_spectra"]
