"""A chromium driven by selenium, and what a user does in it."""
import json
import pathlib
import shutil
import time

try:
    from selenium import webdriver
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
except ImportError:
    webdriver = Keys = None


def wait_for(condition, what, seconds=20):
    """Asks until the condition is true and returns what it was."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return found


def present():
    """What is missing, or nothing."""
    if webdriver is None:
        return "the Python package selenium"
    return next((f"{program} (Debian's {package})" for program, package in
                 (("chromium", "chromium"), ("chromedriver", "chromium-driver")) if not shutil.which(program)), None)


class Browser:
    """A chromium with one page, and what a user does in it."""

    def __init__(self):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,800",
                     "--disable-background-networking", "--force-color-profile=srgb"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))

    def open(self, url):
        self.driver.get(url)

    def forget(self):
        """An empty browser."""
        self.driver.execute_script("try { localStorage.clear(); sessionStorage.clear(); } catch {}")

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return wait_for(lambda: self.all(selector), selector)[0]

    def texts(self, selector):
        return self.driver.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)

    def text(self, selector):
        return "\n".join(self.texts(selector))

    def until(self, selector, text, seconds=20):
        """Waits until what is found holds this text."""
        try:
            wait_for(lambda: text in self.text(selector), "", seconds)
        except AssertionError:
            raise AssertionError(f"wanted {text!r} in {selector}, found {self.text(selector)!r}") from None

    def click(self, selector, label=None):
        def found():
            return next((e for e in self.all(selector) if e.is_displayed() and label in (None, e.text)), None)

        for _ in range(5):
            try:
                wait_for(found, f"{selector} {label or ''}").click()
                return
            except StaleElementReferenceException:  # it was made anew just now
                continue
        raise AssertionError(f"{selector} does not hold still")

    def type(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def ask(self, text):
        wait_for(lambda: "ok" in self.driver.find_element(By.ID, "state").get_attribute("class"), "the page to be ready")
        self.one("#input").send_keys(text, Keys.ENTER)

    def until_answered(self, seconds=20):
        wait_for(lambda: self.one("#send").is_displayed() and self.texts("article.assistant"), "the answer", seconds)
        return self.texts("article.assistant > .body")[-1]

    def screenshot(self, folder, name):
        if folder:
            self.driver.save_screenshot(str(pathlib.Path(folder) / f"{name}.png"))

    def dark(self, on):
        value = "dark" if on else "light"
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": value}]})

    def phone(self, on):
        if on:
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                        {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True})
        else:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": on})

    def complaints(self):
        """What the browser has to say about the page: faults of the script, refusals by the policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")
                if entry["source"] != "network" and entry["level"] in ("SEVERE", "WARNING")]

    def requested(self):
        """Every address that was asked for since this was called last."""
        addresses = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                addresses.append(message["params"]["request"]["url"])
        return addresses
