"""Single sensors on the status page, in a real browser, of a real service with `http.sensors`."""

import functools
import io
import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Service, Topics
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from test_page import PICTURE_BYTES_MAX, SCHEMES, SIZES, fits

from processor.testbed import child_process as process
from processor.testbed.embedded_kafka import EmbeddedKafka, free_port

MODEL = Path(__file__).parents[2] / "processor/demo/demo.keras"
ODD = "<b>Süd/1</b> ?#%"


@pytest.fixture(scope="module")
def topics(kafka: EmbeddedKafka) -> Topics:
    return Topics(kafka.bootstrap, "watched", partitions=2)


@pytest.fixture(scope="module")
def service(topics: Topics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """As the other tests' service, with 40 machines that report 80 readings a second together."""
    options = [f"--http.port={free_port()}", "--http.sensors=true", "--slots=64", "--output.residual=true", "--dead_letter.max_ratio=1"]
    service = Service(topics, MODEL, tmp_path_factory.mktemp("service"), *options, instance="plant-1")
    plant = ["processor.cli", "plant", "--bootstrap", topics.bootstrap, "--topic", topics.input, "--rate", "80", "--sensors", "40"]
    with service:
        service.wait_ready(180)
        service.page = f"{service.url}/"
        running = process.spawn([sys.executable, "-m", *plant], tmp_path_factory.mktemp("plant") / "plant.log")
        try:
            feed(topics, ODD.encode(), 1.0)
            yield service
        finally:
            process.kill(running)


def feed(topics: Topics, key: bytes, number: float, *, count: int = 1) -> None:
    value = json.dumps({"values": [number] * 4}).encode()
    topics.produce([(0, key, value, int(time.time() * 1000), ())] * count)


def listed(browser) -> list[str]:
    return [row[0] for row in browser.rows("t-sensors")]


def chosen(browser, service: Service, width: int = 1280, scheme: str = "light", name: str = ODD) -> None:
    """Opens the page and finds a sensor."""
    browser.show(service.page, width, scheme)
    browser.wait(lambda: browser["sensors"].is_displayed(), "the sensors")
    browser["name"].send_keys(name, Keys.ENTER)
    browser.wait(lambda: browser["of-sensor"].is_displayed() and browser.text("h-sensor") == name, "the sensor")


def test_the_sensors_with_the_highest_residuals_are_listed_again_and_again(browser, service: Service, topics: Topics) -> None:
    browser.show(service.page)
    browser.wait(lambda: len(listed(browser)) == 10, "a list")
    assert browser.text("n-list") == "The highest residuals of the last minute."
    residuals = [float(row[1].replace(",", "")) for row in browser.rows("t-sensors")]
    assert residuals == sorted(residuals, reverse=True)
    feed(topics, b"wild", 1.0)
    feed(topics, b"wild", 1000.0)
    browser.wait(lambda: listed(browser)[0] == "wild", "the one that is far off")
    assert browser.violations() == []


@SIZES
@SCHEMES
def test_one_sensor_is_shown_with_its_readings_its_state_and_its_place(browser, service: Service, width: int, scheme: str) -> None:
    browser.show(service.page, width, scheme)
    browser.wait(lambda: len(listed(browser)) == 10, "a list")
    name = next(name for name in listed(browser) if name not in ("wild", ODD))
    browser["t-sensors"].find_element(By.LINK_TEXT, name).click()
    browser.wait(lambda: browser["of-sensor"].is_displayed(), "the sensor")
    assert browser.text("h-sensor") == name
    assert browser.driver.switch_to.active_element.get_attribute("id") == "h-sensor"
    assert browser.text("n-sensor").startswith("On instance plant-1, in partition ")
    assert "in slot " in browser.text("n-sensor")
    pairs = browser.pairs("d-sensor")
    assert "since its last reset" in pairs["Steps"]
    assert float(pairs["Residual"].split()[0].replace(",", "")) >= 0
    layers = browser.rows("t-layers")
    assert [row[1] for row in layers][:2] == ["h", "c"]
    assert all(float(row[3].replace(",", "")) > 0 for row in layers)
    assert layers[0][4].endswith("%")
    assert layers[1][4] == "\u2013"
    script = "return [...document.querySelectorAll(`#${arguments[0]} path.line`)].map(line => line.getAttribute('d'))"
    lines = browser.wait(lambda: (found := browser.run(script, "p-reading")) and all("L" in d for d in found) and found, "its lines")
    assert len(lines) == 2
    assert "now " in browser["p-reading"].find_element(By.TAG_NAME, "svg").accessible_name
    browser.run("document.querySelector('#sensor details').open = true")
    assert len(browser.rows("t-readings")) > 1
    assert fits(browser)
    assert browser.violations() == []
    assert browser.messages() == []


def test_its_readings_go_on_by_themselves_and_only_new_ones_are_asked_for(browser, service: Service, topics: Topics) -> None:
    chosen(browser, service)
    steps = int(browser.pairs("d-sensor")["Steps"].split()[0].replace(",", ""))
    browser.requests()
    feed(topics, ODD.encode(), 2.0, count=3)
    browser.wait(lambda: browser.pairs("d-sensor")["Steps"].startswith(f"{steps + 3} "), "its new readings")
    assert any("/readings?" in url and "after=" in url for url in browser.requests())
    rows = browser.run("return [...document.getElementById('t-readings').tBodies[0].rows].map(r => [...r.cells].map(c => c.textContent))")
    assert [row[1] for row in rows[:3]] == [str(steps + 3), str(steps + 2), str(steps + 1)]


@SIZES
def test_a_name_is_found_by_a_part_of_it_and_is_never_taken_for_a_page(browser, service: Service, width: int) -> None:
    chosen(browser, service, width)
    assert browser.driver.find_elements(By.CSS_SELECTOR, "#sensors b") == []
    browser["name"].clear()
    browser["name"].send_keys("pump-00", Keys.ENTER)
    browser.wait(lambda: listed(browser) and all("pump-00" in name for name in listed(browser)), "those of that part")
    assert browser.text("n-list").startswith("Names with “pump-00”")
    browser["all-sensors"].click()
    browser.wait(lambda: browser.text("n-list") == "The highest residuals of the last minute.", "the list")
    assert fits(browser)


def test_a_name_that_nobody_has_is_told(browser, service: Service) -> None:
    browser.show(service.page)
    browser["name"].send_keys("nobody", Keys.ENTER)
    browser.wait(lambda: browser.text("n-sensor") == "No sensor of this name has a state.", "that there is none")
    assert not browser["of-sensor"].is_displayed()
    assert browser.text("n-list") == "No sensor that reported lately has “nobody” in its name."
    assert browser.violations() == []


def test_a_chosen_sensor_stands_in_the_address_and_the_way_back_leads_to_the_one_before(browser, service: Service) -> None:
    chosen(browser, service)
    address = browser.driver.current_url
    browser.wait(lambda: len(listed(browser)) > 0, "a list")
    browser["all-sensors"].click()
    browser.wait(lambda: len(listed(browser)) == 10, "the list")
    other = next(name for name in listed(browser) if name != ODD)
    browser["t-sensors"].find_element(By.LINK_TEXT, other).click()
    browser.wait(lambda: browser.text("h-sensor") == other and browser["of-sensor"].is_displayed(), "the other")
    browser.driver.back()
    browser.wait(lambda: browser.text("h-sensor") == ODD and browser["of-sensor"].is_displayed(), "the one before")
    browser.show(address)
    browser.wait(lambda: browser.text("h-sensor") == ODD and browser["of-sensor"].is_displayed(), "the one of the address")


def test_all_of_it_can_be_done_with_the_keyboard(browser, service: Service) -> None:
    browser.show(service.page)
    browser.wait(lambda: len(listed(browser)) == 10, "a list")
    browser["name"].send_keys("motor", Keys.TAB)
    assert browser.driver.switch_to.active_element.text == "Find"
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    browser.wait(lambda: browser["all-sensors"].is_displayed(), "those that are found")
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    link = browser.driver.switch_to.active_element
    assert link.tag_name == "a"
    link.send_keys(Keys.ENTER)
    browser.wait(lambda: browser["of-sensor"].is_displayed(), "the sensor")
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    feature = browser.driver.switch_to.active_element
    assert (feature.tag_name, feature.accessible_name) == ("select", "Feature")
    feature.send_keys("value 2")
    browser.wait(lambda: browser.text("p-reading").startswith("value 2"), "the feature that was chosen")


@pytest.mark.parametrize("width", [320, 600, 768, 1000, 1920])
def test_it_fits_any_window(browser, service: Service, width: int) -> None:
    chosen(browser, service, width)
    assert fits(browser)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_pictures(browser, service: Service, request: pytest.FixtureRequest, tmp_path: Path, width: int, scheme: str) -> None:
    """Of one machine as it is here; `make test-page PICTURES=docs/images` puts them where the documentation shows them."""
    folder = request.config.getoption("--pictures") or tmp_path
    wanted = 60 if request.config.getoption("--pictures") else 5
    with urllib.request.urlopen(f"{service.page}sensors?find=pump-", timeout=20) as answer:
        name = json.load(answer)["sensors"][0]["sensor"]
    chosen(browser, service, width, scheme, name)
    browser.wait(lambda: int(browser.pairs("d-sensor")["Steps"].split()[0].replace(",", "")) > wanted, "readings")
    browser["all-sensors"].click() if browser["all-sensors"].is_displayed() else None
    browser.wait(lambda: len(listed(browser)) == 10, "the list")
    browser.resize(width, browser.run("return document.documentElement.scrollHeight"))
    browser.wait(functools.partial(fits, browser), "its place")
    picture = Image.open(io.BytesIO(browser["sensors"].screenshot_as_png)).convert("RGB")
    assert len(picture.getcolors(1 << 24)) > 50
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sensors-{width}-{scheme}.png"
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < PICTURE_BYTES_MAX
