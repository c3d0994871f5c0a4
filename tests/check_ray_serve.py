"""Checks examples/deploy/ray_serve.py with two replicas: what passes through, who answers a conversation, and what a death does.

    build/python/bin/pip install -r examples/deploy/requirements.txt
    build/python/bin/python tests/check_ray_serve.py PROGRAMS_FOLDER MODEL

PROGRAMS_FOLDER holds vga-server; MODEL is models/vga-stories as a GGUF file. Takes about two minutes, most of them Ray's.
Ends with 1 if something is not as it should be. CI does not run it: Ray is larger than all else together.
"""
import asyncio
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import aiohttp

from server_under_test import check, wait_until

HERE = pathlib.Path(__file__).resolve().parent
ADDRESS = "http://127.0.0.1:8000"


def processes(pattern):
    """Ids of processes whose command line has this in it."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") if entry.name.isdigit() else ""
        except OSError:
            continue
        if re.search(pattern, line):
            found.append(int(entry.name))
    return found


def servers():  # of a replica: others may run beside it
    return processes(r"^\S*vga-server -m .* --host 127\.0\.0\.1 --port 0 ")


class Stream:
    """What came of one streamed request."""

    def __init__(self):
        self.text, self.error, self.done, self.pieces = "", None, False, 0


async def stream(client, prompt, tokens, begun=None):
    result = Stream()
    fields = {"prompt": prompt, "stream": True, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    async with client.post("/v1/completions", json=fields) as answer:
        check(answer.status == 200, f"status {answer.status}: {await answer.text() if answer.status != 200 else ''}")
        async for line in answer.content:
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                result.done = True
                continue
            event = json.loads(data)
            if "error" in event:
                result.error = event["error"]
                continue
            result.text += event["choices"][0]["text"]
            result.pieces += 1
            if begun and result.pieces == 3:
                begun.set()
    return result


async def passes_through(client):
    async with client.get("/v1/models") as answer:
        check(answer.status == 200 and (await answer.json())["data"], "/v1/models")
    async with client.post("/v1/completions", json={"prompt": "a", "temperature": -1}) as answer:
        check(answer.status == 400 and (await answer.json())["error"]["param"] == "temperature", "a refusal as vga-server gives it")
    async with client.get("/", headers={"Origin": ADDRESS}) as answer:
        check(answer.status == 200 and "html" in answer.headers["Content-Type"], "the page")
    began, at = time.monotonic(), []
    fields = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": 400, "ignore_eos": True}
    async with client.post("/v1/chat/completions", json=fields) as answer:
        async for line in answer.content:
            if line.startswith(b"data: "):
                at.append(time.monotonic() - began)
    check(len(at) > 100 and at[5] < at[-1] / 2, f"pieces come as they are made: {at[:6]} of {at[-1:]}")


async def conversations_stay(client):
    """Eight at once, each of three turns: behind the first, all but the last words are in the cache."""
    async def converse(number):
        messages, cached = [{"role": "user", "content": f"Story {number}. Tell me about a dog and a boat."}], []
        for _ in range(3):
            async with client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 20, "temperature": 0}) as answer:
                said = await answer.json()
            cached.append(said["usage"]["prompt_tokens_details"]["cached_tokens"] / said["usage"]["prompt_tokens"])
            messages += [said["choices"][0]["message"], {"role": "user", "content": "And then?"}]
        return min(cached[1:])

    shares = [await converse(i) for i in range(8)]
    check(min(shares) > 0.5, f"shares of later turns that were in a cache: {[round(s, 2) for s in shares]}")


async def who_leaves_is_noticed(client):
    begun = [asyncio.Event() for _ in range(8)]
    tasks = [asyncio.ensure_future(stream(client, f"Boat {i}", 1_000_000, begun[i])) for i in range(8)]
    await asyncio.gather(*(asyncio.wait_for(event.wait(), 60) for event in begun))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    answers = await asyncio.wait_for(asyncio.gather(*(stream(client, f"Boat {i}", 5) for i in range(8))), 30)
    check(all(answer.done for answer in answers), "places are free again")


async def a_death(client, whose, victims):
    """Kills one of two under load. What it was answering ends with an error event, all else as ever, and two are there again."""
    wanted = [(await stream(client, f"Tree {i}", 300)).text for i in range(8)]
    begun = [asyncio.Event() for _ in range(8)]
    tasks = [asyncio.ensure_future(stream(client, f"Tree {i}", 3000 if i % 2 else 300, begun[i])) for i in range(8)]
    await asyncio.gather(*(asyncio.wait_for(event.wait(), 60) for event in begun))
    before = set(servers())
    os.kill(victims()[0], signal.SIGKILL)
    ended = await asyncio.wait_for(asyncio.gather(*tasks), 120)
    whole = [result for result in ended if result.done]
    cut = [result for result in ended if not result.done]
    check(all(result.error is None for result in whole), "a whole answer has no error")
    check(all(result.error and result.error["type"] == "server_error" for result in cut), "a cut one says so")
    check(all(result.text.startswith(wanted[i][:len(result.text)]) for i, result in enumerate(ended)), "texts are right as far as they go")
    began = time.monotonic()
    again = await asyncio.wait_for(asyncio.gather(*(stream(client, f"Tree {i}", 300) for i in range(8))), 120)
    check([result.text for result in again] == wanted, "asked again, all is answered by who is left")
    wait_until(lambda: len(servers()) == 2 and len(set(servers()) & before) == 1, f"{whose} comes back", 60)
    print(f"  {whose} killed: {len(cut)} of 8 streams cut with an error event, {len(whole)} whole; asked again, all 8 answered; "
          f"two are there again after {time.monotonic() - began:.0f} s", flush=True)


async def run():
    async with aiohttp.ClientSession(ADDRESS, timeout=aiohttp.ClientTimeout(total=180), connector=aiohttp.TCPConnector(limit=0)) as client:
        for what in (passes_through, conversations_stay, who_leaves_is_noticed):
            await what(client)
            print(f"{what.__name__.replace('_', ' ')}: ok", flush=True)
        await a_death(client, "a server", servers)
        await a_death(client, "an actor", lambda: processes("^ray::ServeReplica:default:Replica"))
        print("deaths: ok", flush=True)


def main(arguments):
    if len(arguments) != 2:
        sys.exit(__doc__)
    programs, model = (pathlib.Path(argument).resolve() for argument in arguments)
    serve = pathlib.Path(sys.executable).with_name("serve")
    log = open("ray_serve.log", "w")
    app = subprocess.Popen([serve, "run", "ray_serve:app", f"model={model}", f"program={programs / 'vga-server'}", "replicas=2",
                            "parallel=4", "options=--window 256 --chat-template chatml"],
                           cwd=HERE.parent / "examples/deploy", stdout=log, stderr=log, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"})
    try:
        wait_until(lambda: "is ready at" in pathlib.Path(log.name).read_text(errors="replace"), "Ray Serve is ready", 180)
        asyncio.run(run())
    finally:
        app.send_signal(signal.SIGINT)
        app.wait(120)
    wait_until(lambda: not servers(), "no vga-server is left behind", 60)
    print("the end: ok")


if __name__ == "__main__":
    main(sys.argv[1:])
