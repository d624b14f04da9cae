"""What cards and Spaces say of a model family: its paper, how it cuts and normalises, what it was trained to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SPECTOK_CITATION = """\
@article{shen2025spectok,
  title = {Universal Spectral Tokenization via Self-Supervised Panchromatic Representation Learning},
  author = {Shen, Jeff and Lanusse, Francois and Parker, Liam Holden and Liu, Ollie and Hehir, Tom and Sarra, Leopoldo and
            Meyer, Lucas and Bowles, Micah and Wagner-Carena, Sebastian and Qu, Helen and Golkar, Siavash and
            Bietti, Alberto and Bourfoune, Hatim and Cassereau, Nathan and Cornette, Pierre and Hirashima, Keiya and
            Krawezik, Geraud and Ohana, Ruben and Lourie, Nicholas and McCabe, Michael and Morel, Rudy and
            Mukhopadhyay, Payel and Pettee, Mariel and Régaldo-Saint Blancard, Bruno and Cho, Kyunghyun and
            Cranmer, Miles and Ho, Shirley},
  journal = {arXiv e-prints},
  year = {2025},
  eprint = {2510.17959},
  archivePrefix = {arXiv},
  doi = {10.48550/arXiv.2510.17959},
}"""  # noqa: E501
_OMNISPECTRA_CITATION = """\
@article{omnispectra2026,
  title = {OmniSpectra: A Unified Foundation Model for Native Resolution Astronomical Spectra},
  journal = {arXiv e-prints},
  year = {2026},
  eprint = {2601.15351},
  archivePrefix = {arXiv},
  doi = {10.48550/arXiv.2601.15351},
}"""


@dataclass(frozen=True)
class Family:
    """What is said of all models of a family; texts are Jinja, and know `config`, `processor` and `class_name`.

    Args:
        name: Its name.
        paper: Title of the paper whose design it follows.
        arxiv: Its number.
        citation: It as BibTeX.
        layers: Rest of the sentence that counts the encoder's blocks, of an autoencoder.
        tokens: What a token is made of.
        normalisation: How flux is normalised.
        compression: When pixels over numbers in the tokens is largest, and what makes it less.
        objective: What it was trained to do.
        reads: What it knows of a spectrum.
        lost: What its tokens or reconstructions do not hold.
        page: What a Space says of an autoencoder, before its size.
        tasks: What differs in its cards from those of `TASK_CARDS`, by the end of the class's name.
    """

    name: str
    paper: str
    arxiv: str
    citation: str
    layers: str
    tokens: str
    normalisation: str
    compression: str
    objective: str
    reads: str
    lost: str
    page: str
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


SPECTOK = Family(
    name="SpecTok",
    paper="Universal Spectral Tokenization",
    arxiv="2510.17959",
    citation=_SPECTOK_CITATION,
    layers=", {{ config.decoder_num_hidden_layers }} in the decoder",
    tokens="one per {{ config.patch_size }} pixels, {{ config.latent_size }} numbers each",
    normalisation="flux over max(median flux, median error) of its good pixels; pixels beyond "
    "{{ processor.max_normalized_flux | number }} times that are bad",
    compression="at most\n{{ config.patch_size }} / {{ config.latent_size }}: a patch ends at a detector gap and at "
    "the end of a spectrum.",
    objective="""\
The objective is {{ config.objective }}: squared residuals over the catalogue's variance\
{{ (" (%.3g %% of the flux added to the error in quadrature)" % (100 * config.relative_error_floor)) \
if config.relative_error_floor else "" }}\
{{ ", linear beyond %g σ (Huber)" % config.huber_delta if config.huber_delta is not none else "" }},
over the good pixels of {{ "hidden patches only" if config.objective == "masked" else "each spectrum" }}\
{{ ", the mean over spectra of log(1 + mean)" if config.spectrum_loss == "log" else ", the mean over spectra" }}.""",
    reads="wavelength, flux and error",
    lost="{{ config.latent_size }} numbers per {{ config.patch_size }} pixels cannot hold every pixel: noise and "
    "narrow, weak lines are smoothed away. Do not measure\n  line strengths or velocities in reconstructions.",
    page="Every {{ config.patch_size }} pixels become one token of {{ config.latent_size }} numbers, and the decoder "
    "gives the spectrum back",
)

OMNISPECTRA = Family(
    name="OmniSpectra",
    paper="OmniSpectra",
    arxiv="2601.15351",
    citation=_OMNISPECTRA_CITATION,
    layers=" and a linear map to the patches",
    tokens="one every {{ config.patch_size - config.patch_overlap }} pixels, {{ config.latent_size }} numbers each, "
    "made of {{ config.patch_size }} pixels, their mean and their standard deviation",
    normalisation="(flux - mean) / standard deviation of its good pixels; pixels beyond "
    "{{ processor.max_normalized_flux | number }} times max(median flux, median error) are bad",
    compression="about\n{{ config.patch_size - config.patch_overlap }} / {{ config.latent_size }}\
{{ ' (the tokens are larger than the spectrum)' if config.latent_size > config.patch_size - config.patch_overlap }}: "
    "patches overlap by {{ config.patch_overlap }} pixels, and end at a detector gap and at the end of a spectrum.",
    objective="The objective is to predict hidden patches from the others: chunks of {{ config.chunk_length }} "
    "neighbouring patches in\n{{ '%g' % (100 * config.mask_ratio) }} % of the intervals of a spectrum, by the mean "
    "squared error of their fluxes, means and standard deviations,\nthe mean over spectra."
    "{% for name, text in [('wavelength_encoding', 'the encoding of wavelengths'), ('local_position', 'local "
    "positions'), ('validity_mask', 'the mask of valid patches')] if not config[name] %}"
    " Other than the paper's, it is without {{ text }}.{% endfor %}",
    reads="wavelength, flux and bad pixels (errors it does not read)",
    lost="A reconstruction is what the rest of a spectrum says of each patch: noise, and lines that nothing else "
    "tells of, are not in it.\n  Do not measure line strengths or velocities in reconstructions.",
    page="A token of {{ config.latent_size }} numbers stands for {{ config.patch_size }} pixels, and one begins every "
    "{{ config.patch_size - config.patch_overlap }} pixels. The reconstruction predicts each from others",
    tasks={
        "ForPreTraining": {
            "title": "masked model",
            "summary": "It turns a spectrum into tokens, and predicts parts of it that it is not shown.",
            "call": "model.reconstruct",
            "uses": (
                "Encoding spectra of several surveys for tasks of your own: a head, or a plain method, on the tokens.",
                "Seeing what is unlike the rest of a spectrum: where it differs from what is predicted there.",
                "Further training on spectra of your own.",
            ),
        },
    },
)
FAMILIES: dict[str, Family] = {"spectok": SPECTOK, "omnispectra": OMNISPECTRA}


def family_of(config: Any) -> Family:
    """The family that a config belongs to.

    Args:
        config: The config of a model.

    Raises:
        ValueError: If it is none of `FAMILIES`.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"the model must be of {', '.join(FAMILIES)}, found {config.model_type!r}: add it to FAMILIES"
        )
    return FAMILIES[config.model_type]


__all__ = ["FAMILIES", "Family", "family_of"]
