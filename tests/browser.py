"""A real browser on a real ``filterdb serve``: Debian's Chromium, headless, by selenium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("chromium", "chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--force-device-scale-factor=1",
)  # fmt: skip
PHONE = (390, 844)
DESK = (1280, 900)


def need_browser() -> None:
    """Skip the tests of a module, by name, where there is no browser."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found: apt-get install chromium chromium-driver", allow_module_level=True)


@contextmanager
def served(db: Path, *options: str) -> Iterator[str]:
    """The address of the explorer of a database, by the command that users type."""
    command = [sys.executable, "-c", "from filterdb.cli import main; main()", "serve", "--db", str(db), "--port", "0", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.search(r"http://\S+", line)
            log.seek(0)
            assert match, line + log.read()
            yield match[0]
        finally:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            log.seek(0)
            said = log.read()
            assert (code, "Traceback" in said, "interrupted" in said) == (0, False, False), said  # Ctrl-C ends it quietly


class Browser:
    """Chromium, with its console and its requests written down."""

    def __init__(self) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        self._profile = tempfile.TemporaryDirectory(prefix="chromium-")
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS, f"--user-data-dir={self._profile.name}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
        self.driver.set_page_load_timeout(60)
        self.driver.execute_cdp_cmd("Network.enable", {})

    def close(self) -> None:
        """End it."""
        self.driver.quit()
        self._profile.cleanup()

    def look(self, address: str, size: tuple[int, int] = DESK, scheme: str = "light") -> None:
        """Open an address in a window of this size, on a system of this colour scheme."""
        emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(address)

    def all(self, selector: str) -> list[Any]:
        """The elements of a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        """The first of them."""
        return self.driver.find_element("css selector", selector)

    def wait(self, selector: str, seconds: float = 20, gone: bool = False) -> None:
        """Until there is an element of a selector, or no more."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, 0.1).until(lambda _: bool(self.all(selector)) != gone, f"{selector}, gone={gone}")

    def text(self, selector: str = "main") -> str:
        """What a person reads there."""
        return self.one(selector).text

    def errors(self) -> list[str]:
        """What the console complained of since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since it was last asked."""
        import json

        found = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [one["params"]["request"]["url"] for one in found if one["method"] == "Network.requestWillBeSent"]

    def picture(self, file: Path, whole: bool = False, size: tuple[int, int] = DESK) -> None:
        """A screenshot of the window, or of the whole page."""
        if whole:
            height = min(6000, self.driver.execute_script("return document.documentElement.scrollHeight"))
            metrics = {"width": size[0], "height": height, "deviceScaleFactor": 1, "mobile": size[0] < 600}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        file.write_bytes(self.driver.get_screenshot_as_png())


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser that is closed at the end."""
    browser = Browser()
    try:
        yield browser
    finally:
        browser.close()


def hosts(addresses: Sequence[str]) -> set[str]:
    """The hosts of addresses; pictures in the page have none."""
    from urllib.parse import urlsplit

    return {urlsplit(one).hostname or "" for one in addresses if not one.startswith(("data:", "chrome:", "about:"))}
