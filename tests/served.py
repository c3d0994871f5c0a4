"""Starts vga-server and talks to it: what the tests of the server share. Standard library only."""
import dataclasses
import http.client
import json
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

HOST = "127.0.0.1"


@dataclasses.dataclass
class Answer:
    """What came back for a request; names of headers are in lower case."""
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]

    def expect(self, status=200):
        assert self.status == status, f"wanted status {status}, found {self.status}: {self.body[:300]!r}"
        return self


class Stream:
    """An answer that comes as events: iterating gives each one's data, parsed, until [DONE] or the end."""

    def __init__(self, port, path, fields, headers, timeout):
        self.connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
        self.connection.request("POST", path, json.dumps({**fields, "stream": True}),
                                {"Content-Type": "application/json", **headers})
        self.socket = self.connection.sock  # http.client lets go of it when the answer says close
        self.response = self.connection.getresponse()
        self.status = self.response.status
        self.headers = {name.lower(): value for name, value in self.response.getheaders()}
        self.done = False   # whether [DONE] came
        self.times = []     # when each event came
        self.comments = []

    def __iter__(self):
        data = []
        for raw in self.response:
            line = raw.decode("utf-8").rstrip("\n")  # what is not valid UTF-8 fails here
            if line.startswith(":"):
                self.comments.append(line)
            elif line.startswith("data: "):
                data.append(line[6:])
            elif line == "" and data:
                self.times.append(time.monotonic())
                text, data = "\n".join(data), []
                if text == "[DONE]":
                    self.done = True
                    continue
                assert not self.done, f"an event after [DONE]: {text}"
                yield json.loads(text)
        assert not data, f"the stream ends inside of an event: {data}"

    def next(self):
        """The next event that has a piece of text."""
        for event in self:
            if piece_of(event):
                return event
        raise AssertionError("the stream ended before a text came")

    def leave(self):
        """As a client that is killed: the kernel resets the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.response.close()
        self.connection.close()
        self.socket.close()


def piece_of(event):
    """The text that an event of either endpoint adds, of its first choice."""
    if not event.get("choices"):
        return ""
    choice = event["choices"][0]
    return choice["delta"].get("content") or "" if "delta" in choice else choice.get("text") or ""


class Server:
    """A running vga-server; use with `with`."""

    def __init__(self, programs, model, *flags, ready=True, headers=None):
        self.headers = headers or {}
        self.log_file = tempfile.TemporaryFile()
        command = [str(pathlib.Path(programs) / "vga-server"), "-m", str(model), "--port", "0", *map(str, flags)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log_file)
        # The pipe is read to its end, so that a server that says much never waits for us.
        self.first_line = self.process.stdout.readline().decode()
        self.rest = []
        self.reader = threading.Thread(target=lambda: self.rest.extend(self.process.stdout), daemon=True)
        self.reader.start()
        found = re.fullmatch(r"listening on http://([^ ]+):(\d+)\n", self.first_line)
        if not found:
            self.stop(signal.SIGKILL)
            raise AssertionError(f"wanted 'listening on http://HOST:PORT', found {self.first_line!r}; it says: {self.log}")
        self.port = int(found[2])
        if ready:
            self.wait_until_ready()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)

    @property
    def url(self):
        return f"http://{HOST}:{self.port}"

    @property
    def log(self):
        """Everything said so far, on either output."""
        self.log_file.seek(0)
        return self.first_line + b"".join(self.rest).decode(errors="replace") + self.log_file.read().decode(errors="replace")

    def stop(self, how=signal.SIGTERM, seconds=40):
        """The exit status after this signal."""
        self.process.send_signal(how)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still there {seconds} s after {signal.Signals(how).name}") from None

    def wait_until_ready(self, seconds=60):
        wait_for(lambda: self.request("GET", "/health").status == 200, "the server to be ready", seconds)

    def request(self, method, path, body=None, headers=None, timeout=60):
        """One request on a connection of its own. A body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        all_headers = {**({"Content-Type": "application/json"} if body is not None else {}), **self.headers, **(headers or {})}
        try:
            connection.request(method, path, body, all_headers)
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, **fields):
        return self.request("POST", path, fields)

    def complete(self, prompt, **fields):
        return self.post("/v1/completions", prompt=prompt, **fields)

    def chat(self, messages, **fields):
        return self.post("/v1/chat/completions", messages=as_messages(messages), **fields)

    def stream(self, prompt, timeout=60, **fields):
        return Stream(self.port, "/v1/completions", {"prompt": prompt, **fields}, self.headers, timeout)

    def stream_chat(self, messages, timeout=60, **fields):
        return Stream(self.port, "/v1/chat/completions", {"messages": as_messages(messages), **fields}, self.headers, timeout)

    def connect(self, timeout=20):
        """A bare connection, for what no client library would send."""
        return socket.create_connection((HOST, self.port), timeout)

    def send(self, data, timeout=20):
        """Sends bytes and returns everything that comes back until the server closes or says nothing for the time given."""
        with self.connect(timeout) as connection:
            try:
                connection.sendall(data)
                return read_all(connection)
            except (ConnectionResetError, BrokenPipeError):
                return b""

    def metrics(self):
        """The numbers of /metrics: name with its labels -> value."""
        numbers = {}
        for line in self.get("/metrics").expect().body.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                numbers[name] = float(value)
        return numbers

    def memory(self):
        """Bytes of it that are in memory."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def files(self):
        """How many files it has open."""
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))


def as_messages(messages):
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def read_all(connection):
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except (TimeoutError, ConnectionResetError):
        pass
    return b"".join(parts)


def wait_for(condition, what, seconds=20):
    """Asks until the condition is true and returns what it was."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except OSError:  # no connection yet
            pass
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)
