"""vga-servers under test, clients that see what goes over the wire, and what is checked of it."""
import atexit
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

patience = 30  # seconds that any one answer may take


class Answer:
    """What came back of a request: status, headers, body (bytes), json where it is JSON."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.json = None
        if self.body and "json" in self.headers.get("Content-Type", ""):
            self.json = json.loads(self.body.decode("utf-8", "strict"))

    @property
    def error(self):
        return (self.json or {}).get("error", {})


class Stream:
    """An answer that comes in events. Each is (seconds since the request, text of its data line)."""

    def __init__(self, connection, response, began):
        self.connection, self.response, self.began = connection, response, began
        self.status, self.headers = response.status, response.headers
        self.events = []

    def __iter__(self):
        while line := self.response.readline():
            if not line.endswith(b"\n"):
                raise AssertionError(f"a torn line: {line[:80]!r}")
            if line.startswith(b"data: "):
                event = (time.monotonic() - self.began, line[6:].strip().decode("utf-8", "strict"))
                self.events.append(event)
                yield event
            elif line.strip() and not line.startswith(b":"):
                raise AssertionError(f"neither data nor a comment: {line[:80]!r}")

    def first(self, pieces=1):
        """Reads until so many events with text have come."""
        for _, text in self:
            pieces -= piece_of(text) != ""
            if pieces <= 0:
                return self
        raise AssertionError(f"the stream ended early: {self.events[-1:]}")

    def rest(self):
        for _ in self:
            pass
        self.close()
        return self

    def close(self):
        with contextlib.suppress(OSError):
            self.response.close()
        self.connection.close()

    @property
    def chunks(self):
        return [json.loads(text) for _, text in self.events if text != "[DONE]"]

    @property
    def done(self):
        return bool(self.events) and self.events[-1][1] == "[DONE]"

    @property
    def text(self):
        return "".join(piece_of(text) for _, text in self.events)

    @property
    def finish_reason(self):
        reasons = [c["choices"][0]["finish_reason"] for c in self.chunks if c.get("choices")]
        early = [r for r in reasons[:-1] if r is not None]
        if early:
            raise AssertionError(f"finish_reason {early} before the last chunk")
        return reasons[-1] if reasons else None

    @property
    def usage(self):
        return next((c["usage"] for c in self.chunks if c.get("usage")), None)

    def piece_times(self):
        return [at for at, text in self.events if piece_of(text)]


def piece_of(event):
    if event == "[DONE]":
        return ""
    choices = json.loads(event).get("choices") or [{}]
    return choices[0].get("text") or (choices[0].get("delta") or {}).get("content") or ""


class Server:
    """A running vga-server, its log in a file."""

    def __init__(self, program, model, *options, port=0, wait=True):
        self.log_file = tempfile.NamedTemporaryFile(suffix=".log")
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [program, "-m", model, "--port", str(port), *options],
            stdout=subprocess.PIPE, stderr=self.log_file, stdin=subprocess.DEVNULL)
        atexit.register(self.stop)  # An interrupted run leaves none behind.
        self.key = None
        self.address_line = ""
        self.port = port
        self.printed = bytearray()
        self.listens = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if wait:
            self.wait_ready()

    def _read(self):
        for line in self.process.stdout:
            self.printed += line
            if not self.listens.is_set():
                self.address_line = line.decode()
                if found := re.fullmatch(r"listening on http://[\w.\[\]:]+:(\d+)\n", self.address_line):
                    self.port = int(found[1])
                self.listens.set()
        self.listens.set()

    def wait_ready(self):
        assert self.listens.wait(patience), "it never said that it listens"
        assert self.address_line and self.port, f"no address line but {self.address_line!r}; log: {self.log()[-500:]}"
        wait_until(self.is_well, "/health is never 200")

    def is_well(self):
        assert self.process.poll() is None, f"it ended, exit {self.process.returncode}: {self.log()[-500:]}"
        return self.get("/health").status == 200

    def log(self):
        return pathlib.Path(self.log_file.name).read_text(errors="replace") + self.printed.decode(errors="replace")

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience)

    def request(self, method, path, body=None, headers=None, connection=None):
        own = connection or self.connect()
        headers = dict(headers or {})
        if self.key and "Authorization" not in headers:
            headers["Authorization"] = f"Bearer {self.key}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        own.request(method, path, body, headers)
        answer = Answer(own.getresponse())
        if connection is None:
            own.close()
        return answer

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, body, **more):
        return self.request("POST", path, body, **more)

    def text(self, prompt, **fields):
        return self.post("/v1/completions", {"prompt": prompt, **fields})

    def chat(self, messages, **fields):
        return self.post("/v1/chat/completions", {"messages": said(messages), **fields})

    def stream(self, path, fields):
        connection = self.connect()
        began = time.monotonic()
        connection.request("POST", path, json.dumps({"stream": True, **fields}).encode(),
                           {"Content-Type": "application/json"})
        return Stream(connection, connection.getresponse(), began)

    def stream_text(self, prompt, **fields):
        return self.stream("/v1/completions", {"prompt": prompt, **fields})

    def stream_chat(self, messages, **fields):
        return self.stream("/v1/chat/completions", {"messages": said(messages), **fields})

    def raw(self, data, timeout=4.0):
        """Sends bytes as they are; what came back until the server closed, or time was up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as sock:
            back = bytearray()
            with contextlib.suppress(OSError):
                sock.sendall(data)
                while part := sock.recv(65536):
                    back += part
            return bytes(back)

    def metrics(self):
        """Samples of /metrics: {name with labels: value}."""
        text = self.get("/metrics").body.decode()
        return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")}

    def running(self):
        return self.metrics()["vga_requests_running"]

    def memory(self):
        """Resident MiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def signal(self, number):
        self.process.send_signal(number)

    def wait_exit(self, seconds):
        return self.process.wait(seconds)

    def stop(self):
        if self.process.poll() is None:
            self.signal(signal.SIGINT)
            time.sleep(0.05)
            self.signal(signal.SIGINT)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log_file.close()


def said(messages):
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def wait_until(condition, what, seconds=patience):
    """Polls; connections refused on the way count as not yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionError):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError(f"{what} within {seconds} s")


