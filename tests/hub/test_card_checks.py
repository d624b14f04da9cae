"""What the Hub would refuse, or show wrongly, is found before it is asked; each rule on its own."""

import pytest
import yaml
from huggingface_hub import ModelCard

from spectok_hf.hub.card_checks import LICENSES, PIPELINE_TAGS, bad_id, check_card

METRICS = [{"type": "r_squared", "value": 0.7, "name": "R²"}]
RESULT = {
    "task": {"type": "tabular-regression"},
    "dataset": {"name": "APOGEE giants", "type": "giants"},
    "metrics": METRICS,
}
METADATA = {
    "library_name": "transformers",
    "license": "mit",
    "pipeline_tag": "tabular-regression",
    "tags": ["astronomy"],
    "base_model": "org/base",
    "datasets": ["org/spectra"],
    "inference": False,
    "model-index": [{"name": "tiny", "results": [RESULT]}],
}


def card(text: str = "# A model\n", **changes) -> ModelCard:
    metadata = {name: value for name, value in (METADATA | changes).items() if value is not None}
    return ModelCard(f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n{text}")


def index(**changes) -> list[dict]:
    return [{"name": "tiny", "results": [RESULT | changes]}]


def test_a_good_card_passes_as_card_and_as_text():
    check_card(card())
    check_card(str(card()))
    check_card(card(base_model=["org/a", "org/b"], datasets=None, **{"model-index": None}))
    check_card(card(license="other", license_name="survey-terms", license_link="LICENSE"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": "MIT"}, "license must be an identifier of the Hub .* found 'MIT'"),
        ({"license": None}, "license must be .* found None"),
        ({"license": ["mit"]}, "license must be"),
        ({"license": "other"}, 'license "other" needs license_name and license_link'),
        ({"pipeline_tag": "spectrum-classification"}, "pipeline_tag must be a task of the Hub"),
        ({"library_name": None}, 'library_name must be "transformers", found None'),
        ({"inference": None}, "inference must be false"),
        ({"tags": ["astronomy", False]}, "tags must be text, found False"),
        ({"tags": [2024]}, "tags must be text, found 2024"),
        ({"datasets": ["spectra"]}, "datasets must be an id on the Hub, \"organisation/name\", found 'spectra'"),
        ({"base_model": "org/a/b"}, "base_model must be an id on the Hub, found 'org/a/b'"),
        ({"base_model": "org/two words"}, "base_model must be an id"),
        (
            {"model-index": index(metrics=[{"type": "r2", "value": "0.7"}])},
            "metric_value of r2 must be a finite number",
        ),
        ({"model-index": index(metrics=[{"type": "r2", "value": float("nan")}])}, "found nan"),
        ({"model-index": index(metrics=[METRICS[0] | {"verified": True}])}, "only the Hub may verify a result"),
        ({"model-index": index(dataset={"name": 5, "type": "a"})}, "dataset_name of an eval result must be text"),
        ({"model-index": [{"name": 5, "results": [RESULT]}]}, "model_name must be text .* found 5"),
        (
            {
                "model-index": [
                    {"name": "m", "results": [RESULT, RESULT | {"dataset": {"name": "DESI", "type": "giants"}}]}
                ]
            },
            "one dataset_type must have one dataset_name, found 'DESI'",
        ),
    ],
)
def test_bad_metadata_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_card(card(**changes))


PLACEHOLDERS = (
    *("TODO: say more", "[More Information Needed]", "Citation [optional]", "{{ parameters }}", "<your name>"),
    *("see [...]", "from your-org/model", "trained by XXXX", "{% if x %}"),
)
HARMLESS = (
    *("<https://example.org/home/data/tmp/x>", "`examples/data/tiny.yaml`", "km/s", "and/or", "S/N", "8 / 32"),
    *("[3, 4]", "the set {1}", "a mastodon", "<https://example.org/~ada>"),
)


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_placeholders_are_refused(text):
    with pytest.raises(ValueError, match="must hold no placeholder"):
        check_card(card(f"# A model\n\n{text}\n"))


@pytest.mark.parametrize(
    "path", ["/home/ada/run", "in `/tmp/w/ft1`", "/Users/ada/x", r"C:\models\tiny", "~/models/a", "file:///data/x"]
)
def test_paths_of_a_machine_are_refused(path):
    with pytest.raises(ValueError, match="must hold no path of a machine"):
        check_card(card(f"# A model\n\nTrained in {path}\n"))


@pytest.mark.parametrize("text", HARMLESS)
def test_addresses_and_units_are_no_paths(text):
    check_card(card(f"# A model\n\n{text}\n"))


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError) as caught:
        check_card(card("TODO\n", license="MIT", pipeline_tag="spectra"))
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    "text", ["---\nlicense: [\n---\n# x\n", "---\n- a\n---\n# x\n", "---\nmodel-index:\n- results: 5\n---\n# x\n"]
)
def test_metadata_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="metadata cannot be read"):
        check_card(text)


def test_a_card_without_text_is_refused():
    with pytest.raises(ValueError, match="the card has no text"):
        check_card(card(""))


def test_ids_have_one_slash_and_the_characters_of_the_hub():
    assert bad_id("org/name-1.0_x") == ""
    for value in ("name", "org/a/b", "org/a--b", "org/name.git", "/name", 5):
        assert bad_id(value)


def test_the_tables_hold_what_we_use():
    assert {"mit", "apache-2.0", "cc-by-4.0", "cc0-1.0", "other"} <= LICENSES
    assert {"feature-extraction", "tabular-classification", "tabular-regression"} <= PIPELINE_TAGS
    assert not any(" " in name or name != name.lower() for name in LICENSES | PIPELINE_TAGS)
