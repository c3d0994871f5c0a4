"""Uses the server's page in a browser: Debian's chromium, driven by selenium.

    python3 tests/check_page.py [PROGRAMS_FOLDER MODEL] [--if-present] [--screenshots FOLDER]

Most of it talks to a server that says what a test wrote, with a policy as strict as vga-server's; with a folder and a
model the last part talks to vga-server itself. Needs chromium, chromium-driver and the Python package selenium; without
them it fails, or with --if-present says so and ends with 0. Prints a line for each thing shown.
"""
import argparse
import json
import pathlib
import sys
import time
import traceback
import urllib.parse

import scripted_server
from browser import Browser, Keys, present, wait_for
from scripted_server import hang_up, refuse, say
from server_under_test import Server


def shows_answers(browser, server, shots):
    server.answers = [say("Gravity", " pulls.", usage={"prompt_tokens": 12}), say("Less: it pulls.")]
    browser.ask("What is gravity?")
    assert browser.until_answered() == "Gravity pulls."
    browser.ask("Shorter.")
    assert browser.until_answered() == "Less: it pulls."
    first, second = server.requests
    assert first["messages"] == [{"role": "user", "content": "What is gravity?"}], first
    assert first["stream"] is True and first["stream_options"] == {"include_usage": True} and first["model"] == "a-model", first
    assert [m["content"] for m in second["messages"]] == ["What is gravity?", "Gravity pulls.", "Shorter."], second
    assert "2 tokens · 41.5 tokens/s" in browser.texts(".tools span")[1], browser.texts(".tools span")
    assert browser.text("#fill span") == "21 of 2,048 tokens", browser.text("#fill span")
    assert browser.text("#title") == "What is gravity?"
    assert browser.text("#spoken") == "Answer: Less: it pulls."


def streams_and_stops(browser, server, shots):
    server.answers = [say("word ", pause=0.05, repeat=400)]
    browser.ask("Go on for long")
    browser.until("article.assistant", "word word")
    early = len(browser.text("article.assistant"))
    wait_for(lambda: len(browser.text("article.assistant")) > early + 20, "more of the answer")
    browser.type(Keys.ESCAPE)
    assert server.left.wait(5), "the request goes on after Escape"
    browser.until("article.assistant .tools span", "stopped")
    server.left.clear()
    server.answers = [say("word ", pause=0.05, repeat=400)]
    browser.click("article.assistant .tools button", "Regenerate")
    browser.until("article.assistant", "word word")
    browser.click("#stop")
    assert server.left.wait(5), "the request goes on after Stop"
    assert len(browser.all("article.assistant")) == 1
    assert len(server.requests[1]["messages"]) == 1, "a regenerated answer saw the old one"


def keeps_conversations(browser, server, shots):
    server.answers = [say("One."), say("Two.")]
    browser.ask("First")
    browser.until_answered()
    browser.click("#new")
    browser.ask("Second")
    browser.until_answered()
    assert browser.texts("#list .title") == ["Second", "First"]
    browser.driver.refresh()
    browser.until("article", "Two.")
    browser.click("#list .title", "First")
    browser.until("article", "One.")
    browser.ask("And on")
    browser.until_answered()
    assert [m["content"] for m in server.requests[-1]["messages"]] == ["First", "One.", "And on"]
    browser.click("#list li.current .quiet", "Rename")
    browser.type(Keys.CONTROL, "a", Keys.NULL, "Renamed", Keys.ENTER)
    assert browser.texts("#list .title") == ["Renamed", "Second"] and browser.text("#title") == "Renamed"
    browser.click("#list li.current .quiet", "Delete")
    assert browser.texts("#list .title") == ["Second"]
    browser.click("#undo button")
    browser.until("#list", "Renamed")
    browser.until("article", "And on")


def keeps_what_had_come_before_a_reload(browser, server, shots):
    server.answers = [say("half ", pause=0.05, repeat=400), say("The rest.")]
    browser.ask("Tell")
    browser.until("article.assistant", "half half")
    browser.driver.refresh()
    assert server.left.wait(5), "the request outlives its page"
    browser.until("article.assistant", "half half")
    browser.until("article.assistant .tools span", "stopped")
    browser.ask("Go on")
    assert browser.until_answered() == "The rest."


