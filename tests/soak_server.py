"""Lets clients come, go, stall, send rubbish and be killed at a vga-server for a long time, and watches what that leaves behind.

    python3 tests/soak_server.py PROGRAMS_FOLDER MODEL [--minutes 60] [--clients 8] [--seed 1]

PROGRAMS_FOLDER holds vga-server, which under a thread sanitizer may be slow; MODEL is models/vga-stories as a GGUF file.
Each client chooses what to do next at random, again and again. What is to be as it was when nobody else asked, is: every
whole answer is compared with what the server said before the crowd came. Prints a line a minute, and ends with 1 if an
answer was wrong or missing, if memory or files grew, or if the metrics do not add up.
"""
import argparse
import collections
import contextlib
import http.client
import json
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import server_under_test as under_test
from server_under_test import check, equal, greedy, long_text, started, text_of, wait_until, where

PROMPTS = [long_text(n, first) for n, first in ((0, "Once upon a time"), (3, "The dog"), (9, "One day"), (40, "Lily was sad."))]
CHATS = [[{"role": "user", "content": "Tell me a story."}],
         [{"role": "system", "content": long_text(12)}, {"role": "user", "content": "Who saw the boat?"}]]
LENGTHS = (1, 8, 60)
BROKEN_HTTP = [b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 64,
               b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
               b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
               b"GET / HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 40_000 + b"\r\n\r\n"]
BAD_BODIES = [b"", b"{", b"[]", b'{"prompt": 3.5}', b'{"prompt": "a", "temperature": -1}', b'{"prompt": "a", "suffix": "b"}',
              b'{"prompt": "a", "n": 0}', b"[" * 3000, b'{"prompt": "\xff"}', b'{"prompt": "a", "stop": ' + b'["x"],' * 40 + b"}"]
# A process of its own that asks, says when the first piece came, and waits to be killed.
VICTIM = """
import json, socket, sys, time
body = json.dumps({"prompt": "Once", "stream": True, "max_tokens": 100000, "ignore_eos": True}).encode()
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"POST /v1/completions HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
while b"data:" not in s.recv(65536): pass
print("answered", flush=True)
time.sleep(100)
"""


class Crowd:
    """What all clients share: the server, what it said alone, and the counts of what was seen."""

    def __init__(self, server, flags):
        self.server, self.flags, self.stopping = server, flags, threading.Event()
        self.lock = threading.Lock()
        self.done, self.faults = collections.Counter(), []
        self.statuses = collections.Counter()      # of answers that were read to their end
        self.tokens = 0                            # generated in those
        self.unread_tokens = 0                     # at most so many in those whose client did not stay
        self.alone = {}

    def fill_caches(self):
        """The CPU takes a cache's memory as it fills, so each sequence is filled once before memory is watched."""
        # Under a thread sanitizer that takes minutes.
        patient = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20 * under_test.patience)
        answer = self.server.post("/v1/completions", {"prompt": "Once", "n": 8, "max_tokens": 4000, "ignore_eos": True}, connection=patient)
        patient.close()
        equal({choice["finish_reason"] for choice in answer.json["choices"]}, {"length"}, "how answers end that fill their context")

    def say_alone(self):
        for i, length in self.questions():
            self.alone["text", i, length] = text_of(self.server.text(PROMPTS[i], **asked(length)))
        for i, chat in enumerate(CHATS):
            self.alone["chat", i] = text_of(self.server.chat(chat, **asked(40)))

    def questions(self):
        return [(i, length) for i in range(len(PROMPTS)) for length in LENGTHS]

    def count(self, status, tokens=0):
        with self.lock:
            self.statuses[status] += 1
            self.tokens += tokens

    def leave(self, tokens):
        with self.lock:
            self.unread_tokens += tokens

    def run(self, number):
        source = random.Random(1000 * self.flags.seed + number)
        while not self.stopping.is_set():
            deed = source.choices(list(DEEDS), weights=list(DEEDS.values()))[0]
            try:
                deed(self, source)
            except Exception as error:  # Whatever it is, it is told of at the end.
                with self.lock:
                    self.faults.append(f"{deed.__name__}: {type(error).__name__}: {str(error)[:300]}")
            with self.lock:
                self.done[deed.__name__] += 1


def asked(length):
    return {"max_tokens": length, **greedy}


