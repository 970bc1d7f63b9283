"""The page is opened in a real browser, clicked and dragged; what its canvases show is read back."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.walkers import SIZE, GreyPictures, walkers
from unihpe_fast.outputs import viewer, write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium: Debian's package chromium brings it")
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: the extra [dev] brings it")
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


class Page:
    """The opened file, and what is wrong with it: errors of its script, and every request that it makes."""

    def __init__(self, browser, path: Path, **options) -> None:
        self.page = browser.new_page(viewport={"width": 1100, "height": 640}, **options)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_timeout(150)

    def ink(self, canvas: str) -> int:
        """How many px of a canvas are drawn on."""
        script = """id => { const c = document.getElementById(id);
                           const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
                           let n = 0; for (let k = 3; k < d.length; k += 4) if (d[k]) n++; return n; }"""
        return self.page.evaluate(script, canvas)

    def shows(self, canvas: str) -> str:
        return self.page.evaluate("id => document.getElementById(id).toDataURL()", canvas)

    def close(self) -> None:
        assert self.errors == []
        outside = [url for url in self.requests if not url.startswith(("file:", "data:"))]
        assert outside == []
        self.page.close()


@pytest.fixture
def opened(browser):
    pages: list[Page] = []

    def open_page(path: Path, **options) -> Page:
        pages.append(Page(browser, path, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


def test_it_plays_orbits_zooms_and_hides_people(opened, tmp_path: Path) -> None:
    (path,) = write(walkers(20, people=2), tmp_path / "clip", "html", GreyPictures(20))
    view = opened(path)
    page = view.page
    assert "40 poses in 20 frames" in page.inner_text("#about")
    assert page.inner_text("h1") == "clip.mp4"
    assert "frame 0 · 0.00 s · 2 people" in page.inner_text("#where")
    assert view.ink("scene") > 5000
    assert view.ink("picture") > 100_000  # the embedded picture fills most of it

    before = view.shows("scene")
    box = page.locator("#scene").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 320, box["y"] + 230, steps=4)
    page.mouse.up()
    orbited = view.shows("scene")
    assert orbited != before
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(50)
    assert view.shows("scene") != orbited
    page.locator("#scene").dblclick()
    assert view.shows("scene") == before

    picture = view.shows("picture")
    page.locator("#frame").fill("13")
    page.wait_for_timeout(100)
    assert "frame 13 · 0.52 s" in page.inner_text("#where")
    assert view.shows("scene") != before
    assert view.shows("picture") != picture

    everyone = view.ink("scene")
    page.locator("#people input[data-person='1']").uncheck()
    assert view.ink("scene") < everyone
    page.locator("#people input[data-person='1']").check()
    assert view.ink("scene") == everyone
    side_by_side = view.shows("scene")
    page.locator("#in-place").uncheck()
    assert view.shows("scene") != side_by_side

    page.click("#play")
    assert page.inner_text("#play") == "Pause"
    page.wait_for_function("document.getElementById('where').textContent.startsWith('frame 16')", timeout=5000)
    page.keyboard.press("Space")  # the button has the focus: it is pressed once, not twice
    assert page.inner_text("#play") == "Play"
    at = page.input_value("#frame")
    page.wait_for_timeout(200)
    assert page.input_value("#frame") == at
    page.locator("#scene").click()
    page.keyboard.press("ArrowLeft")
    assert int(page.input_value("#frame")) == int(at) - 1


def test_joints_that_are_not_known_are_not_drawn(opened, tmp_path: Path) -> None:
    whole = walkers(1)
    joints, confidence = whole.joints_3d.copy(), whole.confidence.copy()
    joints[:, 11:] = np.nan
    confidence[:, 1:7] = 0
    partial = replace(whole, joints_3d=joints, confidence=confidence)
    nobody = replace(whole, joints_3d=np.full_like(joints, np.nan), joints_2d=np.full_like(whole.joints_2d, np.nan))
    ink = {}
    for name, prediction in {"whole": whole, "partial": partial, "nobody": nobody}.items():
        (path,) = write(prediction, tmp_path / name, "html")
        view = opened(path)
        ink[name] = (view.ink("scene"), view.ink("picture"))
        assert view.page.locator("#play").is_disabled()
    assert ink["nobody"][0] < ink["partial"][0] < ink["whole"][0]
    assert ink["nobody"][1] < ink["partial"][1] < ink["whole"][1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_and_both_colour_schemes(opened, tmp_path: Path, scheme: str) -> None:
    (path,) = write(walkers(3), tmp_path / "clip", "html")
    view = opened(path, color_scheme=scheme)
    view.page.set_viewport_size({"width": 390, "height": 780})
    view.page.wait_for_timeout(100)
    assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    scene, picture = (view.page.locator(name).bounding_box() for name in ("#scene", "#picture"))
    assert scene["y"] >= picture["y"] + picture["height"]  # one below the other
    assert view.ink("scene") > 1000


def test_names_cannot_become_markup(opened, tmp_path: Path) -> None:
    evil = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>.mp4"
    (path,) = write(walkers(2, source=evil), tmp_path / "clip", "html", GreyPictures(2, evil))
    view = opened(path)
    assert view.page.evaluate("window.hacked") is None
    assert view.page.inner_text("h1").endswith("'window.hacked = 1'>.mp4")


def test_a_long_video_is_thinned_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "MAX_FRAMES", 8)
    monkeypatch.setattr(viewer, "MAX_PICTURES", 3)
    pictures = GreyPictures(20)
    (path,) = write(walkers(20), tmp_path / "clip", "html", pictures)
    text = path.read_text(encoding="utf-8")
    assert pictures.rounds == 1
    assert "20 poses in 20 frames; every 3th frame is shown" not in text
    assert "20 poses in 20 frames; every 3rd frame is shown" in text
    assert len(re.findall(r'"frame":\d+', text)) == 7
    assert text.count("/9j/") == 3


def test_pictures_are_small_and_nothing_half_written_stays(tmp_path: Path) -> None:
    class Broken(GreyPictures):
        def __iter__(self):
            yield 0, "clip.mp4", np.zeros((*SIZE[::-1], 3), np.uint8)
            raise OSError("the disk went away")

    with pytest.raises(OSError, match="disk went away"):
        write(walkers(2), tmp_path / "clip", "html", Broken(2))
    assert list(tmp_path.iterdir()) == []