def answers_in_several_conversations(browser, server, shots):
    server.answers = [say("slow ", pause=0.1, repeat=40), say("Quick.")]
    browser.ask("Long one")
    browser.until("article.assistant", "slow slow")
    browser.click("#new")
    browser.ask("Short one")
    browser.until("article.assistant", "Quick.")
    assert "slow" not in browser.text("#log")
    browser.click("#list .title", "Long one")
    browser.until("article.assistant", "slow slow")
    browser.click("#stop")
    assert server.left.wait(5)


def edits(browser, server, shots):
    server.answers = [say("Three."), say("More."), say("Four.")]
    browser.ask("1+2?")
    browser.until_answered()
    browser.ask("And?")
    browser.until_answered()
    browser.driver.execute_script("arguments[0].click()", browser.all("article.user .tools button")[1])
    browser.one(".editor")
    browser.type(Keys.CONTROL, "a", Keys.NULL, "2+2?")
    browser.click(".editor button", "Send")
    browser.until("article.assistant", "Four.")
    assert server.requests[-1]["messages"] == [{"role": "user", "content": "2+2?"}], server.requests[-1]
    assert len(browser.all("article")) == 2
    browser.click("article.assistant .tools button", "Edit")
    browser.type(Keys.CONTROL, "a", Keys.NULL, "Five.")
    browser.click(".editor button", "Keep")
    browser.until("article.assistant", "Five.")
    browser.ask("Sure?")
    browser.until_answered()
    assert server.requests[-1]["messages"][1]["content"] == "Five."


def settings_are_sent(browser, server, shots):
    browser.click("#settings")
    field = lambda name: browser.one(f"#numbers [name={name}]")
    assert field("temperature").get_attribute("placeholder") == "0.8"
    browser.one("#system").send_keys("Be brief.")
    values = {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "repeat_penalty": 1.1, "max_tokens": 99, "seed": 7}
    for name, value in values.items():
        field(name).send_keys(str(value))
    browser.screenshot(shots, "settings")
    browser.click("#dialog button", "Done")
    browser.ask("Hi")
    browser.until_answered()
    [asked] = server.requests
    asked["max_tokens"] = asked.pop("max_completion_tokens")  # its name of today
    assert {name: asked.get(name) for name in values} == values, asked
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    browser.click("#settings")
    for name in values:
        field(name).clear()
    field("top_p").send_keys("1.5")
    browser.click("#dialog button", "Done")
    assert browser.one("#dialog").get_attribute("open"), "top_p 1.5 was taken"
    field("top_p").clear()
    browser.click("#dialog button", "Done")
    browser.ask("Again")
    browser.until_answered()
    assert not values.keys() & server.requests[-1].keys(), server.requests[-1]


MARKDOWN = """# Heading

Some *emphasis*, **strong words**, ***both***, ~~gone~~ and `code`, snake_case_name, 2 * 3 * 4.
A second line, and a [link](https://example.org/a_(b)?c=1&d "title"), https://example.org/bare.

1. First
   - nested **item**
   - another
2. Second

   with a paragraph

> quoted
> > twice

| a | b |
|---|:-:|
| 1 | `2` |

---

```python
def f(x):  # <b>not bold</b>
    return x * 2 ** 3
```
"""


