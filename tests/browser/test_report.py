"""The report in a real browser, from the disk: by mouse, keyboard and touch, at three widths, in light and dark."""

import re

import pytest

from tests.browser.conftest import COSINES, N
from tests.report.test_moves import AMOUNTS, BETWEEN, colour

CONTROLS = {
    "order", "by", "of", "unfold", "move-face", "move-back", "move-on", "move-who", "move-reset",
    "slide-way", "slide-0", "slide-1", "methods-text",
}  # fmt: skip
MEAN = [sum(pair) / 2 for pair in zip(*COSINES.values(), strict=True)]
RANKED = sorted(range(N), key=lambda i: -MEAN[i])


def order_of(page):
    return page.eval_on_selector_all("#gallery > li", "items => items.map(item => +item.dataset.index)")


def pins_of(page):
    return page.eval_on_selector_all("#pins > li", "pins => pins.map(pin => [pin.dataset.pin, +pin.dataset.index])")


def marks_of(page):
    marks = "items => items.map(item => [item.querySelector('.mark').textContent, +item.dataset.index])"
    return [mark for mark in page.eval_on_selector_all("#gallery > li", marks) if mark[0]]


def pixel(page, canvas):
    script = "canvas => [...canvas.getContext('2d').getImageData(8, 8, 1, 1).data].slice(0, 3)"
    return page.eval_on_selector(canvas, script)


def shows(page, canvas, face, tile):
    """Whether a canvas comes to show the colour that names a tile of a face."""
    page.wait_for_function("([id, tile]) => document.querySelector(id).dataset.tile === tile", arg=[canvas, str(tile)])
    page.wait_for_timeout(30)
    return max(abs(a - b) for a, b in zip(pixel(page, canvas), colour(face, tile), strict=True)) <= 8


