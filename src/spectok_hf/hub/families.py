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

_ASTROCLIP_CITATION = """\
@article{parker2024astroclip,
  title = {AstroCLIP: a cross-modal foundation model for galaxies},
  author = {Parker, Liam and Lanusse, Francois and Golkar, Siavash and Sarra, Leopoldo and Cranmer, Miles and
            Bietti, Alberto and Eickenberg, Michael and Krawezik, Geraud and McCabe, Michael and Morel, Rudy and
            Ohana, Ruben and Pettee, Mariel and Régaldo-Saint Blancard, Bruno and Cho, Kyunghyun and Ho, Shirley},
  journal = {Monthly Notices of the Royal Astronomical Society},
  volume = {531},
  number = {4},
  pages = {4990--5011},
  year = {2024},
  eprint = {2310.03024},
  archivePrefix = {arXiv},
  doi = {10.1093/mnras/stae1450},
}"""
_SPECTRUM_VIT_CITATION = """\
@article{stranomoraes2026vision,
  title = {Applying vision transformers to the spectral analysis of astronomical objects},
  author = {Strano Moraes, Luis Felipe and Becker, Ignacio and Protopapas, Pavlos and Cabrera-Vives, Guillermo},
  journal = {Astronomy \\& Astrophysics},
  volume = {709},
  eid = {A122},
  year = {2026},
  eprint = {2506.00294},
  archivePrefix = {arXiv},
  doi = {10.1051/0004-6361/202555748},
}"""
_SIZES = "width {{ config.hidden_size }}, {{ config.num_attention_heads }} attention heads"
_MASKED_LAYERS = (
    "{{ config.num_hidden_layers }} in the encoder{{ ' and a linear map to the patches' if "
    "class_name.endswith('ForPreTraining') }}; " + _SIZES
)
_OWN_GRIDS = "each on the wavelength grid of its own survey: no resampling, no redshift and no\ncontinuum needed."
_ANSWERED = "{} for such spectra all the same, and does not say that it should not be trusted."
_NOTHING_PUBLIC = """\
It is not the model of the paper below. Neither code nor weights of that are public; this is an independent implementation,
  and what the paper leaves open is our own choice."""  # noqa: E501
_OTHERS_PICTURES = """\
Its code is not that of the paper below, which is public (<https://github.com/astromer-science/spectromer>, MIT), but an
  independent implementation, which differs where that loses data. The weights of the paper are not public: these are others."""  # noqa: E501
_OTHERS_CODE = """\
Its code is not that of the paper below, which is public, but an independent implementation. Nor are the weights those
  of the paper, unless this card says above that they were converted."""


@dataclass(frozen=True)
class Family:
    """What is said of all models of a family; texts are Jinja, and know `config`, `processor` and `class_name`.

    A family that has another one within it (AstroCLIP a spectrum encoder) leaves texts empty that are the other's.

    Args:
        name: Its name.
        paper: Title of the paper whose design it follows.
        arxiv: Its number.
        citation: It as BibTeX.
        origin: How its code and weights stand to those of the paper.
        grids: Rest of the sentence that says what it reads: on which wavelength grids.
        beyond: What it makes of spectra unlike those of the training.
        layers: What its encoder is made of, and what stands behind it.
        tokens: What a token is made of; empty of a family that reads pictures, which `rows` describe.
        normalisation: How flux is normalised.
        compression: When pixels over numbers in the tokens is largest, and what makes it less.
        objective: What it was trained to do.
        reads: What it knows of a spectrum.
        lost: What its tokens, reconstructions or pictures do not hold.
        page: What a Space says of an autoencoder, before its size.
        rows: Further rows of the first table.
        surveys: Whose spectra it reads, of `SURVEYS`; none = all.
        tasks: What differs in its cards from those of `TASK_CARDS`, by the end of the class's name.
    """

    name: str
    paper: str
    arxiv: str
    citation: str
    origin: str
    layers: str
    objective: str
    grids: str = ""
    beyond: str = ""
    tokens: str = ""
    normalisation: str = ""
    compression: str = ""
    reads: str = ""
    lost: str = ""
    page: str = ""
    rows: Mapping[str, str] = field(default_factory=dict)
    surveys: tuple[str, ...] = ()
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


