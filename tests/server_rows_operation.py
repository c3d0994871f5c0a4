"""How vga-server runs: the rows of starting, leaving, limits, HTTP, keys, logs and metrics."""
import contextlib
import json
import re
import signal
import socket
import subprocess
import tempfile
import time

from server_under_test import (
    at_once, check, check_error, endless, equal, key, ok, server, started, wait_until, where)


def row_1_health_while_loading():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started("--parallel", "1", port=port, wait=False) as s:
        seen = []
        while time.monotonic() < s.began + 20 and seen[-1:] != [(200, "ok")]:
            try:
                answer = s.get("/health")
                seen.append((answer.status, answer.json["status"]))
            except ConnectionRefusedError:
                check(not seen, "refused after it had answered")
        check(seen[-1:] == [(200, "ok")], f"never well: {seen[-3:]}")
        equal(set(seen[:-1]) - {(503, "loading")}, set(), "other answers than loading and ok")


def row_2_address_line():
    s = server("main")
    equal(s.address_line, f"listening on http://127.0.0.1:{s.port}\n", "first line")
    check(s.port > 0, "port 0")
    equal(ok(s.get("/health"))["status"], "ok", "status")


def row_3_bad_starts():
    def run(*options, of=None):
        done = subprocess.run([where.program, "-m", of or rubbish.name, *options],
                              capture_output=True, text=True, timeout=20)
        check(done.returncode > 0, f"{options}: exit {done.returncode}")
        equal(done.stdout, "", f"{options} stdout")
        equal(len(done.stderr.strip().splitlines()), 1, f"lines of {done.stderr!r}")
        return done.stderr

    # Nothing can be loaded from rubbish, so an error about a flag shows that it came before loading.
    with tempfile.NamedTemporaryFile(suffix=".gguf") as rubbish, socket.socket() as taken:
        rubbish.write(b"rubbish" * 100)
        rubbish.flush()
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        check(port in (said := run("--port", port)) and "rubbish" not in said, f"port taken: {said}")
        check("parallel" in (said := run("--port", "0", "--parallel", "0")), f"--parallel 0: {said}")
        check("--nonsense" in (said := run("--port", "0", "--nonsense")), f"unknown flag: {said}")
        check("absent.gguf" in (said := run("--port", "0", of="/absent.gguf")), f"no such file: {said}")


def row_4_drain():
    with started("--parallel", "2", "--window", "256") as s:
        stream = s.stream_text("Once", max_tokens=400, ignore_eos=True, stream_options={"include_usage": True}).first(3)
        s.signal(signal.SIGTERM)
        time.sleep(0.05)
        try:
            check_error(s.text("No", max_tokens=1), 503, what="new request")
        except (ConnectionError, OSError):
            pass
        stream.rest()
        check(stream.done, "the stream that ran has no [DONE]")
        equal((stream.finish_reason, stream.usage["completion_tokens"]), ("length", 400), "what ran was cut")
        equal(s.wait_exit(5), 0, "exit")
    with started("--parallel", "1", "--window", "256", "--drain", "1") as s:
        stream = s.stream_text("Once", **endless).first(3)
        s.signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionError):
            stream.rest()
        equal(s.wait_exit(5), 0, "exit after --drain")
        check(stream.done or "error" in stream.chunks[-1], f"cut in silence: {stream.events[-1:]}")
    with started("--parallel", "1", "--window", "256") as s:
        stream = s.stream_text("Once", **endless).first(3)
        s.signal(signal.SIGINT)
        time.sleep(0.3)
        check(s.process.poll() is None, "the first SIGINT ended it while a stream ran")
        s.signal(signal.SIGINT)
        s.wait_exit(1)
        stream.close()


def row_18_leaving_frees_the_place():
    s = server("window")  # It has one sequence, so the next request waits for the one before.

    def next_starts(what, seconds=1.5):
        began = time.monotonic()
        ok(s.text("The dog", max_tokens=1))
        check((took := time.monotonic() - began) < seconds, f"the next waited {took:.2f} s after leaving {what}")
        wait_until(lambda: s.running() == 0, f"nothing runs after leaving {what}", 2)

    s.stream_text("Once", **endless).first(3).close()
    next_starts("a stream")
    for prompt, what in (("Once", "a plain answer"), ("Once upon a time " * 20000, "a prompt")):
        connection = s.connect()
        connection.request("POST", "/v1/completions", json.dumps({"prompt": prompt, **endless}))
        wait_until(lambda: s.running() == 1, f"{what} runs")
        connection.close()
        next_starts(what)