def markdown_becomes_elements(browser, server, shots):
    server.answers = [say(*(MARKDOWN[i:i + 3] for i in range(0, len(MARKDOWN), 3)))]
    browser.ask("Show me")
    browser.until_answered()
    count = lambda selector: len(browser.all(".assistant > .body " + selector))
    for selector, wanted in (("h1", 1), ("em", 2), ("strong", 3), ("s", 1), ("p code", 1), ("a", 2), ("ol > li", 2), ("ol ul > li", 2),
                             ("blockquote blockquote", 1), ("td", 2), ("hr", 1), ("pre", 1), ("b", 0)):
        assert count(selector) == wanted, f"{selector}: wanted {wanted}, found {count(selector)}"
    assert "snake_case_name, 2 * 3 * 4" in browser.text(".assistant .body")
    assert browser.text(".assistant pre") == "def f(x):  # <b>not bold</b>\n    return x * 2 ** 3"
    links = [(a.get_attribute("href"), a.get_attribute("rel"), a.get_attribute("target")) for a in browser.all(".body a")]
    assert links == [(href, "noopener noreferrer", "_blank") for href in
                     ("https://example.org/a_(b)?c=1&d", "https://example.org/bare")], links
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    browser.click(".code button", "Copy")
    browser.until(".code", "Copied")
    kept = browser.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))")
    assert kept == "def f(x):  # <b>not bold</b>\n    return x * 2 ** 3", kept


HOSTILE = """<img src=x onerror="window.broken=1"><script>window.broken=1</script>

[a](javascript:window.broken=1) [b](data:text/html,x) [c](JaVaScRiPt:window.broken=1) [d](//evil.example/x) [e](/v1/models)
![i](https://evil.example/x.png) <https://ok.example/"onclick="x> <a href="javascript:window.broken=1">f</a>
&lt;img src=x&gt; [`g`](https://ok.example/'"><img src=x>)

```html"><img src=x onerror=window.broken=1>
</code></pre><img src=x onerror="window.broken=1">
```
| <img src=x> | b |
|--|--|
| <iframe src=https://evil.example> | x |
"""


def what_a_model_writes_is_text(browser, server, shots):
    server.answers = [say(HOSTILE, thoughts=["<img src=x onerror=window.broken=1>"])]
    browser.ask("<img src=x onerror=window.broken=1><b>bold</b>")
    browser.until_answered()
    browser.driver.refresh()
    browser.until("article.assistant", "iframe")
    assert not browser.all("article img, article script, article iframe, article b")
    assert browser.driver.execute_script("return window.broken") is None
    for link in browser.all("article a"):
        assert urllib.parse.urlsplit(link.get_attribute("href")).scheme in ("http", "https"), link.get_attribute("outerHTML")
        assert not link.get_attribute("onclick")
    assert len(browser.all("article a")) == 4, [a.get_attribute("href") for a in browser.all("article a")]
    assert browser.texts("article.user > .body") == ["<img src=x onerror=window.broken=1><b>bold</b>"]


def odd_markdown_takes_no_time(browser, server, shots):
    """What would make a careless parser slow or deep."""
    texts = ["*" * 20000, "[" * 20000, "> " * 5000 + "x", "`" * 9999 + "a", "_a " * 7000, "**a " * 5000, "- " * 3000 + "x",
             "|" * 9999 + "\n" + "|-" * 5000, "<" * 20000, "![](" * 5000, "#" * 9999, "~~" * 5000,
             "`a``b" * 4000, "[a](b" * 4000, "*a **b " * 3000, " " * 20000 + "x", "http://" * 3000]
    for text in texts:
        took = browser.driver.execute_script(
            "const start = performance.now(), box = document.createElement('div'); showMarkdown(box, arguments[0]);"
            "return performance.now() - start", text)
        assert took < 1500, f"{text[:20]!r}...: {took:.0f} ms"


def thoughts_fold(browser, server, shots):
    server.answers = [say("Four.", thoughts=["Two ", "and ", "two."], pause=0.3), say("Yes.")]
    browser.ask("2+2?")
    browser.until("details.reasoning[open]", "Two and")
    browser.until_answered()
    assert not browser.all("details.reasoning[open]"), "thoughts stay open under the answer"
    assert browser.texts("article.assistant > .body") == ["Four."]
    browser.click("details.reasoning summary")
    browser.until("details.reasoning[open]", "Two and two.")
    browser.ask("Sure?")
    browser.until_answered()
    assert "Two and two" not in json.dumps(server.requests[-1]), "thoughts went back to the server"


