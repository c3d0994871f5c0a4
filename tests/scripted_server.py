"""A server that says what a test wrote for it: the page is shown answers that no model gives on demand."""
import base64
import hashlib
import http.server
import json
import pathlib
import re
import socket
import threading
import time

PAGE = pathlib.Path(__file__).resolve().parent.parent / "tools" / "server" / "page.html"


def policy(page):
    """A Content-Security-Policy as strict as vga-server's."""
    def digest(tag):
        [inside] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.S)
        return base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()

    return (f"default-src 'none'; script-src 'sha256-{digest('script')}'; style-src 'sha256-{digest('style')}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, **headers):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def event(self, data):
        text = data if isinstance(data, str) else json.dumps(data)
        try:
            self.wfile.write(f"data: {text}\n\n".encode())
        except OSError:  # it left
            self.server.left.set()
            return False
        return True

    def do_GET(self):
        server = self.server
        if self.path == "/":
            page = PAGE.read_text()
            self.reply(200, page, Content_Type="text/html; charset=utf-8", Content_Security_Policy=policy(page))
        elif self.path == "/health":
            self.reply(200 if server.health == "ok" else 503, {"status": server.health})
        elif self.path == "/props":
            if self.allowed():
                self.reply(200, server.props)
        else:
            server.unexpected.append(self.path)
            self.reply(404, {"error": {"message": "nothing here", "type": "not_found_error", "param": None, "code": None}})

    def allowed(self):
        good = not self.server.key or self.headers.get("Authorization") == f"Bearer {self.server.key}"
        if not good:
            self.reply(401, {"error": {"message": "no key", "type": "authentication_error", "param": None, "code": "invalid_api_key"}})
        return good

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        self.server.requests.append(body)
        answer = self.server.answers.pop(0) if self.server.answers else say("Yes.")
        answer(self)


def begin(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True


def say(*pieces, thoughts=(), pause=0.0, finish="stop", usage=None, lost=False, error=None, repeat=1):
    """An answer of these pieces; lost: the connection ends after them; error: an event that says so."""
    def answer(handler):
        begin(handler)
        event = lambda delta, reason=None: handler.event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [
            {"index": 0, "delta": delta, "finish_reason": reason}]})
        event({"role": "assistant", "content": ""})
        deltas = [{"reasoning_content": piece} for piece in thoughts] + [{"content": piece} for piece in pieces] * repeat
        for delta in deltas:
            time.sleep(pause)
            if not event(delta):
                return
        if error:
            handler.event({"error": {"message": error, "type": "server_error", "param": None, "code": None}})
        if lost or error:
            return
        event({}, finish)
        numbers = {"prompt_tokens": 20, "completion_tokens": len(deltas), "total_tokens": 20 + len(deltas),
                   "prompt_tokens_details": {"cached_tokens": 0}, "evicted_tokens": 0, **(usage or {})}
        handler.event({"choices": [], "usage": numbers, "timings": {"predicted_per_second": 41.5}})
        handler.event("[DONE]")

    return answer


def refuse(status, message, code=None, **headers):
    return lambda handler: handler.reply(status, {"error": {"message": message, "type": "server_error", "param": None, "code": code}}, **headers)


def hang_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


class ScriptedServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that left

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.reset()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reset(self):
        self.health, self.key = "ok", None
        self.props = {"model": "a-model", "context": 2048, "window": None, "keep": None, "sequences": 4, "vocabulary": 100,
                      "chat_template": True, "defaults": {"temperature": 0.800000011920929}}
        self.answers, self.requests, self.unexpected = [], [], []
        self.left = threading.Event()  # somebody left before the answer ended