def posted(s, **fields):
    """A connection on which a request waits for its answer."""
    connection = s.connect()
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "Once", **fields}))
    return connection


def waiting(s, n):
    wait_until(lambda: s.metrics()["vga_requests_waiting"] == n, f"{n} wait", 3)


def row_19_leaving_the_queue():
    s = server("window")
    running = s.stream_text("Once", **endless).first(2)
    stays, leaves = posted(s, max_tokens=3), posted(s, max_tokens=3)
    waiting(s, 2)
    check_error(s.text("Once", max_tokens=1), 503, what="a full queue")
    leaves.close()
    waiting(s, 1)
    late = posted(s, max_tokens=3)
    waiting(s, 2)
    running.close()
    for connection in (stays, late):
        equal(connection.getresponse().status, 200, "an answer from the queue")
        connection.close()
    waiting(s, 0)


def row_20_full():
    s = server("window")
    running = s.stream_text("Once", **endless).first(2)
    queued = [posted(s, max_tokens=3) for _ in range(2)]
    waiting(s, 2)
    for fields in ({}, {"stream": True}):
        for answer in (s.text("Once", max_tokens=1, **fields), s.chat("Once", max_tokens=1, **fields)):
            check_error(answer, 503, what=f"full, {fields}")
            check(int(answer.headers["Retry-After"]) >= 1, "Retry-After")
    equal(ok(s.get("/health"))["status"], "ok", "/health")
    running.close()
    for connection in queued:
        equal(connection.getresponse().status, 200, "an answer from the queue")
        connection.close()


def row_21_client_that_never_reads():
    s = server("limits")
    ok(s.text("Once", max_tokens=5))
    before = s.memory()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", s.port))
        # Long events fill what lies between the two sooner.
        body = json.dumps({"prompt": "Once", "stream": True, "logprobs": 20, **endless}).encode()
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: s.running() == 1, "it runs")
        began = time.monotonic()
        while s.running() > 0:
            check(time.monotonic() < began + 25, "it still runs after 25 s")
            asked = time.monotonic()
            ok(s.text("The dog", max_tokens=20, ignore_eos=True))
            check((took := time.monotonic() - asked) < 2, f"another waited {took:.2f} s")
            check((grown := s.memory() - before) < 64, f"{grown:.0f} MiB more")
            time.sleep(0.1)


def row_29_wrong_paths():
    s = server("main")
    for path in ("/nope", "/v1", "/v1/completionsx", "/../etc/passwd", "/v1/models/../../x", "/%2e%2e/x", "/v1/models/none"):
        check_error(s.get(path), 404, what=path)
    for method, path, allowed in (("GET", "/v1/chat/completions", "POST"), ("PUT", "/v1/completions", "POST"),
                                  ("POST", "/health", "GET"), ("DELETE", "/v1/models", "GET"), ("GET", "/tokenize", "POST")):
        answer = s.request(method, path)
        check_error(answer, 405, what=f"{method} {path}")
        check(allowed in answer.headers.get("Allow", ""), f"{method} {path}: Allow {answer.headers.get('Allow')}")
    models = ok(s.get("/v1/models"))
    entry = models["data"][0]
    equal((models["object"], entry["id"], entry["object"], type(entry["created"])), ("list", "stories", "model", int), "models")
    equal(ok(s.get("/v1/models/stories"))["id"], "stories", "model")


def row_30_one_connection():
    s = server("main")
    connection = s.connect()
    connection.connect()
    connection.auto_open = 0  # A closed connection is an error instead of a new one.
    for i in range(8):
        body = {"prompt": "Hi", "max_tokens": 2} if i % 2 == 0 else {"prompt": "Hi", "temperature": -1}
        equal(s.post("/v1/completions", body, connection=connection).status, 200 if i % 2 == 0 else 400, f"request {i}")
    check_error(s.get("/nope", connection=connection), 404)
    ok(s.get("/health", connection=connection))
    connection.close()