def troubles_are_said_plainly(browser, server, shots):
    cases = [(refuse(503, "queue full", Retry_After="7"), "busy; try again in 7 s"),
             (refuse(400, "maximum context length is 2048 tokens; the messages have 4012", "context_length_exceeded"), "too long for the model"),
             (refuse(400, "temperature must be 0 to 2"), "did not accept this (400). The server says: temperature must be 0 to 2"),
             (refuse(500, "no luck"), "The server failed (500). The server says: no luck"),
             (say("half of", lost=True), "connection ended before the answer was complete"),
             (say("half of", error="the device is gone"), "gave up on this answer. It says: the device is gone"),
             (hang_up, "cannot be reached")]
    browser.ask("Hi")
    browser.until_answered()
    for answer, wanted in cases:
        server.answers = [answer]
        if browser.all(".notice"):
            browser.click(".notice button", "Try again")
        else:
            browser.click("article.assistant .tools button", "Regenerate")
        browser.until(".notice", wanted)
        wait_for(lambda: browser.one("#send").is_displayed(), "the end of the attempt")
        assert browser.text("#spoken") in browser.text(".notice"), "a screen reader does not hear of it"
    browser.screenshot(shots, "trouble")
    browser.click(".notice button", "Try again")
    browser.until("article.assistant", "Yes.")
    assert not browser.all(".notice")


def loading_is_shown(browser, server, shots):
    server.health = "loading"
    browser.open(server.url)
    browser.until("#state", "loading the model")
    browser.one("#input").send_keys("Hi", Keys.ENTER)
    time.sleep(0.3)
    assert not server.requests and browser.text("#input") == "" and browser.one("#input").get_attribute("value") == "Hi"
    server.health = "ok"
    browser.until("#state", "a-model")
    assert browser.text("#empty") == "a-model\nA conversation may have 2,048 tokens."


def a_key_is_asked_for(browser, server, shots):
    server.key = "secret"
    browser.open(server.url)
    browser.until("#keyform", "asks for an API key")
    browser.type("wrong", Keys.ENTER)
    browser.until("#keyform", "does not know this API key")
    browser.screenshot(shots, "key")
    browser.type("secret", Keys.ENTER)
    browser.until("#state", "a-model")
    browser.ask("Hi")
    browser.until_answered()
    stored = browser.driver.execute_script("return [JSON.stringify(localStorage), sessionStorage.getItem('vga:key')]")
    assert "secret" not in stored[0] and stored[1] == "secret", stored
    browser.driver.refresh()
    browser.until("#state", "a-model")
    assert not browser.one("#keyform").is_displayed()


def the_window_is_shown(browser, server, shots):
    server.props.update(window=1024, context=1024, keep=16)
    browser.open(server.url)
    browser.until("#empty", "remembers the last 1,024 tokens")
    server.answers = [say("Still here.", usage={"prompt_tokens": 900, "evicted_tokens": 600})]
    browser.ask("Do you remember?")
    browser.until_answered()
    browser.until("#fill span", "901 of 1,024 tokens of the window; the oldest 600 are forgotten")
    server.props.update(window=None, context=2048)
    browser.open(server.url)
    server.answers = [say("x", usage={"prompt_tokens": 1000}, finish="length")]
    browser.ask("Long?")
    browser.until(".tools span", "cut at the limit")
    browser.until("#fill span", "1,001 of 2,048 tokens")
    assert browser.all("progress")[0].get_attribute("value") == "1001"


def a_model_without_a_template_is_said_to_be_one(browser, server, shots):
    server.props["chat_template"] = False
    browser.open(server.url)
    browser.until(".notice", "no chat template")