SPECTOK = Family(
    name="SpecTok",
    paper="Universal Spectral Tokenization",
    arxiv="2510.17959",
    citation=_SPECTOK_CITATION,
    origin=_NOTHING_PUBLIC,
    grids=_OWN_GRIDS,
    beyond=_ANSWERED.format("It\n  answers"),
    layers="{{ config.num_hidden_layers }} in the encoder{{ ', %d in the decoder' % config.decoder_num_hidden_layers "
    "if class_name.endswith('ForPreTraining') }}; " + _SIZES,
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

_MASKED_MODEL = {
    "title": "masked model",
    "summary": "It turns a spectrum into tokens, and predicts parts of it that it is not shown.",
    "call": "model.reconstruct",
}
_USES_OF_MASKED = (
    "Seeing what is unlike the rest of a spectrum: where it differs from what is predicted there.",
    "Further training on spectra of your own.",
)
_OF_SEVERAL_SURVEYS = (
    "Encoding spectra of several surveys for tasks of your own: a head, or a plain method, on the tokens."
)
_OF_DESI = "Encoding spectra of DESI for tasks of your own: a head, or a plain method, on the tokens."

OMNISPECTRA = Family(
    name="OmniSpectra",
    paper="OmniSpectra",
    arxiv="2601.15351",
    citation=_OMNISPECTRA_CITATION,
    origin=_NOTHING_PUBLIC,
    grids=_OWN_GRIDS,
    beyond=_ANSWERED.format("It\n  answers"),
    layers=_MASKED_LAYERS,
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
    tasks={"ForPreTraining": _MASKED_MODEL | {"uses": (_OF_SEVERAL_SURVEYS, *_USES_OF_MASKED)}},
)

# The grid of a Specformer, as words.
_GRID = (
    "{{ '{:,}'.format(processor.grid_size) }} pixels of {{ processor.grid_step | number }} Å from "
    "{{ processor.grid_start | number }} Å"
)
SPECFORMER = Family(
    name="Specformer",
    paper="AstroCLIP",
    arxiv="2310.03024",
    citation=_ASTROCLIP_CITATION,
    origin=_OTHERS_CODE,
    grids=f"all on one wavelength grid, {_GRID}:\nthe model is told no wavelengths. It needs no redshift and no "
    "continuum.",
    beyond=_ANSWERED.format("On\n  its grid it answers"),
    layers=_MASKED_LAYERS,
    tokens="one every {{ config.patch_size - config.patch_overlap }} pixels, {{ config.latent_size }} numbers each, "
    "made of {{ config.patch_size }} pixels; apart from them, one of the spectrum's mean and standard deviation",
    normalisation="(flux - mean) / standard deviation of its good pixels, at least 0.2 of 1e-17 erg/s/cm²/Å; pixels "
    "beyond {{ processor.max_normalized_flux | number }} times max(median flux, median error) are bad",
    compression="about\n{{ config.patch_size - config.patch_overlap }} / {{ config.latent_size }}\
{{ ' (the tokens are larger than the spectrum)' if config.latent_size > config.patch_size - config.patch_overlap }}: "
    "patches overlap by {{ config.patch_overlap }} pixels, and what is left at the end of a spectrum is in none.",
    objective="The objective is to predict hidden patches from the others: {{ config.num_chunks }} chunks of "
    "{{ config.chunk_length }} neighbouring patches, one in each of as many\nequal parts of a spectrum, by the mean "
    "squared error of their fluxes, the mean over spectra.",
    reads="flux and bad pixels (errors and wavelengths it does not read: each patch has its place)",
    lost=OMNISPECTRA.lost,
    rows={
        "other grids": "{{ 'interpolated linearly onto this one' if processor.resample else 'refused, unless the "
        "processor is loaded with `resample=True`: then interpolated linearly' }}",
    },
    surveys=("desi",),
    page="A token of {{ config.latent_size }} numbers stands for {{ config.patch_size }} pixels, and one begins every "
    "{{ config.patch_size - config.patch_overlap }} pixels. It reads spectra on DESI's wavelength grid alone. The "
    "reconstruction predicts each patch from others",
    tasks={"ForPreTraining": _MASKED_MODEL | {"uses": (_OF_DESI, *_USES_OF_MASKED)}},
)

ASTROCLIP = Family(
    name="AstroCLIP",
    paper="AstroCLIP",
    arxiv="2310.03024",
    citation=_ASTROCLIP_CITATION,
    origin=_OTHERS_CODE,
    layers="{{ towers.spectrum | count }} parameters in the spectrum encoder "
    "(`{{ config.spectrum_config.model_type }}`, {{ config.spectrum_config.num_hidden_layers }} blocks of width "
    "{{ config.spectrum_config.hidden_size }}), {{ towers.vision | count }} in the image encoder "
    "(`{{ config.vision_config.model_type }}`), the rest in the heads",
    objective="The objective is to find the image of each spectrum, and the spectrum of each image, among those of a "
    "batch: InfoNCE\nin both directions, with a scale of {{ config.logit_scale_init_value | number }}"
    "{{ ' in the beginning, which was learned' if config.learn_logit_scale }}. "
    "Encoders that were frozen: "
    "{{ (['spectra'] * config.freeze_spectrum_model + ['images'] * config.freeze_vision_model)"
    " | join(', ') or 'none' }}.",
    lost="An embedding holds what spectra and images tell of each other: what only one of them shows, such as a faint "
    "line, it may\n  have lost.",
    rows={
        "images": "bands {{ images.bands | join(', ') }} in nanomaggies, {{ images.image_size }} x "
        "{{ images.image_size }} pixels of {{ images.pixel_scale | number }} arcsec; {{ images.stretch }} stretch",
        "shared space": "{{ config.projection_dim }} numbers for a spectrum as for an image, of length 1",
    },
    tasks={
        "Model": {
            "title": "contrastive model",
            "subject": "images of galaxies and their spectra",
            "pairs": True,
            "summary": "It puts the spectrum and the image of a galaxy at one place in a space that both share, so "
            "that one finds the other.",
            "pipeline": "spectrum-image-similarity",
            "outputs": "outputs.spectrum_embeds, outputs.image_embeds, outputs.logits_per_spectrum",
            "answer": "the images, the most similar first, each with `similarity` (a cosine) and `score`; alike the "
            "`spectra` for an `image`",
            "uses": (
                "Finding the images that belong to a spectrum, the spectra that belong to an image, or what is like "
                "either: by the product of embeddings.",
                "Embeddings for tasks of your own: nearest neighbours, or a plain method, such as redshifts from "
                "images.",
            ),
        },
    },
)
_MAP_LOSES = (
    " Gaps between detectors are not seen in a map.{% if processor.on_long == 'average' %} Several pixels of a "
    "spectrum that has more than {{ processor.num_cells | count }} are averaged in each cell.{% else %} Spectra of "
    "more than {{ processor.num_cells | count }} pixels are refused.{% endif %}"
)
_LINES_LOSE = (
    " Pixels that share a column of the picture run together: of a spectrum with more pixels than "
    "{{ processor.image_size * (3 if processor.plot_type == 'overlap' else 1) }}, narrow lines are strokes."
)
SPECTRUM_VIT = Family(
    name="SpectrumVit",
    paper="Applying vision transformers to the spectral analysis of astronomical objects",
    arxiv="2506.00294",
    citation=_SPECTRUM_VIT_CITATION,
    origin=_OTHERS_PICTURES,
    grids="each drawn as a picture of {{ processor.image_size }} x {{ processor.image_size }} pixels, from the "
    "wavelength grid of its own\nsurvey: no redshift and no continuum needed.",
    beyond=_ANSWERED.format("It\n  answers"),
    layers="a vision encoder of Transformers (`{{ config.vision_config.model_type }}`"
    "{{ ', %d blocks' % config.vision_config.num_hidden_layers if config.vision_config.num_hidden_layers is defined }}"
    ", embeddings of {{ config.hidden_size }})",
    normalisation="flux from {{ 'its least good value' if processor.vmin is none else '%g' % processor.vmin }} to "
    "{{ 'its largest' if processor.vmax is none else '%g' % processor.vmax }}"
    "{{ ', in ' ~ processor.flux_unit if processor.vmin is not none or processor.vmax is not none }}"
    "{{ ', no further from the quartiles than %g times their distance' % processor.outlier_factor "
    "if processor.outlier_factor is not none and (processor.vmin is none or processor.vmax is none) }}; what lies "
    "beyond is drawn at the edge",
    objective="It is an encoder alone: what its weights were trained for is said here, or nowhere.",
    reads="what a picture shows (flux in order of wavelength{{ ', from %g to %g Å' % processor.wavelength_range "
    "if processor.wavelength_range }})",
    lost="A picture shows flux in 256 levels at most, and no errors: noise is known by its looks."
    "{{ ' It does not say at which wavelength it begins and ends.' if not processor.wavelength_range }}"
    "{{ ' How bright a spectrum is, it does not say either.' if processor.vmin is none or processor.vmax is none }}"
    "{% if processor.plot_type == 'map' %}" + _MAP_LOSES + "{% else %}" + _LINES_LOSE + "{% endif %}",
    rows={
        "picture": "`{{ processor.plot_type }}`, {{ processor.image_size }} x {{ processor.image_size }} pixels: "
        "{% if processor.plot_type == 'map' %}{{ processor.num_cells | count }} cells of {{ processor.block_size }} x "
        "{{ processor.block_size }} pixels, in rows {{ 'from the left' if processor.map_order == 'row' else "
        "'by turns from the left and the right' }}; "
        "{{ 'flux, its first and its second difference in red, green and blue' if processor.map_colors == "
        "'derivatives' else 'flux in the colours of ' ~ processor.map_colors }}"
        "{% elif processor.plot_type == 'overlap' %}three equal ranges of wavelength over each other, a line each "
        "in red, green and blue, {{ processor.line_width | number }} pixels wide"
        "{% else %}one black line, {{ processor.line_width | number }} pixels wide{% endif %}",
        "wavelengths drawn": "{{ '%g to %g Å' % processor.wavelength_range if processor.wavelength_range else "
        "'all that the spectrum has, from edge to edge' if processor.plot_type != 'map' else "
        "'all that the spectrum has' }}",
    },
    tasks={
        "ForSpectrumClassification": {"pipeline_tag": "image-classification"},
        "Model": {
            "summary": "It turns the picture of a spectrum into one embedding.",
            "pipeline_tag": "image-feature-extraction",
            "outputs": "outputs.pooler_output, outputs.last_hidden_state",
            "answer": "an `embedding`",
            "uses": (
                "Embeddings for tasks of your own: a head, a linear probe, nearest neighbours.",
                "The start of a model with a task head.",
            ),
        },
    },
)
FAMILIES: dict[str, Family] = {
    "spectok": SPECTOK,
    "omnispectra": OMNISPECTRA,
    "specformer": SPECFORMER,
    "astroclip": ASTROCLIP,
    "spectrum_vit": SPECTRUM_VIT,
}


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