def status_of(reply):
    """The status of a reply as bytes; 0 without one."""
    found = re.match(rb"HTTP/1\.[01] (\d\d\d)", reply)
    return int(found[1]) if found else 0


def row_31_large_bodies():
    s = server("limits")
    ok(s.text("Once", max_tokens=1))
    before = s.memory()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", s.port), timeout=4) as sock:
        sock.sendall(head + b"Content-Length: 1073741824\r\n\r\n")
        equal(status_of(sock.recv(4096)), 413, "1 GiB announced")
        check(time.monotonic() - began < 1, "the 413 came late")
    sent = 0
    with socket.create_connection(("127.0.0.1", s.port), timeout=4) as sock, contextlib.suppress(OSError):
        sock.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        while sent < 256 << 20:
            sock.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536
    check(sent < 16 << 20, f"{sent >> 20} MiB of chunks were taken, with a limit of 1")
    check((grown := s.memory() - before) < 16, f"{grown:.0f} MiB more")
    ok(s.get("/health"))


def row_32_broken_http():
    s = server("limits")
    good = b'{"prompt":"Hi","max_tokens":1}'
    post, size = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n", b"Content-Length: %d\r\n" % len(good)
    equal(status_of(s.raw(post + size + b"Connection: close\r\n\r\n" + good)), 200, "a whole request")
    chunk = b"%x\r\n" % len(good) + good + b"\r\n"
    coded = post + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    equal(status_of(s.raw(coded + chunk + b"0\r\n\r\n")), 200, "chunks")
    broken = {
        "length and chunks": post + size + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n",
        "chunks and length": post + b"Transfer-Encoding: chunked\r\n" + size + b"\r\n" + chunk + b"0\r\n\r\n",
        "two lengths": post + size + b"Content-Length: 5\r\n\r\n" + good,
        "the same length twice": post + size + size + b"\r\n" + good,
        "negative length": post + b"Content-Length: -5\r\n\r\n" + good,
        "length of no digits": post + b"Content-Length: abc\r\n\r\n" + good,
        "length beyond 64 bits": post + b"Content-Length: 99999999999999999999999\r\n\r\n" + good,
        "negative chunk": coded + b"-2\r\n" + good + b"\r\n0\r\n\r\n",
        "chunk of 2^64 bytes": coded + b"10000000000000000\r\n\r\n" + chunk + b"0\r\n\r\n",
        "chunk of 16 digits": coded + b"ffffffffffffffff\r\n" + good + b"\r\n0\r\n\r\n",
        "chunk without end": coded + b"%x\r\n" % len(good) + good + b"XX0\r\n\r\n",
        "bare line feeds": (post + size + b"\r\n").replace(b"\r\n", b"\n") + good,
        "gibberish": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "no version": b"GET /health\r\n\r\n",
        "other version": b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "two hosts": b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        "no host": b"GET /health HTTP/1.1\r\n\r\n",
        "no colon": b"GET /health HTTP/1.1\r\nHost: localhost\r\nrubbish\r\n\r\n",
        "blank before colon": b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
        "NUL in a header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        "unknown coding": post + b"Transfer-Encoding: gzip\r\n\r\n" + good,
        "body cut": post + b"Content-Length: 500\r\n\r\n" + good,
        "101 header lines": b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 101 + b"\r\n",
        "20 KiB of header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20480 + b"\r\n\r\n",
    }
    replies = at_once([lambda data=data: s.raw(data) for data in broken.values()])
    statuses = dict(zip(broken, map(status_of, replies)))
    taken = {name: status for name, status in statuses.items() if status and not 400 <= status < 600}
    check(not taken, f"answered well: {taken}")
    for name in ("101 header lines", "20 KiB of header"):
        equal(statuses[name], 431, name)
    older = post.replace(b"1.1", b"1.0") + b"Content-Length: %d\r\n\r\n"
    for body in (good, good[:-1] + b',"stream":true}'):  # HTTP/1.0 knows no chunks.
        reply = s.raw(older % len(body) + body)
        check(status_of(reply) == 200 and b"chunked" not in reply.lower(), f"a client of HTTP/1.0: {reply[:300]!r}")
    ok(s.get("/health"))