def keyboard_alone(browser, server, shots):
    browser.one("#input").send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two", Keys.ENTER)
    browser.until_answered()
    assert server.requests[0]["messages"][0]["content"] == "one\ntwo"
    assert browser.driver.switch_to.active_element.get_attribute("id") == "input"
    browser.driver.execute_script("document.querySelector('#new').focus()")
    found = ["new"]
    for _ in range(20):
        browser.type(Keys.TAB)
        focused = browser.driver.switch_to.active_element
        found.append(focused.get_attribute("id") or focused.get_attribute("aria-label") or focused.text)
        if found[-1] == "send" or (len(found) > 1 and found[-1] == found[0]):
            break
    assert found == ["new", "one", "Rename one", "Delete one", "settings", "Copy", "Edit", "Copy", "Edit", "Regenerate", "input", "send"], found
    nameless = browser.driver.execute_script("""
        return [...document.querySelectorAll("button, input, textarea, nav, dialog, progress")].filter(e => !e.innerText?.trim() &&
            !e.textContent.trim() && !e.ariaLabel && !e.labels?.length && !e.getAttribute("aria-labelledby")).map(e => e.outerHTML)""")
    assert nameless == [], nameless


def works_on_a_phone(browser, server, shots):
    browser.phone(True)
    try:
        browser.open(server.url)
        server.answers = [say(MARKDOWN + "\n" + "unbroken" * 40)]
        browser.one("#input").send_keys("A question that is long enough for more than one line of a narrow screen")
        browser.one("#input").send_keys(Keys.ENTER)  # here it starts a line
        assert not server.requests
        browser.click("#send")
        browser.until_answered()
        width = browser.driver.execute_script(
            "return [document.documentElement.scrollWidth, innerWidth, document.querySelector('#log').scrollWidth]")
        assert max(width) <= 390, f"wider than the screen: {width}"
        browser.screenshot(shots, "phone")
        assert not browser.one("#side").is_displayed()
        browser.click("#menu")
        assert browser.one("#side").is_displayed() and browser.one("#menu").get_attribute("aria-expanded") == "true"
        browser.screenshot(shots, "phone-drawer")
        browser.click("#list .title")
        assert not browser.one("#side").is_displayed()
    finally:
        browser.phone(False)


def looks(browser, server, shots):
    """Light and dark differ in every colour that matters, and a text can be read in both."""
    server.answers = [say("It is **a force** between masses.", thoughts=["The user asks about gravity."]), say(MARKDOWN),
                      say("a long answer that is still being written ", pause=0.03, repeat=200)]
    for question in ("What is gravity?", "Show me all that Markdown can do, please", "And a long one"):
        browser.ask(question)
        if question != "And a long one":
            browser.until_answered()
    browser.until("article.assistant .tools span", "tokens/s")
    time.sleep(1)
    colours = []
    for dark in (False, True):
        browser.dark(dark)
        browser.screenshot(shots, "dark" if dark else "light")
        colours.append(browser.driver.execute_script("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"))
    browser.dark(False)
    browser.type(Keys.ESCAPE)
    assert contrast(*colours[0]) > 7 and contrast(*colours[1]) > 7 and colours[0] != colours[1], colours


def contrast(one, other):
    """Of two CSS colours, as WCAG has it."""
    def luminance(colour):
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1:-1].split(",")[:3]]
        return sum(w * (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4) for w, p in zip((0.2126, 0.7152, 0.0722), parts))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


SCRIPTED = [shows_answers, streams_and_stops, keeps_conversations, keeps_what_had_come_before_a_reload, answers_in_several_conversations,
            edits, settings_are_sent, markdown_becomes_elements, what_a_model_writes_is_text, odd_markdown_takes_no_time, thoughts_fold,
            troubles_are_said_plainly, loading_is_shown, a_key_is_asked_for, the_window_is_shown,
            a_model_without_a_template_is_said_to_be_one, keyboard_alone, works_on_a_phone, looks]


def set_numbers(browser, **values):
    browser.click("#settings")
    for name, value in values.items():
        field = browser.one(f"#numbers [name={name}]")
        field.clear()
        field.send_keys(str(value))
    browser.click("#dialog button", "Done")