def ask(crowd, source):
    i, length = source.choice(crowd.questions())
    answer = crowd.server.text(PROMPTS[i], **asked(length))
    equal(text_of(answer), crowd.alone["text", i, length], "a plain answer")
    equal(answer.json["usage"]["completion_tokens"], length, "tokens of a plain answer")
    crowd.count(200, length)


def ask_for_more(crowd, source):
    length = source.choice(LENGTHS)
    chosen = source.sample(range(len(PROMPTS)), 2)
    answer = crowd.server.text([PROMPTS[i] for i in chosen], n=2, **asked(length))
    equal(answer.status, 200, f"status ({answer.body[:200]!r})")
    texts = [choice["text"] for choice in sorted(answer.json["choices"], key=lambda choice: choice["index"])]
    equal(texts, [crowd.alone["text", i, length] for i in chosen for _ in range(2)], "two prompts, two answers each")
    crowd.count(200, 4 * length)


def converse(crowd, source):
    i = source.randrange(len(CHATS))
    messages = list(CHATS[i])
    for turn in range(source.randint(1, 4)):
        answer = crowd.server.chat(messages, **asked(40))
        said = text_of(answer)
        if turn == 0:
            equal(said, crowd.alone["chat", i], "the first answer of a chat")
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]
        crowd.count(200, 40)


def read_stream(crowd, source, pause=0.0):
    i, length = source.choice(crowd.questions())
    stream = crowd.server.stream_text(PROMPTS[i], stream_options={"include_usage": True}, **asked(length))
    equal(stream.status, 200, "status of a stream")
    for _ in stream:
        if pause and source.random() < 0.1:
            time.sleep(pause)
    stream.close()
    check(stream.done, f"a stream without [DONE]: {stream.events[-1:]}")
    equal(stream.text, crowd.alone["text", i, length], "a stream's text")
    equal(stream.usage["completion_tokens"], length, "tokens of a stream")
    crowd.count(200, length)


def read_slowly(crowd, source):
    read_stream(crowd, source, pause=source.choice((0.1, 1.0)))


def leave_a_stream(crowd, source):
    length = 20_000
    stream = crowd.server.stream_text(source.choice(PROMPTS), **asked(length))
    crowd.leave(length)
    with contextlib.closing(stream):
        stream.first(source.randint(1, 40))


def leave_at_once(crowd, source):
    connection = crowd.server.connect()
    crowd.leave(2000)
    body = json.dumps({"prompt": source.choice(PROMPTS), "stream": source.random() < 0.5, **asked(2000)})
    connection.request("POST", "/v1/completions", body)
    time.sleep(source.choice((0, 0.01, 0.3)))
    connection.close()


def never_read(crowd, source):
    """Asks for much, takes nothing for a while, and goes."""
    crowd.leave(20_000)
    body = json.dumps({"prompt": "Once", "stream": True, **asked(20_000)}).encode()
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", crowd.server.port))
        stalled.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        crowd.stopping.wait(source.uniform(1, 5))


def be_killed(crowd, source):
    crowd.leave(100_000)
    with subprocess.Popen([sys.executable, "-c", VICTIM, str(crowd.server.port)], stdout=subprocess.PIPE) as victim:
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(victim.kill)
            equal(victim.stdout.readline(), b"answered\n", "what a client says before it is killed")
            time.sleep(source.uniform(0, 0.2))


def send_broken_http(crowd, source):
    back = crowd.server.raw(source.choice(BROKEN_HTTP), timeout=8)
    check(b" 200 " not in back[:32], f"broken HTTP is answered {back[:80]!r}")


def send_bad_request(crowd, source):
    answer = crowd.server.post("/v1/completions", source.choice(BAD_BODIES))
    equal(answer.status, 400, f"status of a bad request ({answer.body[:100]!r})")
    check(answer.error.get("message"), "an error without a message")
    crowd.count(400)


def half_a_request(crowd, source):
    with socket.create_connection(("127.0.0.1", crowd.server.port)) as half:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"prompt\"")
        crowd.stopping.wait(source.uniform(0, 2))


def look(crowd, source):
    path = source.choice(("/health", "/props", "/slots", "/metrics", "/v1/models", "/"))
    answer = crowd.server.get(path)
    equal(answer.status, 200, path)
    crowd.count(200)


# What clients do, and how often.
DEEDS = {ask: 10, ask_for_more: 3, converse: 5, read_stream: 10, read_slowly: 2, leave_a_stream: 6, leave_at_once: 6,
         never_read: 1, be_killed: 1, send_broken_http: 3, send_bad_request: 4, half_a_request: 2, look: 4}


