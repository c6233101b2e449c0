"""A real Chromium, and what a visitor does with it: open a page, read it, be told of what breaks a rule."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from axe_core_python.selenium import Axe
from harness import wait_for
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

HEIGHT = 900
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """A Chromium with nothing of an earlier one, and what a visitor does with it."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = _program("chromium")
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(_program("chromedriver")))
        self.driver.set_script_timeout(60)

    def show(self, url: str, width: int = 1280, scheme: str = "light") -> None:
        """Opens a page anew. width in CSS pixels; scheme: light or dark."""
        self.messages(), self.requests()
        self.resize(width)
        media = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        self.driver.get(url)
        self.wait(lambda: self.text("v-ready").split("\n")[-1].strip(), "the first figures")

    def resize(self, width: int, height: int = HEIGHT) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def __getitem__(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def text(self, name: str) -> str:
        """As it is seen."""
        return self[name].text

    def rows(self, name: str) -> list[list[str]]:
        """A table's body, row by row."""
        script = "return [...document.getElementById(arguments[0]).tBodies[0].rows].map(r => [...r.cells].map(c => c.innerText))"
        return self.run(script, name)

    def pairs(self, name: str) -> dict[str, str]:
        """A list's terms and what stands beside them."""
        script = "return [...document.getElementById(arguments[0]).children].map(d => [...d.children].map(c => c.innerText))"
        return dict(self.run(script, name))

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], object], what: str, timeout_s: float = 180.0):
        return wait_for(condition, lambda: f"{what}; the page says:\n{self.driver.find_element(By.TAG_NAME, 'body').text}", timeout_s)

    def violations(self) -> list[str]:
        """Of the rules of axe: WCAG 2.1 A and AA, and good practice."""
        found = Axe().run(self.driver, options={"resultTypes": ["violations"]})["violations"]
        return [f"{v['id']}: {v['help']}: {[n['html'][:200] for n in v['nodes']][:4]}" for v in found]

    def messages(self) -> list[str]:
        """The console's, since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for, since it was last asked."""
        found = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in found if m["method"] == "Network.requestWillBeSent"]


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"found no {name} on the path. To do: apt-get install chromium chromium-driver"
    return found
