"""Several vga-servers behind one OpenAI endpoint, with Ray Serve.

    pip install -r requirements.txt
    serve run ray_serve:app model=/srv/models/model.gguf replicas=2 parallel=8 options="--context 4096"
    curl http://127.0.0.1:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "What is gravity?"}]}'

`program` says where vga-server is if not in the PATH, `threads` how many cores a replica takes (default 1).

A replica is a vga-server of its own, which a Ray actor starts, watches and ends. Requests reach it as they came, and its
answers leave as they come. A conversation goes where it began, since its replica has read it already; only a replica that is
full sends it elsewhere. When a replica dies, what it had begun to answer ends with an error event, what it had not begun is
answered by another one, and Ray starts a new replica.
"""
import asyncio
import hashlib
import json
import os
import shlex

import aiohttp
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.request_router import RequestRouter
from starlette.responses import Response, StreamingResponse

# Headers that concern one connection only, or that a vga-server on loopback takes for a page from elsewhere.
NOT_PASSED_ON = {"host", "origin", "connection", "keep-alive", "transfer-encoding", "content-length", "expect", "upgrade"}
# vga-server ends with its standard input, that is, with the actor, however that ends.
WITH_ITS_PARENT = 'exec 3<&0; "$@" & child=$!; { read -r _ <&3; kill $child 2>/dev/null; } & wait $child'


class ToItsBeginning(RequestRouter):
    """Each conversation has an order of all replicas that depends on its beginning alone (rendezvous hashing). It goes to the
    first of them that has room. When a replica comes or goes, only conversations that had it first move."""

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        beginning = pending_request.args[0] if pending_request and pending_request.args else ""

        def rank(replica):
            return hashlib.blake2b(f"{beginning} {replica.replica_id.unique_id}".encode(), digest_size=8).digest()

        return [[replica] for replica in sorted(candidate_replicas, key=rank)]


def beginning_of(body):
    """What all requests of a conversation have in common, and other conversations do not: all up to its first question."""
    try:
        request = json.loads(body)
        messages = request.get("messages")
        if messages is None:
            return json.dumps(request.get("prompt", ""))[:256]
        first = next((i for i, message in enumerate(messages) if message.get("role") == "user"), len(messages))
        return json.dumps(messages[:first + 1])
    except (ValueError, AttributeError, TypeError):
        return ""  # vga-server says what is wrong with it


def error_of(message):
    return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


@serve.deployment
class Replica:
    """A vga-server and what goes to it."""

    async def __init__(self, command):
        self.process = await asyncio.create_subprocess_exec(
            "bash", "-c", WITH_ITS_PARENT, "vga-server", *command, "--host", "127.0.0.1", "--port", "0",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        line = (await self.process.stdout.readline()).decode()
        if not line.startswith("listening on "):
            raise RuntimeError(f"vga-server did not start: {shlex.join(command)}")
        self.client = aiohttp.ClientSession(line.split()[-1], timeout=aiohttp.ClientTimeout(total=None),
                                            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        self.watch = asyncio.create_task(self.end_with_it())
        while not await self.is_well():
            await asyncio.sleep(0.1)

    async def end_with_it(self):
        """A dead actor is replaced at once and asked no more; one without a server would be, until its next check."""
        await self.process.wait()
        os._exit(1)

    async def is_well(self):
        async with self.client.get("/health") as answer:
            return answer.status == 200

    async def check_health(self):  # Ray asks; who throws is replaced
        if not await self.is_well():
            raise RuntimeError("vga-server is not well")

    async def answer(self, _beginning, method, path, headers, body):
        """Yields status and headers, then pieces of the body. Whoever stops listening has left, for vga-server, too."""
        async with self.client.request(method, path, headers=headers, data=body) as answer:
            yield answer.status, {k: v for k, v in answer.headers.items() if k.lower() not in NOT_PASSED_ON}
            async for piece in answer.content.iter_any():
                yield piece

    async def __del__(self):
        self.watch.cancel()
        self.process.stdin.close()  # it lets what runs come to its end
        await self.process.wait()
        await self.client.close()


@serve.deployment
class Front:
    """Takes requests and finds their replicas."""

    def __init__(self, replicas):
        self.replicas = replicas.options(stream=True)

    async def __call__(self, request):
        body = await request.body()
        headers = {k: v for k, v in request.headers.items() if k not in NOT_PASSED_ON}
        address = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        for attempt in range(3):
            pieces = self.replicas.answer.remote(beginning_of(body), request.method, address, headers, body)
            try:
                status, answered = await anext(pieces)
                break
            except BackPressureError:
                return refusal("Too many requests wait already.")
            except (RayError, RayServeException, aiohttp.ClientError) as error:
                # Nothing of an answer was sent, so another replica may give it.
                if attempt == 2:
                    return refusal(f"No replica answers: {type(error).__name__}.")
                await asyncio.sleep(0.2 * (attempt + 1))
        streams = answered.get("Content-Type", "").startswith("text/event-stream")
        return StreamingResponse(to_the_end(pieces, streams), status, answered)


async def to_the_end(pieces, streams):
    """The rest of an answer. If its replica dies, a stream says so; a plain answer is cut, which its length shows."""
    try:
        async for piece in pieces:
            yield piece
    except (RayError, RayServeException, aiohttp.ClientError):
        if not streams:
            raise
        yield f"data: {json.dumps(error_of('The replica that was answering is gone. Ask again.'))}\n\n".encode()
    finally:
        pieces.cancel()


def refusal(message):
    return Response(json.dumps(error_of(message)), 503, {"Retry-After": "1"}, "application/json")


def app(flags: dict):
    """What `serve run ray_serve:app name=value ...` starts."""
    unknown = set(flags) - {"model", "program", "replicas", "parallel", "threads", "queue", "options"}
    if unknown or "model" not in flags:
        raise ValueError(f"wanted model=FILE and maybe program, replicas, parallel, threads, queue, options; found {sorted(flags)}")
    parallel, threads = int(flags.get("parallel", 8)), int(flags.get("threads", 1))
    command = [flags.get("program", "vga-server"), "-m", flags["model"], "--parallel", str(parallel), "-t", str(threads),
               *shlex.split(flags.get("options", ""))]
    replicas = Replica.options(
        num_replicas=int(flags.get("replicas", 2)), ray_actor_options={"num_cpus": threads},
        max_ongoing_requests=parallel,              # more wait here, where another replica may take them
        max_queued_requests=int(flags.get("queue", 64)),
        health_check_period_s=2, health_check_timeout_s=10, graceful_shutdown_timeout_s=35,  # longer than --drain
        request_router_config=RequestRouterConfig(request_router_class=ToItsBeginning))
    return Front.options(ray_actor_options={"num_cpus": 0}, max_ongoing_requests=1024).bind(replicas.bind(command))
