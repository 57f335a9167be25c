"""The explorer in a real browser: Debian's Chromium on the real ``filterdb serve`` of the demo network and its training run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import DESK, PHONE, Browser, browsing, hosts, need_browser, served
from conftest import put, random_kernels

from filterdb import Database

need_browser()

HOSTILE = "<img src=x onerror=alert(1)>"
ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "/", "/?sort=random&seed=1", "/?classifier=small-nets-7x7&class=on_centre&sort=template_score",
    "/filter/demo:stages.0.blocks.0.conv_dw:3",
    "/models", "/model/demo", "/banks", "/bank/greedy8", "/spectrum", "/spectrum/small-nets-7x7?code=0.3",
    "/compare?a=demo&b=demo_run@0", "/sql", "/sql?name=layers&p.model=demo", "/sql?q=SELECT+filter_id+FROM+filters+LIMIT+9",
)  # fmt: skip


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> Database:
    made = Database(tmp_path_factory.mktemp("browser") / "filters")
    made.ingest("demo", f"run:{ROOT / 'data' / 'demo_run'}", jobs=1)
    put(made, HOSTILE, {HOSTILE: random_kernels(12)}, dataset=HOSTILE)
    made.import_classifier("small-nets-7x7")
    made.classify("small-nets-7x7", model=["demo", "demo_run@6000"])
    return made


@pytest.fixture(scope="module")
def address(db) -> Iterator[str]:
    with served(Path(db.place.uri)) as address:
        yield address.rstrip("/")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def browser(chromium) -> Iterator[Browser]:
    """At the end of each test the console is clean, and nobody else was asked for anything."""
    chromium.errors()
    chromium.requests()
    yield chromium
    assert chromium.errors() == []
    assert hosts(chromium.requests()) <= {"127.0.0.1"}


def test_the_gallery_shows_kernels_and_a_facet_narrows_it(browser, address):
    browser.look(f"{address}/")
    browser.wait("#status [data-pending]", 60, gone=True)
    assert browser.text("h1") == "9,516 kernels"
    pictures = browser.all(".cards img")
    assert len(pictures) == 96
    seen = browser.driver.execute_script(
        "return [...document.querySelectorAll('.cards img')].filter(i => i.naturalWidth == 7 && i.naturalHeight == 7).length"
    )
    assert seen == 96
    assert (
        browser.driver.execute_script("return getComputedStyle(document.querySelector('.cards img')).imageRendering")
        == "pixelated"
    )
    [option] = [one for one in browser.all(".facet a") if one.text.startswith("differential")]
    count = option.text.split()[-1]
    option.click()
    browser.wait('.facet a[aria-current="true"]')
    assert browser.text("h1") == f"{count} kernels"
    assert "band=differential" in browser.driver.current_url
    browser.driver.back()
    assert browser.text("h1") == "9,516 kernels"
    browser.driver.forward()
    assert browser.text("h1") == f"{count} kernels"


def test_the_form_sorts_and_its_link_opens_the_same_view_elsewhere(browser, address):
    browser.look(f"{address}/?model=demo")
    browser.driver.execute_script("document.querySelector('[name=sort]').value = 'centroid'")
    browser.one(".narrow button").click()
    browser.wait(".card span")
    link, cards = browser.driver.current_url, [one.get_attribute("href") for one in browser.all("a.card")]
    assert link == f"{address}/?model=demo&sort=centroid"
    values = [float(one.text) for one in browser.all(".card span")]
    assert values == sorted(values, reverse=True)
    browser.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser.look("about:blank")
    browser.look(link)
    assert [one.get_attribute("href") for one in browser.all("a.card")] == cards


def test_a_click_opens_a_kernel_with_its_neighbours(browser, address):
    browser.look(f"{address}/?model=demo")
    name = browser.one("a.card").get_attribute("title")
    browser.one("a.card").click()
    browser.wait("#neighbours .card", 60)
    browser.wait("[data-pending]", 60, gone=True)
    assert browser.text("h1").startswith("channel 0")
    assert name == "demo:stages.0.blocks.0.conv_dw:0"
    assert len(browser.all(".taps td")) == 49
    assert "rho" in browser.text("#told")
    similar = browser.all("#neighbours .card")
    assert len(similar) == 24
    assert "demo_run@6000" in browser.text("#neighbours")  # the last checkpoint is the demo network itself
    assert similar[0].text.startswith("1.000")
    similar[0].click()
    browser.wait("#neighbours .card", 60)
    assert "demo_run@6000" in browser.text(".crumbs")


def test_sql_runs_and_a_write_is_refused(browser, address):
    browser.look(f"{address}/sql")
    browser.one("#q").send_keys("SELECT model, count(*) AS n FROM filters GROUP BY model ORDER BY n DESC, model LIMIT 2")
    browser.one("#statement button").click()
    browser.wait("#result td")
    assert [one.text for one in browser.all("#result td")] == ["demo", "864", "demo_run@0", "864"]
    browser.look(f"{address}/sql")
    browser.one("#q").send_keys("DROP VIEW filters")
    browser.one("#statement button").click()
    browser.wait('[role="alert"]')
    assert "read only" in browser.text('[role="alert"]')
    refused = [one for one in browser.errors() if "400" not in one]  # the console names the status of the refusal
    assert refused == []


def test_a_hostile_name_is_text(browser, address):
    from filterdb.explorer.choice import Choice, path

    for page in (
        path("model", HOSTILE),
        Choice(model=(HOSTILE,)).url,
        "/models",
        "/sql?q=SELECT+DISTINCT+model+FROM+filters",
        f"/compare?a={HOSTILE}&b=demo",
    ):
        browser.look(address + page)
        assert HOSTILE in browser.driver.execute_script("return document.body.innerText"), page
        assert browser.all('img[src="x"]') == []
    browser.look(address + Choice(model=(HOSTILE,)).url)
    assert browser.one("a.card img").get_attribute("alt").startswith(f"{HOSTILE}:{HOSTILE}:0")
    browser.one("a.card").click()
    browser.wait("#neighbours .card", 60)


def test_the_spectrum_answers_the_mouse_and_a_click(browser, address):
    from selenium.webdriver import ActionChains

    browser.look(f"{address}/spectrum/small-nets-7x7")
    before = browser.one("#decoded").get_attribute("src")
    bar = browser.one("#stretches")
    ActionChains(browser.driver).move_to_element_with_offset(bar, 200, 0).perform()
    assert browser.one("#decoded").get_attribute("src") != before
    code = float(browser.text("#codenumber"))
    ActionChains(browser.driver).click().perform()
    browser.wait("#real .card")
    assert f"code={code:g}" in browser.driver.current_url
    assert len(browser.all("#real .card")) == 48


def test_the_keyboard_reaches_everything_and_focus_is_seen(browser, address):
    from selenium.webdriver import ActionChains, Keys

    browser.look(f"{address}/")
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    focused = browser.driver.switch_to.active_element
    assert focused.text == "Skip to the content"
    assert focused.rect["x"] >= 0
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    style = browser.driver.execute_script(
        "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
    )
    assert style[0] == "solid"
    assert style[1] >= 2
    browser.one("a.card").send_keys(Keys.ENTER)
    browser.wait(".taps")


def test_colours_follow_the_system_and_the_button(browser, address):
    def ground() -> str:
        return browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")

    browser.look(f"{address}/models", scheme="light")
    light = ground()
    browser.look(f"{address}/models", scheme="dark")
    dark = ground()
    assert light != dark
    browser.one("#theme").click()
    assert ground() == light
    browser.driver.refresh()
    assert ground() == light
    browser.one("#theme").click()
    browser.look(f"{address}/models", scheme="light")
    assert ground() == dark
    browser.one("#theme").click()
    assert ground() == light


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_page_fits_its_window_and_complains_of_nothing(browser, address, page, size):
    browser.look(address + page, size)
    browser.wait("[data-pending]", 60, gone=True)
    inner, wide = browser.driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert wide <= inner == size[0]
    assert browser.all("h1")


def test_a_new_model_is_there_without_starting_anew(browser, address, db):
    browser.look(f"{address}/model/later")
    assert "No model" in browser.text()
    browser.errors()  # the 404 of that
    put(db, "later", {"x": random_kernels(4)})
    browser.look(f"{address}/?model=later") if later(browser, address) else None
    assert browser.text("h1") == "4 kernels"
    db.remove("later")


def later(browser: Browser, address: str) -> bool:
    """Wait until the model is on the page of all models."""
    from selenium.webdriver.support.ui import WebDriverWait

    def there(_: object) -> bool:
        browser.look(f"{address}/models")
        return "later" in browser.text()

    return bool(WebDriverWait(browser.driver, 20, 0.3).until(there))


def test_on_another_address_a_token_is_asked_for(db, browser):
    with served(Path(db.place.uri), "--host", "0.0.0.0") as shown:
        local = re.sub(r"//[^:/]+:", "//127.0.0.1:", shown)
        browser.look(local.split("?")[0])
        assert "token is needed" in browser.text("body")
        browser.look(local)
        browser.wait(".cards img")
        assert all("401" in one for one in browser.errors())  # of the page before, and of the icon that the browser looks for
        assert "token" not in browser.driver.current_url
        browser.look(local.split("?")[0] + "models")
        assert "demo" in browser.text()
        browser.look("about:blank")
