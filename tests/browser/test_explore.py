"""The explorer's page in a real browser: it draws, moves, resets, says what went wrong, and fits a phone."""

import re
import shutil

import pytest

from tests.explorer.scenes import scene
from tests.explorer.test_server import TOKEN, running

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this computer")

DRAWN = re.compile("^64 px")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, tiny_generator):
    """Yield the page with its full picture drawn; nothing may be complained of on the way."""
    there = browser.new_page(viewport={"width": 1200, "height": 900})
    said = []
    there.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    there.on("pageerror", lambda error: said.append(str(error)))
    with running(scene(tiny_generator)) as port:
        there.goto(f"http://127.0.0.1:{port}/{TOKEN}/")
        drawn(there)
        yield there
        there.close()
    assert said == []


def drawn(page):
    """Wait for a full picture. The page's policy forbids what Playwright evaluates when it waits for functions."""
    sync_api.expect(page.locator("#status")).to_have_text(DRAWN)


def picture(page):
    return page.locator("#picture").get_attribute("src")


def redrawn(page, before):
    """Wait until another picture is there, of the full size."""
    for _ in range(200):
        if picture(page) != before and page.locator("#picture").evaluate("(image) => image.naturalWidth") == 64:
            return drawn(page)
        page.wait_for_timeout(50)
    pytest.fail("the picture stays as it was")


def test_a_slider_moved_by_keyboard_moves_the_face(page):
    before, score = picture(page), page.locator(".score").nth(1).inner_text()
    page.get_by_label("smile").focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    assert page.locator("output").filter(has_text="+1.2 SD").count() == 1
    redrawn(page, before)
    assert page.locator(".score").nth(1).inner_text() != score
    moved = picture(page)
    page.get_by_role("button", name="Reset sliders").click()
    redrawn(page, moved)
    assert page.locator(".score").nth(1).inner_text() == score


def test_a_test_face_goes_to_the_true_one_and_on_to_the_next(page):
    before = picture(page)
    page.get_by_label("Way to true").fill("1")
    redrawn(page, before)
    assert "(100%) of sub-01, test face 1" in page.locator("#picture").get_attribute("alt")
    now, shown = picture(page), page.locator("#shown").get_attribute("src")
    page.get_by_role("button", name="Next face").click()
    redrawn(page, now)
    assert page.locator("#shown").get_attribute("src") == shown.replace("/0/", "/1/")
    page.wait_for_timeout(300)
    assert page.locator("#shown").evaluate("(image) => image.naturalWidth") == 8


def test_a_random_face_has_a_seed_and_nothing_on_disk(page):
    before = picture(page)
    page.get_by_label("a random face").check()
    redrawn(page, before)
    assert not page.locator("#looks").is_visible() and page.locator("#truncate").input_value() == "0.7"
    now = picture(page)
    page.get_by_label("Seed").fill("17")
    redrawn(page, now)
    assert page.locator("#picture").get_attribute("alt") == "Random face of seed 17"
    with page.expect_download() as started:
        page.get_by_role("link", name="Save picture").click()
    assert started.value.suggested_filename == "face.png"


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(page, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, paper)]
    assert (light[0] < light[1]) == (scheme == "light")


def test_every_control_has_a_name(page):
    nameless = page.evaluate(
        "[...document.querySelectorAll('input, select, button')]"
        ".filter((one) => !one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim()).length"
    )
    assert nameless == 0


def test_it_says_so_when_the_server_has_ended(browser, tiny_generator):
    page = browser.new_page()
    with running(scene(tiny_generator)) as port:
        page.goto(f"http://127.0.0.1:{port}/{TOKEN}/")
        drawn(page)
    page.get_by_label("smile").press("ArrowRight")
    sync_api.expect(page.locator("#status")).to_have_text(re.compile("^The explorer has ended"))
    page.close()