def test_faces_are_sorted_and_the_extremes_stay_in_sight(opened):
    page = opened()
    assert order_of(page) == list(range(N))
    page.select_option("#by", "cosine")
    extremes = [["best", RANKED[0]], ["median", RANKED[N // 2]], ["worst", RANKED[-1]]]
    for order, expected in (("best", RANKED), ("worst", RANKED[::-1]), ("shown", list(range(N)))):
        page.select_option("#order", order)
        assert order_of(page) == expected
        assert pins_of(page) == extremes and sorted(marks_of(page)) == sorted(extremes), order
        assert page.locator("#pins > li").all()[2].is_visible()
    assert page.inner_text("#pins > li h3") == f"Best {MEAN[RANKED[0]]:.3f}"
    page.select_option("#by", "r_squared")
    assert page.inner_text("#pins > li h3").endswith(", one of 2"), "tied faces are said to be"
    page.select_option("#by", "cosine")
    assert "mean over subjects" in page.get_attribute("#pins", "aria-label")
    page.select_option("#of", "1")
    page.select_option("#order", "best")
    assert order_of(page)[0] == 5 and pins_of(page)[0] == ["best", 5], "by sub-02 alone"


def test_faces_open_large_and_their_details_at_once(opened):
    page = opened()
    page.locator("#pins [data-zoom]").nth(1).click()
    assert page.locator("#zoom").is_visible() and "Face decoded from sub-01" in page.inner_text("#zoom-text")
    page.keyboard.press("Escape")
    assert not page.locator("#zoom").is_visible()
    assert not page.get_by_alt_text("What VAE-GAN makes").first.is_visible()
    page.check("#unfold")
    assert page.get_by_alt_text("What VAE-GAN makes").first.is_visible()
    assert page.get_by_alt_text("A face that the responses of sub-02 allow").last.is_visible()


def test_sliders_change_the_picture_and_say_their_value(opened):
    page = opened()
    assert shows(page, "#move-moved", 0, 0) and shows(page, "#move-true", 0, len(BETWEEN) - 1)
    page.focus("#slide-1")
    page.keyboard.press("ArrowRight")
    assert shows(page, "#move-moved", 0, len(BETWEEN) + len(AMOUNTS) + 1)
    assert page.get_attribute("#slide-1", "aria-valuetext") == "+2 sd"
    assert page.get_attribute("#move-moved", "aria-label").endswith("test-0001, moved smile +2 sd")
    page.focus("#slide-0")
    page.keyboard.press("Home")
    assert shows(page, "#move-moved", 0, len(BETWEEN)) and page.input_value("#slide-1") == "1", "one at a time"
    page.focus("#slide-way")
    page.keyboard.press("ArrowRight")
    assert shows(page, "#move-moved", 0, 1) and page.input_value("#slide-0") == "1"
    assert page.get_attribute("#slide-way", "aria-valuetext") == "50%"
    assert shows(page, "#move-decoded", 0, 0), "it does not move"
    page.click("#move-reset")
    assert shows(page, "#move-moved", 0, 0) and "nothing yet" in page.inner_text("#move-words")


def test_every_face_and_subject_can_be_moved(opened):
    page = opened()
    page.click("#move-back")
    assert shows(page, "#move-moved", N - 1, 0) and page.input_value("#move-face") == str(N - 1)
    page.locator("#gallery [data-move='3']").click()
    assert shows(page, "#move-moved", 3, 0) and page.evaluate("document.activeElement.id") == "slide-way"
    page.select_option("#move-who", "1")
    page.wait_for_function("document.querySelector('#move-moved').getAttribute('aria-label').includes('sub-02')")
    said = page.inner_text("#said-0")
    assert re.fullmatch(r"decoded \+0\.6 sd, shown \+1\.1 sd", said)


def test_pictures_of_other_faces_are_no_pictures_of_the_page(opened):
    page = opened()
    assert page.locator("#moves img").count() == 0
    assert page.eval_on_selector_all("#moves script[type='text/plain']", "all => all.length") == 2 * N


def test_a_finger_moves_a_slider(opened):
    page = opened(viewport={"width": 360, "height": 800}, has_touch=True, is_mobile=True)
    slider = page.locator("#slide-0")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box["height"] >= 30, "large enough for a finger"
    slider.tap(position={"x": box["width"] - 4, "y": box["height"] / 2})
    assert shows(page, "#move-moved", 0, len(BETWEEN) + 1)
    assert page.locator("#move-moved").evaluate("it => it.getBoundingClientRect().bottom > 0"), "it stays in sight"


def test_the_keyboard_reaches_every_control(opened):
    page = opened()
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")
    reached, zooms, last = set(), 0, None
    for _ in range(150):
        page.keyboard.press("Tab")
        last = page.evaluate(FOCUSED)
        if last is None:
            break
        reached |= {last[0], f"copy {last[1]}"}
        zooms += last[2]
    assert reached >= CONTROLS | {"copy methods-text"}
    assert zooms == 3 * (N + 3), "each picture of the gallery and of the pins"


def test_slices_of_a_map_answer_to_a_click_and_to_keys(opened):
    page = opened()
    frame = page.locator("iframe.slices")
    frame.scroll_into_view_if_needed()
    canvas = page.frame_locator("iframe.slices").locator("canvas").first
    canvas.wait_for()
    page.wait_for_timeout(300)
    before, box = canvas.screenshot(), canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.2, "y": box["height"] * 0.35})
    page.wait_for_timeout(300)
    clicked = canvas.screenshot()
    assert clicked != before
    canvas.focus()
    said = set()
    for key in ("ArrowRight", "ArrowUp", "PageDown"):
        page.keyboard.press(key)
        said.add(canvas.get_attribute("aria-label"))
    assert len(said) == 3 and all(" mm. " in text for text in said)
    assert canvas.screenshot() != clicked


def test_methods_are_copied_as_plain_text(opened):
    page = opened()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("[data-copy=methods-text]")
    page.wait_for_function("document.querySelector('[data-copy]').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()").startswith("Stimuli. The stimuli were 1050 training faces")


@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_and_words_are_legible(opened, width, scheme):
    page = opened(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.check("#unfold")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = "all => all.filter(it => !(it.alt || it.getAttribute('aria-label'))).map(it => it.outerHTML.slice(0, 80))"
    assert page.eval_on_selector_all("main img, main canvas, main svg", unnamed) == []
    for ground in ("--page", "--card", "--soft"):
        for ink in ("--ink", "--quiet", "--good", "--bad"):
            assert page.evaluate(CONTRAST, [ink, ground]) >= 4.5, (ink, ground)
    for dot in range(6):
        assert page.evaluate(CONTRAST, [f"--of-{dot}", "--card"]) >= 3, dot


FOCUSED = """(at => at === document.body ? null : [at.id, at.dataset.copy || "", "zoom" in at.dataset])(
  document.activeElement)"""

CONTRAST = """names => {
  const luminance = name => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(${name})`;
    const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(value => value / 255);
    probe.remove();
    const [r, g, b] = parts.map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [a, b] = names.map(luminance).sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""
"""Contrast ratio of two of the page's colours (WCAG 2)."""
