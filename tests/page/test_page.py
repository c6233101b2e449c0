"""The status page in a real browser, of a real service on a real Kafka: `make test-page`."""

import functools
import http.server
import io
import json
import logging
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Service, Topics
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from watched import Watched

from processor.metrics import Metrics
from processor.partitions import State
from processor.testbed.embedded_kafka import EmbeddedKafka
from processor.web.pages import Page, page_files
from processor.web.server import serve

SIZES = pytest.mark.parametrize("width", [1280, 390])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
PICTURE_BYTES_MAX = 150_000
PICTURE_HISTORY_S = 300


def number(text: str) -> float:
    return float(re.search(r"[\d,.]+", text)[0].replace(",", ""))


def fits(browser) -> bool:
    """Nothing reaches beyond the window's right edge, and nothing is scrolled sideways."""
    return browser.run(
        "const w = document.documentElement.clientWidth;"
        "return document.documentElement.scrollWidth <= w && [...document.querySelectorAll('body *:not(.skip):not(.unseen)')]"
        "  .every(e => e.getBoundingClientRect().right <= w + 0.5 && (e.scrollWidth <= e.clientWidth + 1 || e.clientWidth === 0"
        "    || e.closest('.unseen') || getComputedStyle(e).display === 'inline'))"
    )


# What it shows of a service that works.


@SIZES
@SCHEMES
def test_a_service_that_works_is_told_in_one_look(browser, service: Service, width: int, scheme: str) -> None:
    browser.show(service.page, width, scheme)
    browser.wait(lambda: "Ready" in browser.text("v-ready"), "ready")
    assert "All 4 partitions are restored and caught up." in browser.text("v-ready")
    browser.wait(lambda: number(browser.text("p-rate").split("\n")[1]) > 0, "a rate")
    browser.wait(lambda: "busy" in browser.text("v-time"), "where the time goes")
    browser.wait(lambda: re.search(r"(Safe|Late)\n.*checkpoint is .* old", browser.text("v-state")), "the state's safety")
    assert fits(browser)
    for plot in ("p-rate", "p-lag", "p-latency"):
        # All at once: the lines are drawn anew every two seconds.
        script = "return [...document.querySelectorAll(`#${arguments[0]} path.line`)].map(line => line.getAttribute('d'))"
        drawn = browser.wait(lambda of=(script, plot): [d for d in browser.run(*of) if "L" in d], f"the line of {plot}")
        assert len(drawn) == (2 if plot == "p-latency" else 1)
        assert re.search(
            r"over the last ten minutes: .*now .*\d.*lowest .*highest", browser[plot].find_element(By.TAG_NAME, "svg").accessible_name
        )
    assert [row[0] for row in browser.rows("t-partitions")] == ["0", "1", "2", "3"]
    assert {row[1] for row in browser.rows("t-partitions")} == {"live"}
    assert [row[0].split()[0] for row in browser.rows("t-time")][:3] == ["consume", "decode", "apply"]
    browser.wait(lambda: browser.pairs("d-slots")["Slots used"] == "500 of 1,024", "all machines in slots")
    assert number(browser.pairs("d-group")["Committed"]) > 0
    told = browser.pairs("d-model")
    assert (told["File"], told["Mode"], told["Features"], told["Outputs"]) == ("demo.keras", "carried", "4", "4")
    assert browser.pairs("d-service")["Instance"] == "plant-1"
    assert browser.driver.title == "Ready · plant-1 · slotstream"


@SIZES
@SCHEMES
def test_it_breaks_no_rule_of_accessibility(browser, service: Service, width: int, scheme: str) -> None:
    browser.show(service.page, width, scheme)
    browser.wait(lambda: browser.rows("t-partitions"), "partitions")
    browser.run("document.querySelector('details').open = true")
    assert browser.violations() == []


@SIZES
def test_it_refreshes_by_itself(browser, service: Service, width: int) -> None:
    browser.show(service.page, width)
    before = browser.text("updated"), browser.pairs("d-group")["Committed"]
    browser.wait(lambda: browser.text("updated") != before[0] and browser.pairs("d-group")["Committed"] != before[1], "newer figures")