def a_chat_with_vga_server(browser, server, shots):
    """Row 41 of what must be observable: streams, the place is free after a stop, nothing is asked for elsewhere."""
    policy = server.get("/").headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"} <= set(policy), policy
    assert not any("unsafe" in rule or "*" in rule for rule in policy), policy
    last = lambda: (browser.texts("article.assistant > .body") or [""])[-1]
    browser.open(f"http://127.0.0.1:{server.port}")
    set_numbers(browser, max_tokens=60)
    browser.ask("Once upon a time there was a little fox")
    wait_for(last, "the answer to begin")
    first = browser.until_answered(60)
    browser.until("#fill span", "tokens of the window")
    browser.driver.refresh()
    browser.until("article.assistant", first)
    # Texts that never end: a slow machine comes too late to stop others.
    browser.driver.execute_script("""
        const ask = window.fetch;
        window.fetch = (url, options) => ask(url, options?.body
            ? {...options, body: JSON.stringify({...JSON.parse(options.body), ignore_eos: true})} : options);""")
    set_numbers(browser, max_tokens=1000000, temperature=2, top_k=0, top_p=1, min_p=0)
    browser.ask("And then")
    wait_for(lambda: last() != first and len(last()) > 20, "the second answer to begin")
    assert server.running() == 1
    browser.click("#stop")
    wait_for(lambda: server.running() == 0, "the place to be free", 2)
    browser.until("article.assistant .tools span", "stopped")
    stopped = last()
    set_numbers(browser, max_tokens=20, temperature=0.5)
    browser.ask("Go on")
    assert browser.until_answered(60) not in ("", stopped)
    assert len(browser.all("article.assistant")) == 3
    browser.screenshot(shots, "real")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="?", metavar="PROGRAMS_FOLDER")
    parser.add_argument("model", nargs="?", metavar="MODEL")
    parser.add_argument("--if-present", action="store_true", help="end with 0 where there is no chromium")
    parser.add_argument("--screenshots", metavar="FOLDER")
    parser.add_argument("--only", metavar="NAME", help="the one test whose name holds this")
    flags = parser.parse_args()
    if missing := present():
        if flags.if_present:
            print(f"check_page: nothing was tried: {missing} is not here")
            return 0
        sys.exit(f"check_page: error: {missing} is not here")
    if flags.screenshots:
        pathlib.Path(flags.screenshots).mkdir(parents=True, exist_ok=True)

    browser, scripted, failed = Browser(), scripted_server.ScriptedServer(), []

    def attempt(test, server):
        try:
            browser.requested()
            test(browser, server, flags.screenshots)
            elsewhere = [address for address in browser.requested() if not address.startswith((f"http://127.0.0.1:{server.port}/", "data:"))]
            assert not elsewhere, f"asked elsewhere: {elsewhere}"
            complaints = browser.complaints()
            assert not complaints, f"the browser says: {complaints}"
            print(f"ok    {test.__name__.replace('_', ' ')}", flush=True)
        except Exception as error:  # whatever goes wrong in a browser, the next test is tried
            failed.append(test.__name__)
            print(f"WRONG {test.__name__.replace('_', ' ')}: {error}", flush=True)
            traceback.print_exc()
            browser.screenshot(flags.screenshots, "wrong-" + test.__name__)

    chosen = lambda test: not flags.only or flags.only in test.__name__
    try:
        for test in filter(chosen, SCRIPTED):
            scripted.reset()
            browser.open(scripted.url)
            browser.forget()
            browser.open(scripted.url)
            browser.complaints()
            attempt(test, scripted)
            if scripted.unexpected:
                failed.append(test.__name__)
                print(f"WRONG the page asked for {scripted.unexpected}")
        tried = len(list(filter(chosen, SCRIPTED)))
        if flags.programs and flags.model and chosen(a_chat_with_vga_server):
            tried += 1
            server = Server(pathlib.Path(flags.programs) / "vga-server", flags.model, "--parallel", "2", "--window", "256",
                            "--chat-template", "vicuna")  # made of words: any model can read it
            try:
                attempt(a_chat_with_vga_server, server)
            finally:
                server.stop()
    finally:
        browser.driver.quit()
    print(f"check_page: {tried - len(set(failed))} of {tried} as they should be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