def at_rest(server):
    metrics = server.metrics()
    return metrics["vga_requests_running"] == 0 and metrics["vga_requests_waiting"] == 0


def check_metrics(crowd, before, after):
    """Counters have all that clients read to its end, and at most what the others may have caused beside it."""
    def grown(name):
        return after.get(name, 0) - before.get(name, 0)

    generated = grown("vga_generation_tokens_total")
    check(crowd.tokens <= generated <= crowd.tokens + crowd.unread_tokens,
          f"clients read {crowd.tokens} tokens and left at most {crowd.unread_tokens}, the metrics have {generated:.0f}")
    for status, count in crowd.statuses.items():
        counted = grown(f'vga_requests_total{{status="{status}"}}')
        check(counted >= count, f"clients saw {count} answers of status {status}, the metrics have {counted:.0f}")
    equal(grown('vga_requests_total{status="500"}'), 0, "answers of status 500")
    equal(grown("vga_step_rows_count"), grown("vga_steps_total"), "steps in the histogram")
    check(grown("vga_queue_time_seconds_count") >= crowd.statuses[200] / 4, "answers in the histogram of queue times")


def watch(crowd, minutes):
    """A line a minute. Returns memory in MiB, a number a second."""
    server, memory, began, said = crowd.server, [], time.monotonic(), 0
    print(f"{'minute':>6} {'deeds':>7} {'tokens':>9} {'MiB':>7} {'files':>5} {'faults':>6}", flush=True)
    while (now := time.monotonic() - began) < 60 * minutes and server.process.poll() is None:
        memory.append(server.memory())
        if now >= 60 * (said + 1):
            said += 1
            print(f"{said:6} {sum(crowd.done.values()):7} {crowd.tokens:9} {memory[-1]:7.1f} {server.files():5} {len(crowd.faults):6}",
                  flush=True)
        time.sleep(1)
    return memory


def soak(flags):
    options = ["--parallel", "8", "-c", "2048", "--queue", "64", "--header-timeout", "4", "--body-timeout", "4"]
    with started(*options) as server:
        crowd = Crowd(server, flags)
        crowd.fill_caches()
        crowd.say_alone()
        wait_until(lambda: at_rest(server), "nothing runs")
        before, files = server.metrics(), server.files()
        clients = [threading.Thread(target=crowd.run, args=(i,), daemon=True) for i in range(flags.clients)]
        for client in clients:
            client.start()
        memory = watch(crowd, flags.minutes)
        crowd.stopping.set()
        for client in clients:
            client.join(4 * under_test.patience)
        faults = crowd.faults
        for problem in (lambda: equal(server.process.poll(), None, "exit status of the server"),
                        lambda: equal(sum(client.is_alive() for client in clients), 0, "clients that never got an end"),
                        lambda: wait_until(lambda: at_rest(server), "nothing runs"),
                        lambda: wait_until(lambda: server.files() <= files, f"open files fall to {files}"),
                        lambda: check_metrics(crowd, before, server.metrics()),
                        lambda: check_memory(memory)):
            try:
                problem()
            except Exception as error:  # The others are looked at nevertheless.
                faults.append(f"{type(error).__name__}: {error}")
        server.signal(signal.SIGTERM)
        try:
            equal(server.wait_exit(under_test.patience), 0, "exit status at the end")
        except (subprocess.TimeoutExpired, AssertionError) as error:
            faults.append(str(error))
        if "WARNING: ThreadSanitizer" in (log := server.log()):
            faults.append(log[log.index("WARNING: ThreadSanitizer"):][:4000])
    print("done: " + ", ".join(f"{name} {count}" for name, count in crowd.done.most_common()))
    print("answers read to their end: " + ", ".join(f"{count} of status {status}" for status, count in sorted(crowd.statuses.items())))
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


def check_memory(memory):
    """The last tenth takes no more than the second, after which all that is allocated once has been."""
    tenth = len(memory) // 10
    if tenth >= 60:
        early, late = max(memory[tenth:2 * tenth]), max(memory[-tenth:])
        print(f"memory: {early:.1f} MiB at most in the second tenth, {late:.1f} in the last")
        check(late <= early + 4, f"memory grew from {early:.1f} to {late:.1f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=pathlib.Path, metavar="PROGRAMS_FOLDER")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    where.program, where.model = flags.programs / "vga-server", flags.model
    under_test.patience = 120  # a crowd, and maybe a sanitizer
    return soak(flags)


if __name__ == "__main__":
    sys.exit(main())