def at_once(calls):
    """Makes all calls, each in a thread of its own; their results in order."""
    results = [None] * len(calls)

    def make(i):
        try:
            results[i] = calls[i]()
        except BaseException as error:  # It is raised again below, where it is seen.
            results[i] = error

    threads = [threading.Thread(target=make, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * patience)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


key = "a-key-that-nobody-guesses"
# What several rows need is started once, by the first of them.
configurations = {
    "main": ["--parallel", "8", "-c", "2048", "--queue", "32", "--alias", "stories"],
    "small": ["--parallel", "4", "-c", "512"],
    "window": ["--parallel", "1", "--window", "256", "--keep", "4", "--queue", "2"],
    "limits": ["--parallel", "2", "--window", "256", "--max-body", "1048576", "--header-timeout", "2",
               "--body-timeout", "2", "--write-timeout", "2"],
    "key": ["--parallel", "1", "--api-key", key, "--cors-origin", "https://good.example"],
}


class where:
    """What is tested; check_server.py says it."""
    program = pathlib.Path("vga-server")
    model = ""


servers = {}
ended = []  # what is known of servers that ended by themselves


def server(name):
    if name in servers and servers[name].process.poll() is not None:
        dead = servers.pop(name)
        ended.append(f"{name}: exit {dead.process.returncode}: {dead.log()[-500:]}")
        dead.stop()
    if name not in servers:
        servers[name] = start(*configurations[name], wait=False)
        servers[name].key = key if name == "key" else None
        servers[name].wait_ready()
    return servers[name]


def start(*options, **more):
    return Server(where.program, where.model, "--chat-template", "chatml", *options, **more)


@contextlib.contextmanager
def started(*options, **more):
    own = start(*options, **more)
    try:
        yield own
    finally:
        own.stop()


def equal(found, wanted, what):
    assert found == wanted, f"{what}: wanted {wanted!r}, found {found!r}"


def check(condition, what):
    assert condition, what


def check_error(answer, status, param=None, what=""):
    """An error as OpenAI's clients read it."""
    equal(answer.status, status, f"{what} status")
    check(answer.json is not None, f"{what}: the error is not JSON: {answer.body[:80]!r}")
    equal(set(answer.error), {"message", "type", "param", "code"}, f"{what} keys of the error")
    check(isinstance(answer.error["message"], str) and answer.error["message"], f"{what}: no message")
    kinds = {401: "authentication_error", 404: "not_found_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    equal(answer.error["type"], kind, f"{what} type")
    if param is not None:
        check(str(answer.error["param"]).startswith(param), f"{what}: param {answer.error['param']!r}, wanted {param!r}")


def ok(answer):
    equal(answer.status, 200, f"status ({answer.body[:200]!r})")
    return answer.json


def text_of(answer):
    choice = ok(answer)["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


def cached(answer):
    return ok(answer)["usage"]["prompt_tokens_details"]["cached_tokens"]


def long_text(sentences, first="Once upon a time"):
    """About 11 tokens a sentence, none like another."""
    names = ["Lily", "Tom", "Sam", "Mia", "Ben", "Anna", "Max", "Sue", "Tim", "Jane", "Bob"]
    things = ["ball", "tree", "dog", "house", "boat", "hat", "bird", "cake", "star", "book", "frog", "door", "cup"]
    return first + "".join(f" {names[i % 11]} saw a {things[i % 13]} and number {i} was nice." for i in range(sentences))


greedy = {"temperature": 0, "ignore_eos": True}
endless = {"max_tokens": 1_000_000, "ignore_eos": True, "seed": 1}