def test_a_page_that_is_opened_later_shows_what_was(browser, service: Service) -> None:
    browser.show(service.page)
    points = browser.wait(lambda: browser.run("return document.querySelector('#p-rate path.line').getAttribute('d')"), "a line")
    assert points.count("L") >= 5  # it has seen but one answer itself


def test_it_asks_nobody_but_the_service_and_says_nothing_on_the_console(browser, service: Service) -> None:
    browser.show(service.page)
    browser.wait(lambda: browser.rows("t-partitions"), "partitions")
    asked = browser.requests()
    assert {f"{service.page}{path}" for path in ("", "page/page.css", "page/page.js", "page/icon.svg", "status.json")} <= set(asked)
    assert [url for url in asked if not url.startswith(service.page)] == []
    assert browser.messages() == []


class Elsewhere(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[http.server.HTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_nothing_from_elsewhere_gets_in_and_nothing_gets_out(browser, service: Service, elsewhere) -> None:
    """Though something had been written into the page: its policy is the last line."""
    browser.show(service.page)
    url = f"http://127.0.0.1:{elsewhere.server_port}/"
    broken = browser.driver.execute_async_script(
        """
        const [url, done] = arguments, broken = [];
        addEventListener("securitypolicyviolation", (event) => broken.push(event.effectiveDirective));
        const add = (name, values) => { try { document.body.append(Object.assign(document.createElement(name), values)); } catch (e) { } };
        add("img", { src: url + "img" });
        add("iframe", { src: url + "frame" });
        add("link", { rel: "stylesheet", href: url + "css" });
        add("style", { textContent: "body { background: red }" });
        const script = document.createElementNS("http://www.w3.org/2000/svg", "script");
        script.append("window.injected = true");
        document.body.append(script);
        try { document.body.insertAdjacentHTML("beforeend", "<b id=injected>x</b>"); } catch (e) { }
        fetch(url + "out?secret").catch(() => {}).finally(() => setTimeout(() => done(broken), 500));
        """,
        url,
    )
    assert {"img-src", "connect-src", "frame-src", "require-trusted-types-for"} <= set(broken)
    assert any(directive.startswith("style-src") for directive in broken)
    assert browser.run("return [window.injected, document.getElementById('injected')]") == [None, None]
    assert elsewhere.asked == []


def test_what_is_written_is_never_taken_for_a_page(browser, service: Service, topics: Topics) -> None:
    """A log's message may hold anything that somebody has sent."""
    with serve_watched() as (page, watched):
        watched.recent.handle(_record("<img src=x onerror=alert(1)><b>bold</b>"))
        browser.show(page)
        browser.wait(lambda: "<b>bold</b>" in browser.text("l-messages"), "the message as it is")
        assert browser.messages() == []


# What goes wrong.


def fail_a_checkpoint(browser, service: Service) -> str:
    """One that cannot be written, because something stands where its folder was. What the page says of it."""
    folder = browser.wait(lambda: next((service.folder / "checkpoints").glob("*/*/0"), None), "a checkpoint")
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("in the way")
    try:
        words = "could not write a checkpoint"
        return browser.wait(lambda: words in browser.text("l-messages") and browser.text("l-messages"), "the error")
    finally:
        folder.unlink()
        aside.rename(folder)


def test_dead_letters_are_shown_by_their_reason(browser, service: Service, topics: Topics) -> None:
    browser.show(service.page)
    assert "every record could be used" in browser.text("n-dead")
    assert browser.text("n-messages") == "None since the start."
    now_ms = int(time.time() * 1000)
    few = json.dumps({"values": [1.0]}).encode()
    topics.produce([(0, b"pump-1", few, now_ms, ()), (1, b"pump-2", few, now_ms, ()), (2, b"pump-3", b"\xff\xfe", now_ms, ())])
    browser.wait(lambda: browser.rows("t-dead") == [["wrong_feature_count", "2", "2"], ["bad_encoding", "1", "1"]], "three dead letters")
    assert f"3 records to {topics.dead_letter}." in browser.text("n-dead")
    browser.wait(lambda: browser.text("n-messages") == "Newest first.", "the first of each reason in the log")


def test_the_last_errors_are_shown(browser, service: Service) -> None:
    browser.show(service.page)
    told = fail_a_checkpoint(browser, service)
    assert re.match(r"error\s*\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", told)
    assert "could not write a checkpoint: the previous one stays" in told
    assert re.search(r"partition\n0\n", told)
    assert "to do\nmake room or repair the disk" in told
    assert browser.violations() == []


@SIZES
def test_a_service_that_is_gone_is_told_and_its_return_too(browser, service: Service, width: int) -> None:
    browser.show(service.page, width)
    browser.wait(lambda: browser.rows("t-partitions"), "partitions")
    service.kill()
    gone = browser.wait(lambda: browser.text("gone"), "that it is gone")
    assert re.fullmatch(r"Not answering since \d\d:\d\d:\d\d UTC\. What follows is what it said at \d\d:\d\d:\d\d UTC\.", gone)
    assert browser["gone"].aria_role == "alert"
    assert browser.driver.title == "Not answering · slotstream"
    assert browser.rows("t-partitions")  # what was known stays
    assert fits(browser)
    assert browser.violations() == []
    # The browser itself notes each refused connection; nothing else may be there.
    assert [m for m in browser.messages() if "net::ERR" not in m] == []
    service.start()
    browser.wait(lambda: not browser["gone"].is_displayed(), "the service again", 120)
    browser.wait(lambda: "Ready" in browser.text("v-ready"), "ready again", 180)
    assert browser["announce"].get_property("textContent") == "Ready. All 4 partitions are restored and caught up."
    assert [m for m in browser.messages() if "net::ERR" not in m] == []


def test_a_service_that_hangs_is_told_and_its_waking_too(browser, service: Service) -> None:
    browser.show(service.page)
    service.process.send_signal(signal.SIGSTOP)
    try:
        browser.wait(lambda: browser.text("gone").startswith("Not answering since"), "that it does not answer")
    finally:
        service.process.send_signal(signal.SIGCONT)
    browser.wait(lambda: not browser["gone"].is_displayed(), "the service again")


def test_a_broker_that_is_gone_is_told_and_its_return_too(browser, service: Service, kafka: EmbeddedKafka) -> None:
    browser.show(service.page)
    browser.wait(lambda: "Keeping up" in browser.text("v-pace"), "that it keeps up", 120)
    kafka.kill()
    try:
        browser.wait(lambda: re.search("Stalled|Cut off|Stands still", browser.text("v-pace")), "that nothing is answered")
        browser.wait(lambda: "librdkafka" in browser.text("l-messages"), "what the client tells")
    finally:
        kafka.start()
    browser.wait(lambda: re.search("Ready", browser.text("v-ready")), "ready again", 180)
    browser.wait(lambda: "Keeping up" in browser.text("v-pace"), "that it keeps up again", 180)


# With hands and ears.


def test_all_of_it_can_be_done_with_the_keyboard(browser, service: Service) -> None:
    browser.show(service.page)
    met = []
    for _ in range(12):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        focused = browser.driver.switch_to.active_element
        met.append((focused.tag_name, focused.text))
        assert browser.run(
            "return getComputedStyle(arguments[0]).outlineStyle !== 'none' && arguments[0].getBoundingClientRect().top >= 0", focused
        )
        if focused.tag_name == "summary":
            ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
            assert browser["t-minutes"].is_displayed()
        if focused.text == "readyz":
            break
    names = [text for _, text in met]
    assert names[:3] == ["Skip to the figures", "Pause", "By the minute, in numbers"]
    assert names[-4:] == ["status.json", "metrics", "healthz", "readyz"]
    assert number(browser.rows("t-minutes")[0][1]) >= 0


def test_the_skip_link_leads_past_the_head(browser, service: Service) -> None:
    browser.show(service.page)
    ActionChains(browser.driver).send_keys(Keys.TAB).send_keys(Keys.ENTER).perform()
    assert browser.driver.switch_to.active_element.get_attribute("id") == "main"


def test_it_has_landmarks_and_a_heading_for_each_part(browser, service: Service) -> None:
    browser.show(service.page)
    landmarks = [e.aria_role for e in browser.driver.find_elements(By.CSS_SELECTOR, "header, main, footer, nav")]
    assert landmarks == ["banner", "main", "contentinfo", "navigation"]
    headings = [e.get_property("textContent") for e in browser.driver.find_elements(By.CSS_SELECTOR, "h1, section:not([hidden]) h2")]
    assert headings[0] == "slotstream"
    assert headings[1:] == [e.accessible_name for e in browser.driver.find_elements(By.CSS_SELECTOR, "section:not([hidden])")]
    for table in browser.driver.find_elements(By.TAG_NAME, "table"):
        assert table.find_element(By.TAG_NAME, "caption").get_property("textContent")


def test_it_can_be_paused(browser, service: Service) -> None:
    browser.show(service.page)
    pause = browser["pause"]
    pause.click()
    assert (pause.text, pause.get_attribute("aria-pressed")) == ("Paused: go on", "true")
    browser.wait(lambda: not any("status.json" in url for url in browser.requests()), "no question under way")
    held = browser.text("updated")
    # Two refreshes would be due: what is to be seen is that they do not come.
    browser.driver.execute_async_script("setTimeout(arguments[0], 5000)")
    assert browser.requests() == []
    assert browser.text("updated") == held
    pause.click()
    browser.wait(lambda: browser.text("updated") != held, "newer figures")


def test_a_page_that_nobody_sees_does_not_ask(browser, service: Service) -> None:
    browser.show(service.page)
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    try:
        browser.driver.switch_to.window(first)
        state = browser.run("return document.visibilityState")
        browser.run("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
        browser.run("document.dispatchEvent(new Event('visibilitychange'))")
        browser.wait(lambda: not any("status.json" in url for url in browser.requests()), f"no question under way ({state})")
        browser.driver.execute_async_script("setTimeout(arguments[0], 5000)")
        assert browser.requests() == []
        browser.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        browser.wait(lambda: any("status.json" in url for url in browser.requests()), "a question")
    finally:
        for handle in browser.driver.window_handles:
            if handle != first:
                browser.driver.switch_to.window(handle)
                browser.driver.close()
        browser.driver.switch_to.window(first)


def test_a_moment_in_the_plots_is_told_under_the_pointer(browser, service: Service) -> None:
    browser.show(service.page)
    plot = browser["p-rate"].find_element(By.TAG_NAME, "svg")
    ActionChains(browser.driver).move_to_element_with_offset(plot, 60, 0).perform()
    for name in ("p-rate", "p-lag", "p-latency"):
        assert re.search(r"at \d\d:\d\d:\d\d", browser.text(name)), browser.text(name)
    ActionChains(browser.driver).move_to_element(browser["pause"]).perform()
    assert " at " not in browser.text("p-rate")


# What a small plant does not have, from figures that are set by hand.


@contextmanager
def serve_watched() -> Iterator[tuple[str, Watched]]:
    """The real page and server over a status of watched.py."""
    watched = Watched()
    pages = {**page_files(), "/status.json": Page("application/json", watched.status.json)}
    with serve("127.0.0.1", 0, Metrics(), watched.source, pages) as address:
        yield f"{address.url}/", watched


def _record(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("somebody", level, "", 0, text, (), None)


@SIZES
def test_of_256_partitions_the_worst_come_first(browser, width: int) -> None:
    with serve_watched() as (page, watched):
        owned = watched.own(256, lag=40)
        watched.metrics.set("lag_records", 1_234_567, partition=200)
        watched.metrics.set("checkpoint_age_seconds", 4000, partition=31)
        owned[77].state = State.RESTORING
        watched.metrics.forget("lag_records", partition=77)
        watched.metrics.set("restore_records_left", 123_456, partition=77)
        watched.go_on(30, watched.work(2000))
        browser.show(page, width)
        rows = browser.wait(lambda: browser.rows("t-partitions"), "partitions")
        assert len(rows) == 12
        assert [row[0] for row in rows[:3]] == ["77", "200", "31"]
        assert (rows[0][1].split(maxsplit=1), rows[1][2], rows[2][3]) == (["restoring", "123,456 left"], "1,234,567", "1 h 7 min")
        assert browser.text("n-partitions").startswith("255 of 256 partitions live.")
        assert fits(browser)
        button = browser["all"]
        assert (button.text, button.get_attribute("aria-expanded")) == ("Show all 256", "false")
        button.click()
        assert [row[0] for row in browser.rows("t-partitions")] == [str(p) for p in range(256)]
        assert (button.text, button.get_attribute("aria-expanded")) == ("Show 12", "true")
        assert fits(browser)
        assert browser.violations() == []


@pytest.mark.parametrize("width", [320, 600, 768, 1000, 1920])
def test_it_fits_any_window(browser, width: int) -> None:
    """320 pixels are a window of 1280 enlarged to 400 %."""
    with serve_watched() as (page, watched):
        watched.own(20, lag=1_234_567)
        watched.metrics.set("checkpoint_age_seconds", 4000, partition=7)
        watched.metrics.add("dead_letters_total", 123_456, error="wrong_feature_count")
        watched.recent.handle(_record("message " + "x" * 300))
        watched.go_on(30, watched.work(2000))
        browser.show(page, width)
        browser.wait(lambda: browser.rows("t-partitions"), "partitions")
        browser.run("document.querySelector('details').open = true")
        assert fits(browser)


@SIZES
@SCHEMES
def test_what_is_wrong_is_told_in_words_and_forms_too(browser, width: int, scheme: str) -> None:
    with serve_watched() as (page, watched):
        watched.own(2, lag=90_000)
        watched.metrics.set("checkpoint_age_seconds", 86_400, partition=1)
        for i in range(9):
            watched.recent.handle(_record(f"message {'abcdefghi'[i]} " + "x" * 300, level=logging.ERROR if i % 2 else logging.WARNING))
        watched.go_on(10)
        watched.source.is_alive = False
        browser.show(page, width, scheme)
        browser.wait(lambda: "Hung" in browser.text("v-ready"), "that it hangs")
        assert "Stalled" in browser.text("v-pace")
        assert "Overdue" in browser.text("v-state")
        forms = {
            name: browser[name].find_element(By.CSS_SELECTOR, "svg path").get_attribute("d") for name in ("v-ready", "v-pace", "v-time")
        }
        assert forms["v-ready"] == forms["v-pace"] != forms["v-time"]
        assert browser.text("l-messages").count("message ") == 5
        assert browser["earlier"].text == "4 earlier"
        assert fits(browser)
        assert browser.violations() == []


def test_a_start_tells_its_step_and_a_restore_its_time(browser) -> None:
    with serve_watched() as (page, watched):
        watched.source.start_step = "compiling the model"
        browser.show(page)
        browser.wait(lambda: "Starting\nIt is compiling the model." in browser.text("v-ready"), "the step")
        assert browser.text("n-partitions") == "None is assigned to this instance."
        assert browser.violations() == []
        watched.source.start_step = None
        watched.own(2, state=State.RESTORING)
        watched.go_on(3)
        left = iter((9000, 8000, 7000))
        watched.go_on(3, lambda: watched.metrics.set("restore_records_left", next(left), partition=0))
        browser.wait(lambda: "7,000 records to replay, about 14 s left." in browser.text("v-ready"), "the restore")
        assert browser.rows("t-partitions")[0][1].split(maxsplit=1) == ["restoring", "7,000 left"]


# The documentation's pictures.


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("width", "scheme", "height"), [(1280, "light", None), (390, "dark", 1500)])
def test_pictures(
    browser,
    service: Service,
    topics: Topics,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    width: int,
    scheme: str,
    height: int | None,
) -> None:
    """Of the service as it runs here; `make test-page PICTURES=docs/images` puts them where the documentation shows them."""
    folder = request.config.getoption("--pictures") or tmp_path
    wanted_s = PICTURE_HISTORY_S if request.config.getoption("--pictures") else 10
    browser.show(service.page, width, scheme)

    def told() -> dict:
        with urllib.request.urlopen(f"{service.page}status.json", timeout=10) as answer:
            return json.load(answer)

    def settled() -> bool:
        status = told()
        at = status["history"]["at"]
        return len(at) > 1 and at[-1] - at[0] >= wanted_s and {v["level"] for v in status["verdicts"].values()} == {"good"}

    few = json.dumps({"values": [1.0]}).encode()
    topics.produce([(0, b"pump-1", few, int(time.time() * 1000), ()), (1, None, few, int(time.time() * 1000), ())])
    fail_a_checkpoint(browser, service)
    browser.wait(settled, "a service that has run for a while and is well", 800)
    browser.resize(width, height or browser.run("return document.documentElement.scrollHeight"))
    browser.wait(functools.partial(fits, browser), "its place")
    picture = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    assert picture.width == width
    assert len(picture.getcolors(1 << 24)) > 50
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"page-{width}-{scheme}.png"
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < PICTURE_BYTES_MAX
