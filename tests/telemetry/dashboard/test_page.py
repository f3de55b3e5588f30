"""The real TensorBoard page of a real run, in a real browser."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import free_port
from tests.train_to_end import train

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.timeout(180)

# The texts of a page, through its shadow roots, which Selenium's own search does not enter.
PAGE_TEXT = """
const texts = [];
(function visit(node) {
  if (node.nodeType === Node.TEXT_NODE) texts.push(node.data.trim());
  if (node.shadowRoot) visit(node.shadowRoot);
  if (!["SCRIPT", "STYLE"].includes(node.tagName)) node.childNodes.forEach(visit);
})(document.body);
return texts.filter(text => text).join("\\n");
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    flags = ("--devices", "2", "--strategy", "ddp")  # the README's, above its first picture
    outcome = train(*flags, cwd=folder, env={"CUDA_VISIBLE_DEVICES": ""})
    assert outcome.status == 0
    (folder / "transcript.txt").write_text(outcome.stdout)  # for docs/make_pictures.py
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "lightning_logs"]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        assert "CI" not in os.environ, "CI has to have chromium and chromedriver"
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1400,1100",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait_for(browser: Any, found: Callable[[str], bool], picture: Path) -> str:
    """The page's text once it is as wanted; a picture of the page is kept in any case."""
    deadline = time.monotonic() + 40
    text = ""
    while time.monotonic() < deadline:
        text = str(browser.execute_script(PAGE_TEXT))
        if found(text):
            time.sleep(1.5)  # charts are still being drawn
            browser.save_screenshot(str(picture))
            return text
        time.sleep(0.3)
    browser.save_screenshot(str(picture))
    raise AssertionError(f"not on the page, see {picture}:\n{text}")


def shows(*wanted: str) -> Callable[[str], bool]:
    return lambda text: all(words in text for words in wanted)


def open_page(browser: Any, url: str) -> None:
    from selenium.common.exceptions import WebDriverException

    for _ in range(60):
        try:
            browser.get(url)
            return
        except WebDriverException:  # the server is starting
            time.sleep(0.5)
    raise AssertionError("TensorBoard did not start")


def test_charts(browser: Any, url: str, folder: Path) -> None:
    open_page(browser, f"{url}/#custom_scalars")
    titles = ("Loss", "Metrics", "Workload", "each epoch", "single steps", "mae", "r2")
    text = wait_for(browser, shows(*titles), folder / "charts.png")
    assert "No dashboards are active" not in text


def test_run_card(browser: Any, url: str, folder: Path) -> None:
    open_page(browser, f"{url}/#text")
    wanted = ("2 CPU processes, ddp, global batch 30 = 15 + 15", "train.py --devices 2", "42")
    splits = ("15 + 15", "5 + 5", "0 to 338", "33 to 339", "330")
    wait_for(browser, shows(*wanted, *splits), folder / "card.png")


def test_hyperparameters_have_real_metrics(browser: Any, url: str, folder: Path) -> None:
    open_page(browser, f"{url}/#hparams")
    wanted = ("version_0 ddp-2xcpu", "at_epoch_end/train/loss", "at_epoch_end/val/loss", "0.05")
    text = wait_for(browser, shows(*wanted), folder / "hparams.png")
    assert "-1.0000" not in text


def test_graph(browser: Any, url: str, folder: Path) -> None:
    open_page(browser, f"{url}/#graphs")
    wait_for(browser, shows("Linear", "input"), folder / "graph.png")


def test_the_losses_come_first(browser: Any, url: str, folder: Path) -> None:
    open_page(browser, f"{url}/#timeseries")
    text = wait_for(browser, shows("at_epoch_end/val/loss"), folder / "timeseries.png")
    assert text.index("at_epoch_end") < text.index("batch_size")


def test_pictures(browser: Any, url: str, folder: Path) -> None:
    open_page(browser, f"{url}/#images")
    wait_for(browser, shows("who_got_what", "version_0"), folder / "pictures.png")