def row_33_slow_and_long_headers():
    s = server("limits")
    ok(s.text("Once", max_tokens=1))
    before, files = s.memory(), s.files()
    slow = [socket.create_connection(("127.0.0.1", s.port), timeout=4) for _ in range(100)]
    began, closed = time.monotonic(), 0
    for sock in slow:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    while slow and time.monotonic() < began + 5:  # The limit is 2 s in all, however often a byte comes.
        asked = time.monotonic()
        ok(s.text("The dog", max_tokens=2))
        check(time.monotonic() - asked < 2, "others waited")
        for sock in list(slow):
            try:
                sock.sendall(b"a")
            except OSError:
                slow.remove(sock)
                sock.close()
                closed += 1
        time.sleep(0.2)
    for sock in slow:
        sock.close()
    equal(closed, 100, "slow connections that were closed")
    reply = s.raw(b"GET /" + b"a" * (64 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    check(status_of(reply) in (0, 400, 414, 431), f"a line of 64 MiB: {reply[:40]!r}")
    check((grown := s.memory() - before) < 16, f"{grown:.0f} MiB more")
    wait_until(lambda: s.files() <= files + 2, f"{files} files are open as before", 5)


def row_34_expect_continue():
    s = server("main")
    body = b'{"prompt":"Hi","max_tokens":1}'
    with socket.create_connection(("127.0.0.1", s.port), timeout=4) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
                     b"Expect: 100-continue\r\n\r\n" % len(body))
        equal(status_of(sock.recv(4096)), 100, "before the body")
        sock.sendall(body)
        equal(status_of(sock.recv(4096)), 200, "after the body")


def row_35_many_that_break_off():
    s = server("limits")

    def thirty():
        for i in range(10):
            s.stream_text("Once", **endless).first(1).close()
            check_error(s.post("/v1/completions", b"{" * (i + 1)), 400)
            with socket.create_connection(("127.0.0.1", s.port)) as sock:
                sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")

    thirty()  # What is made once is there after these.
    wait_until(lambda: s.running() == 0, "nothing runs", 5)
    time.sleep(0.2)
    memory, files = s.memory(), s.files()
    for _ in range(3):
        thirty()
    wait_until(lambda: s.running() == 0, "nothing runs", 5)
    wait_until(lambda: s.files() <= files + 1, f"{files} files are open as before", 5)
    check((grown := s.memory() - memory) < 8, f"{grown:.1f} MiB more")


def row_36_origin_and_host():
    s = server("main")

    def allowed(answer):
        return [name for name in answer.headers if name.lower().startswith("access-control")]

    equal(allowed(s.get("/health", headers={"Origin": "https://evil.example"})), [], "headers for a foreign origin")
    for host in ("evil.example", "evil.example:80", f"127.0.0.1.evil.example:{s.port}", "localhost.evil.example"):
        for path in ("/health", "/v1/models", "/"):
            check_error(s.get(path, headers={"Host": host}), 403, what=f"Host {host} at {path}")
    for host in ("localhost", f"localhost:{s.port}", "127.0.0.1", f"[::1]:{s.port}", "[::1]"):
        ok(s.get("/v1/models", headers={"Host": host}))
    s = server("key")
    answer = s.get("/v1/models", headers={"Origin": "https://good.example"})
    equal(answer.headers.get("Access-Control-Allow-Origin"), "https://good.example", "--cors-origin")
    equal(allowed(s.get("/v1/models", headers={"Origin": "https://good.example.evil"})), [], "headers for another")
    answer = s.request("OPTIONS", "/v1/chat/completions", headers={
        "Origin": "https://good.example", "Access-Control-Request-Method": "POST", "Authorization": "",
        "Access-Control-Request-Headers": "authorization,content-type"})
    check(answer.status in (200, 204), f"OPTIONS: {answer.status}")
    check("authorization" in answer.headers.get("Access-Control-Allow-Headers", "").lower(), "OPTIONS: allowed headers")


def row_37_keys():
    s = server("key")
    for wrong in ("", "Bearer ", "Bearer wrong", f"Bearer {key}x", f"Bearer {key[:-1]}", f"Basic {key}", key[:-1]):
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/metrics"), ("GET", "/props")):
            check_error(s.request(method, path, b"{}" if method == "POST" else None, {"Authorization": wrong}), 401,
                        what=f"{wrong!r} at {path}")
    ok(s.get("/v1/models"))
    ok(s.text("Hi", max_tokens=1))
    for path in ("/health", "/"):
        equal(s.get(path, headers={"Authorization": ""}).status, 200, f"{path} without a key")
    check(key not in s.log(), "the key is in the log")
    with tempfile.NamedTemporaryFile(suffix=".key") as file:
        file.write(b"\xef\xbb\xbffrom-a-file\r\nand-another\n")  # as some editors save it
        file.flush()
        with started("--parallel", "1", "--api-key-file", file.name) as s:
            check_error(s.get("/v1/models"), 401)
            for s.key in ("from-a-file", "and-another"):
                ok(s.get("/v1/models"))


def row_38_secrets_stay_out_of_the_log():
    s = server("main")
    secret = "xyzzy-swordfish"
    ok(s.text(f"The word is {secret}", max_tokens=3))
    ok(s.chat(f"The word is {secret}", max_tokens=3, stop=[secret]))
    check_error(s.text(secret, temperature=secret), 400)
    s.post("/v1/completions", f'{{"prompt": "{secret}'.encode())
    s.get(f"/{secret}?key={secret}")
    s.stream_text(secret, **endless).first(1).close()
    time.sleep(0.2)
    check(secret not in s.log(), "what a user wrote is in the log")
    ok(s.get("/health"))
    check("GET /health 200" not in s.log(), "a log of probes that found all well")


def check_metrics_format(answer):
    equal(answer.headers["Content-Type"].replace(" ", "").split(";")[:2], ["text/plain", "version=0.0.4"], "type")
    text = answer.body.decode()
    check(text.endswith("\n"), "no line feed at the end")
    kinds, samples, family = {}, {}, None
    for line in text.splitlines():
        if found := re.fullmatch(r"# (HELP|TYPE) (\w+) (.+)", line):
            if found[1] == "TYPE":
                check(found[2] not in kinds, f"{found[2]} twice")
                kinds[found[2]] = found[3]
            family = found[2]
            continue
        label = r'\w+="(?:[^"\\\n]|\\["\\n])*"'
        found = re.fullmatch(rf"([a-zA-Z_:][\w:]*)(?:\{{({label}(?:,{label})*)?,?\}})? (\S+)", line)
        check(found, f"no sample: {line!r}")
        check(found[1] == family or re.sub("_(bucket|sum|count)$", "", found[1]) == family, f"{line!r} is not of {family}")
        samples[found[1], found[2] or ""] = float(found[3])
    for name, kind in kinds.items():
        check(kind in ("counter", "gauge", "histogram"), f"{name} is a {kind}")
        equal(name.endswith("_total"), kind == "counter", f"{name}, a {kind}, ends in _total")
        if kind == "histogram":
            buckets = [(re.search(r'le="([^"]+)"', labels)[1], v) for (n, labels), v in samples.items() if n == name + "_bucket"]
            equal([v for _, v in buckets], sorted(v for _, v in buckets), f"buckets of {name}")
            equal(buckets[-1], ("+Inf", samples[name + "_count", ""]), f"last bucket of {name}")
    return kinds


def row_39_metrics():
    s = server("main")
    wait_until(lambda: s.running() == 0, "nothing runs")
    kinds = check_metrics_format(s.get("/metrics"))
    counters = {"vga_prompt_tokens_total", "vga_cached_tokens_total", "vga_generation_tokens_total", "vga_evicted_tokens_total",
                "vga_requests_total", "vga_steps_total"}
    gauges = {"vga_requests_running", "vga_requests_waiting", "vga_sequences"}
    histograms = {"vga_time_to_first_token_seconds", "vga_inter_token_seconds", "vga_queue_time_seconds", "vga_request_seconds",
                  "vga_step_rows"}
    for names, kind in ((counters, "counter"), (gauges, "gauge"), (histograms, "histogram")):
        for name in names - {"vga_requests_total"}:
            equal(kinds.get(name), kind, name)
    before = s.metrics()
    answers = [ok(s.text("Once upon a time", max_tokens=7 + i, ignore_eos=True)) for i in range(2)]
    stream = s.stream_text("The dog", max_tokens=9, ignore_eos=True, stream_options={"include_usage": True}).rest()
    check_error(s.text("Hi", temperature=-1), 400)
    usages = [a["usage"] for a in answers] + [stream.usage]
    wait_until(lambda: s.running() == 0, "nothing runs")
    time.sleep(0.1)
    after = s.metrics()

    def grown(name):
        return after.get(name, 0) - before.get(name, 0)

    def summed(name):
        return sum(u[name] for u in usages)

    in_cache = sum(u["prompt_tokens_details"]["cached_tokens"] for u in usages)
    equal(grown("vga_generation_tokens_total"), summed("completion_tokens"), "generated tokens")
    equal(grown("vga_prompt_tokens_total"), summed("prompt_tokens"), "prompt tokens")
    equal(grown("vga_cached_tokens_total"), in_cache, "cached tokens")
    for name in ("vga_time_to_first_token_seconds", "vga_queue_time_seconds"):
        equal(grown(name + "_count"), 3, name)
    equal(grown("vga_inter_token_seconds_count"), summed("completion_tokens") - 3, "gaps between tokens")
    equal((grown('vga_requests_total{status="400"}') >= 1, grown('vga_requests_total{status="200"}') >= 3), (True, True),
          "requests by status")
    check(grown("vga_steps_total") > 0, "no steps")
    equal(grown("vga_step_rows_count"), grown("vga_steps_total"), "steps in the histogram")
    equal((after["vga_sequences"], after["vga_requests_waiting"]), (8, 0), "sequences, waiting")
    check_metrics_format(s.get("/metrics"))


def row_40_warning_without_a_key():
    def warned(*options):
        with started("--parallel", "1", *options, wait=False) as s:
            s.listens.wait(20)
            wait_until(lambda: s.get("/health").status == 200, "/health is never 200")
            return "--api-key" in s.log() and "warning" in s.log().lower()

    check(warned("--host", "0.0.0.0"), "no warning that names --api-key")
    check(not warned("--host", "0.0.0.0", "--api-key", key), "a warning despite a key")
    check(not warned(), "a warning on loopback")


def row_41_what_holds_up_nobody():
    s = server("main")
    # A body whose form is not known is not the next request.
    hidden = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    back = s.raw(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n" + hidden)
    check(back.startswith(b"HTTP/1.1 400") and back.count(b"HTTP/1.1") == 1, f"unknown transfer encoding: {back[:300]!r}")
    back = s.raw(b"\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    check(back.startswith(b"HTTP/1.1 200"), f"empty lines before a request: {back[:100]!r}")
    # Who leaves is noticed, also behind a byte of the next request.
    wait_until(lambda: s.running() == 0, "nothing runs")
    body = json.dumps({"prompt": "Once", "max_tokens": 100000, "ignore_eos": True}).encode()
    w = server("window")
    with socket.create_connection(("127.0.0.1", w.port)) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body + b"\r\n")
        wait_until(lambda: w.running() == 1, "it never runs")
    wait_until(lambda: w.running() == 0, "goes on for a client that left", seconds=5)
    # Each empty object once made the parser look at all before it.
    began = time.monotonic()
    ok(s.post("/tokenize", {"content": "a", "x": [{}] * 100000}))
    check(time.monotonic() - began < 3, f"300 KB of JSON took {time.monotonic() - began:.1f} s")
    # A penalty that makes logits infinite is refused; what else runs is not told of it.
    check_error(s.text("Once", repeat_penalty=1e-38), 400, "repeat_penalty")
    done = subprocess.run([where.program, "-m", where.model, "--port", "0", "--api-key", ""], capture_output=True, text=True, timeout=20)
    check(done.returncode > 0 and "--api-key" in done.stderr, f"an empty key: exit {done.returncode}, {done.stderr!r}")
