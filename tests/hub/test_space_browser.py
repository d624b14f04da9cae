"""A Space in a real browser: `make space-test` installs what this needs. Screenshots go to outputs/space."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from spectok_hf import (
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpectrumProcessor,
)
from spectok_hf.hub.space import EXAMPLES, load_models, write_space
from spectok_hf.hub.space_app import respond

pytestmark = pytest.mark.slow

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SCREEN = {"width": 1366, "height": 768}  # a laptop's
SCREENSHOTS = Path(__file__).resolve().parents[2] / "outputs" / "space"
STARTING, ANSWERING = 180.0, 60.0  # seconds, at most
MODELS = {
    "autoencoder": (SpecTokForPreTraining, {}),
    "classes": (SpecTokForSpectrumClassification, {"id2label": {0: "GALAXY", 1: "QSO", 2: "STAR"}}),
    "stars": (
        SpecTokForStellarRegression,
        {
            "target_names": ["teff", "logg", "feh"],
            "target_units": ["K", "dex", "dex"],
            "target_mean": [5000.0, 3.0, -0.5],
            "target_std": [800.0, 1.0, 0.4],
            "predict_uncertainty": True,
        },
    ),
}
REAL = {
    "sdss": ["sdss/firefly/spec-0266-51602-0001.fits"],
    "desi": ["desi/specutils_edr/coadd-sv3-dark-26065.fits"],
    "apogee": ["apogee/apStar/apStar-r6-2M00452143+1634446.fits"],
    "galah": [f"galah/workshop_iraf6/210115000101001{ccd}.fits" for ccd in (1, 2, 3, 4)],
}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A Space of small untrained models, without a redshift head."""
    pytest.importorskip("gradio", reason="no gradio: make space-test installs it")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("space")
    for name, (model_class, fields) in MODELS.items():
        torch.manual_seed(0)
        model_class(SpecTokConfig.from_preset("tiny", **fields)).save_pretrained(folder / name)
        SpectrumProcessor().save_pretrained(folder / name)
    heads = [folder / "classes", folder / "stars"]
    return write_space(folder / "autoencoder", folder / "space", heads=heads, title="Test of a Space")


@pytest.fixture(scope="module")
def models(space):
    return load_models(space)


@pytest.fixture(scope="module")
def address(space, tmp_path_factory):
    """Of the Space, running as it would on the Hub: its own app.py, in a process of its own."""
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}: make space-test installs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
    }
    output = tmp_path_factory.mktemp("log") / "app.log"
    with output.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=space, env=os.environ | settings, stdout=log, stderr=log
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/", process, output)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)
    assert "Traceback" not in output.read_text()


def wait_for(address, process, output):
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the Space did not start:\n{output.read_text()}")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: make space-test installs it")
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}: make space-test installs it")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    """The page, open; it must ask nothing of any other server, and raise no error of its own."""
    asked, errors = [], []
    with browser.new_context(viewport=SCREEN) as context:
        page = context.new_page()
        page.set_default_timeout(ANSWERING * 1000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#upload input[type=file]", state="attached")
        yield page
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []


def upload(page, paths):
    page.set_input_files("#upload input[type=file]", [str(path) for path in paths])


def screenshot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def check_answers(page, expected):
    """The page shows what the models say, and two drawn figures."""
    teff, spread = expected["stellar-parameters"].split("| Teff | ")[1].split(" | ")[:2]
    page.wait_for_selector(f"#stellar-parameters td:text-is('{teff}')")
    assert page.locator("#stellar-parameters tr", has_text="Teff").inner_text().split() == ["Teff", teff, spread, "K"]
    for name, share in expected["spectrum-classification"].items():
        text = page.locator("#spectrum-classification").inner_text()
        assert f"{name}\n\n{share:.0%}" in text or (name in text and f"{share:.0%}" in text)
    assert "no head for this" in page.locator("#spectrum-redshift").inner_text()
    assert drawn_size(page, "reconstruction") > (800, 300)
    page.get_by_role("tab", name="Tokens").click()
    assert drawn_size(page, "tokens") > (800, 300)


def drawn_size(page, name):
    """Width and height of a figure in pixels, once it has arrived."""
    page.wait_for_selector(f"#{name} img", state="visible")
    image = f"document.querySelector('#{name} img')"
    page.wait_for_function(f"{image}.complete && {image}.naturalWidth > 0")
    return tuple(page.evaluate(f"[{image}.naturalWidth, {image}.naturalHeight]"))


@pytest.mark.parametrize("survey", list(REAL))
def test_a_real_spectrum_is_uploaded_and_answered(page, models, spectra_dir, survey):
    paths = [spectra_dir / name for name in REAL[survey]]
    expected = respond(models, paths, None)
    upload(page, paths)
    check_answers(page, expected)
    screenshot(page, f"{survey}-tokens")
    page.get_by_role("tab", name="Spectrum and reconstruction").click()
    screenshot(page, survey)
    summary = page.locator("#summary").inner_text()
    assert summary.startswith(survey) and "pixels good" in summary
    assert page.locator("#chooser").is_visible() == (survey == "desi")


@pytest.mark.parametrize("example", list(EXAMPLES))
def test_an_example_is_answered(page, models, example):
    expected = respond(models, [models.examples[example]], None)
    page.get_by_role("button", name=example).click()
    check_answers(page, expected)
    assert "sim-" in page.locator("#summary").inner_text()


def test_another_spectrum_of_a_file_is_chosen(page, models, tmp_path):
    names = [models.examples[example] for example in ("SDSS galaxy", "DESI quasar")]
    paths = [Path(name) for name in names]
    upload(page, paths)
    page.wait_for_selector("#summary >> text=sim-sdss")
    page.locator("#chooser input").click()
    page.get_by_role("option", name="2: desi").click()
    page.wait_for_selector("#summary >> text=sim-desi")
    check_answers(page, respond(models, paths, 1))


def test_an_unreadable_upload_gets_a_helpful_message_and_the_next_one_an_answer(page, models, tmp_path):
    (tmp_path / "thesis.fits").write_text("years of work")
    upload(page, [tmp_path / "thesis.fits"])
    page.wait_for_selector("#message >> text=This upload cannot be analysed")
    message = page.locator("#message").inner_text()
    assert "thesis.fits is not a FITS file" in message and "A CSV file with the columns" in message
    assert "/tmp" not in message and "Traceback" not in page.content()
    screenshot(page, "unreadable")
    page.get_by_role("button", name="SDSS galaxy").click()
    check_answers(page, respond(models, [models.examples["SDSS galaxy"]], None))
    assert "cannot be analysed" not in page.locator("#message").inner_text()


def test_the_tab_of_nearest_neighbours_says_what_it_will_need(page):
    page.get_by_role("tab", name="Nearest neighbours").click()
    assert "needs an index" in page.locator("#neighbours").inner_text()
    screenshot(page, "neighbours")


def test_two_visitors_see_their_own_spectra(browser, address, models):
    texts = {"SDSS galaxy": "sim-sdss", "GALAH star": "sim-galah"}
    contexts = [browser.new_context(viewport=SCREEN) for _ in texts]
    pages = [context.new_page() for context in contexts]
    for page, example in zip(pages, texts, strict=True):
        page.goto(address)
        page.get_by_role("button", name=example).click()
    for page, own, other in zip(pages, texts.values(), reversed(texts.values()), strict=True):
        page.wait_for_selector(f"#summary >> text={own}", timeout=ANSWERING * 1000)
        assert other not in page.locator("#summary").inner_text()
    for context in contexts:
        context.close()
