# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The page in a real browser: needs Chromium, which `apt-get install chromium` brings."""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from anomalib_genclip.app.server import running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 30_000  # milliseconds

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def address():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # restored in the end
        with running("tiny-demo", None, "127.0.0.1", None) as page:
            yield page.local_url


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(address, browser: Browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    hosts, errors = set(), []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    expect(page.locator("#picture img")).to_be_visible(timeout=PATIENCE)
    yield page
    page.close()
    assert hosts - {None} == {"127.0.0.1"}
    assert not errors


@pytest.fixture(scope="module")
def images(address, tmp_path_factory):  # noqa: ARG001  # it renders the examples
    broken = tmp_path_factory.mktemp("images") / "broken.png"
    broken.write_bytes(b"no image")
    return {path.stem: str(path) for path in (broken, *Path(os.environ["GRADIO_TEMP_DIR"]).glob("*.png"))}


def picture(page: Page) -> str:
    return page.locator("#picture img").get_attribute("src") or ""


def drop(page: Page, *files: str, where: str = "#upload") -> None:
    transfer = page.evaluate_handle("new DataTransfer()")
    for file in files:
        content = list(Path(file).read_bytes())
        page.evaluate(
            "([to, name, bytes]) => to.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}))",
            [transfer, Path(file).name, content],
        )
    page.dispatch_event(f"{where} button", "drop", {"dataTransfer": transfer})


def test_page_opens_with_the_map_of_an_example(page):
    expect(page.locator("#label")).to_contain_text("anomalous")
    expect(page.locator("#label")).to_contain_text("corrugated_cardboard_crack.png")
    assert page.title() == "GenCLIP"


def test_dropped_image_is_scored_without_the_name_of_the_example(page, images):
    before = picture(page)
    drop(page, images["leather_hole"])
    expect(page.locator("#label")).to_contain_text("leather_hole.png", timeout=PATIENCE)
    expect(page.locator("#filtering textarea")).to_have_value("no class name was given")
    assert picture(page) != before
    assert page.locator("#picture img").evaluate("image => image.naturalWidth") == 960


def test_several_images_are_chosen_from(page, images):
    drop(page, images["coin_stain"], images["gear_missing"])
    expect(page.locator("#strip button")).to_have_count(2, timeout=PATIENCE)
    page.locator("#strip button").nth(1).click()
    expect(page.locator("#label")).to_contain_text("gear_missing.png", timeout=PATIENCE)


def test_maps_and_downloads(page):
    expect(page.locator("#maps .gallery-item")).to_have_count(3 + 2 * 4, timeout=PATIENCE)
    downloads = [
        (page.locator("#picture").get_by_role("button", name="Download"), "corrugated_cardboard_crack_anomaly_map.jpg"),
        (page.get_by_role("button", name="Save scores.csv"), "scores.csv"),
        (page.get_by_role("button", name="Save regions.csv"), "regions.csv"),
    ]
    for button, name in downloads:
        if name.endswith("csv"):
            page.get_by_role("tab", name=name.removesuffix(".csv").title()).click()
        with page.expect_download() as download:
            button.click()
        assert download.value.suggested_filename == name


def test_painted_regions_are_left_out_until_the_mask_is_removed(page, images):
    page.get_by_role("tab", name="Leave out", exact=True).click()
    canvas = page.locator("#editor canvas").first
    expect(canvas).to_be_visible(timeout=PATIENCE)
    page.wait_for_timeout(3000)  # the picture is drawn
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    before = picture(page)
    middle, side = box["x"] + box["width"] / 2, box["height"]
    for row in range(40, 60, 2):
        y = box["y"] + side * row / 100
        page.mouse.move(middle - 0.1 * side, y)
        page.mouse.down()
        page.mouse.move(middle + 0.1 * side, y, steps=5)
        page.mouse.up()
    page.get_by_role("button", name="Leave out what is painted").click()
    link = page.locator("#ignore-mask a")
    expect(link).to_be_visible(timeout=PATIENCE)
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "ignore_mask.png"
    with Image.open(download.value.path()) as mask:
        ignored = np.asarray(mask)
    assert ignored.shape == (320, 320)
    assert 0.02 < ignored.mean() < 0.3
    assert ignored[160, 160]
    page.wait_for_function("before => document.querySelector('#picture img')?.src !== before", arg=before)
    expect(page.locator("#label")).to_contain_text("corrugated_cardboard_crack.png", timeout=PATIENCE)  # still there
    drop(page, images["leather_hole"])
    expect(page.locator("#label")).to_contain_text("leather_hole.png", timeout=PATIENCE)
    page.locator("#ignore-mask button[aria-label='Clear']").click()
    expect(link).to_have_count(0, timeout=PATIENCE)


def test_page_fits_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("#picture img").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
