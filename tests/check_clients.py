"""Real clients against vga-server: OpenAI's own, langchain, litellm, Prometheus' reader, and schemathesis from docs/openapi.yaml.

    python3 tests/check_clients.py PROGRAMS_FOLDER MODEL [--only NAME]

Needs the Python packages openai, langchain-openai, litellm, prometheus-client and schemathesis. Prints a line for each
thing shown; non-zero exit if one is not. The model may be any; chats are put to it in words, as vicuna has them.
"""
import argparse
import asyncio
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback

from server_under_test import Server

# Nothing here is to ask anybody else: neither where models stand nor what they cost.
os.environ.update({"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false", "OPENAI_API_KEY": "unused"})

import openai  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEY = "key-of-the-clients"
PROMPT = "Once upon a time"
CHAT = [{"role": "system", "content": "You tell stories."}, {"role": "user", "content": "Once upon a time there was a fox"}]


def raises(kind, call):
    """What this call raises, which must be of this very kind."""
    try:
        call()
    except openai.OpenAIError as error:
        assert type(error) is kind, f"wanted {kind.__name__}, found {type(error).__name__}: {error}"
        return error
    raise AssertionError(f"wanted {kind.__name__}, found an answer")


def asked(server, status):
    return server.metrics().get(f'vga_requests_total{{status="{status}"}}', 0)


def openai_chat(server, client):
    whole = client.chat.completions.create(model="any", messages=CHAT, temperature=0, max_tokens=12)
    [choice] = whole.choices
    assert choice.message.role == "assistant" and choice.message.content, whole
    assert choice.finish_reason in ("stop", "length") and whole.object == "chat.completion" and whole.id.startswith("chatcmpl-")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert 0 < whole.usage.completion_tokens <= 12
    again = client.chat.completions.create(model="any", messages=CHAT, temperature=0, max_tokens=12)
    assert again.choices[0].message.content == choice.message.content
    assert again.usage.prompt_tokens_details.cached_tokens > 0, again.usage
    assert again.id != whole.id


def openai_stream(server, client):
    whole = client.chat.completions.create(model="any", messages=CHAT, temperature=0, max_completion_tokens=12)
    with client.chat.completions.create(model="any", messages=CHAT, temperature=0, max_completion_tokens=12, stream=True,
                                        stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole.choices[0].message.content
    *begun, last = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert last == whole.choices[0].finish_reason and set(begun) == {None}
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    # The client's helper builds the whole message of the pieces and is strict about them, also about what ended them.
    text = whole.choices[0].message.content
    with client.chat.completions.stream(model="any", messages=CHAT, temperature=0, max_completion_tokens=12, stop=text[-3:]) as stream:
        [choice] = stream.get_final_completion().choices
    assert (choice.message.content, choice.finish_reason) == (text[:text.index(text[-3:])], "stop"), choice
    with client.chat.completions.stream(model="any", messages=CHAT, max_completion_tokens=2) as stream:
        raises(openai.LengthFinishReasonError, stream.get_final_completion)


def openai_leaves_a_stream(server, client):
    with client.completions.create(model="any", prompt=PROMPT, max_tokens=100000, stream=True, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
        assert server.running() == 1
    end = time.monotonic() + 2
    while server.running() > 0:
        assert time.monotonic() < end, "it still generates for a client that left"
        time.sleep(0.02)


def openai_completions(server, client):
    whole = client.completions.create(model="any", prompt=PROMPT, temperature=0, max_tokens=10, logprobs=3)
    [choice] = whole.choices
    assert choice.text and whole.object == "text_completion" and whole.id.startswith("cmpl-")
    scores = choice.logprobs
    assert "".join(scores.tokens) == choice.text and len(scores.tokens) == whole.usage.completion_tokens
    assert all(token == max(top, key=top.get) for token, top in zip(scores.tokens, scores.top_logprobs) if token in top)
    assert len(scores.text_offset) == len(scores.token_logprobs) == len(scores.tokens) and max(scores.token_logprobs) <= 0
    pieces = client.completions.create(model="any", prompt=PROMPT, temperature=0, max_tokens=10, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == choice.text
    both = client.completions.create(model="any", prompt=[PROMPT, "The fox"], temperature=0, max_tokens=10)
    assert [c.index for c in both.choices] == [0, 1] and both.choices[0].text == choice.text
    ids = server.post("/tokenize", {"content": PROMPT}).json["tokens"]
    assert client.completions.create(model="any", prompt=ids, max_tokens=2).usage.prompt_tokens == len(ids)
    stopped = client.completions.create(model="any", prompt=PROMPT, max_tokens=10, temperature=0, stop=choice.text[4:8])
    assert stopped.choices[0].text == choice.text[:4]


def openai_logprobs(server, client):
    whole = client.chat.completions.create(model="any", messages=CHAT, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3)
    content = whole.choices[0].logprobs.content
    assert len(content) == whole.usage.completion_tokens
    assert b"".join(bytes(token.bytes) for token in content).decode() == whole.choices[0].message.content
    for token in content:
        scores = [top.logprob for top in token.top_logprobs]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True) and token.token == token.top_logprobs[0].token, token


def openai_seeds_and_choices(server, client):
    def texts(**fields):
        answer = client.chat.completions.create(model="any", messages=CHAT, max_tokens=12, temperature=1.5, **fields)
        return [choice.message.content for choice in answer.choices]

    assert texts(seed=5) == texts(seed=5) != texts(seed=6)
    three = texts(seed=5, n=3)
    assert len(set(three)) == 3 and three[0] == texts(seed=5)[0]


def openai_models(server, client):
    [model] = client.models.list().data
    assert model.id == "a-model" and model.object == "model" and isinstance(model.created, int)
    assert client.models.retrieve("a-model") == model
    error = raises(openai.NotFoundError, lambda: client.models.retrieve("another"))
    assert error.code == "model_not_found" and error.type == "not_found_error"


def openai_errors(server, client):
    before = asked(server, 400)
    error = raises(openai.BadRequestError, lambda: client.chat.completions.create(model="any", messages=CHAT, temperature=-1))
    assert error.param == "temperature" and error.type == "invalid_request_error" and error.code is None
    error = raises(openai.BadRequestError, lambda: client.chat.completions.create(model="any", messages=[]))
    assert error.param == "messages"
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert raises(openai.BadRequestError, lambda: client.chat.completions.create(model="any", messages=CHAT, tools=tools)).param == "tools"
    long = raises(openai.BadRequestError, lambda: client.completions.create(model="any", prompt="fox " * 5000))
    assert long.code == "context_length_exceeded" and "maximum context length is 256 tokens" in str(long), long
    stream = raises(openai.BadRequestError, lambda: client.completions.create(model="any", prompt="fox " * 5000, stream=True))
    assert stream.code == "context_length_exceeded"
    assert asked(server, 400) == before + 5, "a client tried again what is wrong"
    before = asked(server, 401)
    stranger = client.with_options(api_key="nonsense")
    assert raises(openai.AuthenticationError, stranger.models.list).code == "invalid_api_key"
    assert asked(server, 401) == before + 1
    assert raises(openai.NotFoundError, lambda: client.embeddings.create(model="any", input="x")).type == "not_found_error"


def openai_waits_where_it_is_busy(server, client):
    """A server of one place without a queue refuses the second; the client waits as it is told and gets its answer."""
    with vga_server(server.program, server.model, "--parallel", "1", "--queue", "0") as small:
        other = client_of(small)
        kept = other.completions.create(model="any", prompt=PROMPT, max_tokens=100000, stream=True, extra_body={"ignore_eos": True})
        next(iter(kept))
        refused = raises(openai.InternalServerError, lambda: other.with_options(max_retries=0).completions.create(model="any", prompt=PROMPT))
        assert refused.status_code == 503 and int(refused.response.headers["retry-after"]) >= 1 and refused.type == "server_error"

        async def wait():
            async with client_of(small, openai.AsyncOpenAI) as patient:
                asking = asyncio.ensure_future(patient.completions.create(model="any", prompt=PROMPT, max_tokens=3))
                await asyncio.sleep(0.3)
                kept.close()
                return await asking

        assert asyncio.run(wait()).usage.completion_tokens == 3
        assert asked(small, 503) >= 2


def openai_many_at_once(server, client):
    """Twenty on four places: each has the text that it has alone."""
    async def all_at_once():
        async with client_of(server, openai.AsyncOpenAI) as together:
            return await asyncio.gather(*(together.completions.create(model="any", prompt=f"{PROMPT} the {word}", temperature=0, max_tokens=10)
                                          for word in words))

    words = ["fox", "cat", "dog", "sun", "bear"] * 4
    texts = [answer.choices[0].text for answer in asyncio.run(all_at_once())]
    alone = {word: client.completions.create(model="any", prompt=f"{PROMPT} the {word}", temperature=0, max_tokens=10).choices[0].text
             for word in set(words)}
    assert texts == [alone[word] for word in words]


def langchain(server, client):
    from langchain_openai import ChatOpenAI, OpenAI

    where = {"base_url": f"http://127.0.0.1:{server.port}/v1", "api_key": KEY, "model": "any", "temperature": 0}
    chat = ChatOpenAI(max_tokens=12, stream_usage=True, **where)
    messages = [(message["role"], message["content"]) for message in CHAT]
    whole = chat.invoke(messages)
    assert whole.content and whole.usage_metadata["output_tokens"] <= 12 and whole.response_metadata["finish_reason"] in ("stop", "length")
    pieces = list(chat.stream(messages))
    assert "".join(piece.content for piece in pieces) == whole.content
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == whole.usage_metadata["output_tokens"]
    longer = chat.invoke(messages + [("ai", whole.content), ("human", "And then?")])
    assert longer.content and longer.usage_metadata["input_tokens"] > whole.usage_metadata["input_tokens"]
    assert len(chat.batch([messages] * 3)) == 3
    assert OpenAI(max_tokens=5, **where).invoke(PROMPT)
    tool = {"type": "function", "function": {"name": "f", "description": "x", "parameters": {"type": "object", "properties": {}}}}
    try:
        chat.bind_tools([tool]).invoke(messages)
    except openai.BadRequestError as error:
        assert error.param == "tools"
    else:
        raise AssertionError("tools were answered")


def litellm(server, client):
    import litellm as lite

    lite.suppress_debug_info = True

    where = {"model": "openai/any", "api_base": f"http://127.0.0.1:{server.port}/v1", "api_key": KEY, "temperature": 0}
    whole = lite.completion(messages=CHAT, max_tokens=12, **where)
    assert whole.choices[0].message.content and whole.usage.completion_tokens <= 12
    pieces = list(lite.completion(messages=CHAT, max_tokens=12, stream=True, stream_options={"include_usage": True}, **where))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == whole.choices[0].message.content
    rebuilt = lite.stream_chunk_builder(pieces, messages=CHAT)
    assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens
    assert lite.text_completion(prompt=PROMPT, max_tokens=4, **{**where, "model": "text-completion-openai/any"}).choices[0].text
    long = [{"role": "user", "content": "fox " * 5000}]
    for call, kind in ((lambda: lite.completion(messages=long, **where), lite.ContextWindowExceededError),
                       (lambda: lite.completion(messages=CHAT, top_p=3, **where), lite.BadRequestError),
                       (lambda: lite.completion(messages=CHAT, **{**where, "api_key": "nonsense"}), lite.AuthenticationError)):
        try:
            call()
        except Exception as error:
            assert type(error) is kind, f"wanted {kind.__name__}, found {type(error).__name__}: {error}"
        else:
            raise AssertionError(f"wanted {kind.__name__}, found an answer")


def prometheus(server, client):
    from prometheus_client.parser import text_string_to_metric_families

    answer = server.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"), answer.headers["Content-Type"]
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    kinds = {"vga_prompt_tokens": "counter", "vga_cached_tokens": "counter", "vga_generation_tokens": "counter",
             "vga_evicted_tokens": "counter", "vga_requests": "counter", "vga_steps": "counter", "vga_requests_running": "gauge", "vga_requests_waiting": "gauge",
             "vga_sequences": "gauge", "vga_time_to_first_token_seconds": "histogram", "vga_inter_token_seconds": "histogram",
             "vga_queue_time_seconds": "histogram", "vga_request_seconds": "histogram", "vga_step_rows": "histogram"}
    assert kinds.items() <= {name: family.type for name, family in families.items()}.items(), families.keys()
    assert all(family.documentation for name, family in families.items() if name in kinds)


def schemathesis(server, client):
    """What docs/openapi.yaml says holds for requests that fit it and for those that do not: none is answered otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        command = [pathlib.Path(sys.executable).parent / "schemathesis", "run", ROOT / "docs" / "openapi.yaml",
                   "--url", f"http://127.0.0.1:{server.port}", "--header", f"Authorization: Bearer {KEY}",
                   "--phases", "examples,coverage,fuzzing",
                   # A request that fits may be refused still: its tokens are not of the vocabulary, its prompt is too long.
                   "--checks", "all", "--exclude-checks", "positive_data_acceptance,missing_required_header",
                   "--max-examples", "25", "--max-failures", "8", "--continue-on-failure", "--seed", "1", "--request-timeout", "30",
                   "--generation-database", "none", "--suppress-health-check", "all", "--warnings", "off", "--no-color"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300,
                              env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(ROOT / "tests")})
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert server.get("/health").status == 200
    print("      " + next((line.strip() for line in done.stdout.splitlines() if "generated" in line), "").strip())


TESTS = [openai_chat, openai_stream, openai_leaves_a_stream, openai_completions, openai_logprobs, openai_seeds_and_choices, openai_models,
         openai_errors, openai_waits_where_it_is_busy, openai_many_at_once, langchain, litellm, prometheus, schemathesis]


@contextlib.contextmanager
def vga_server(program, model, *options):
    server = Server(program, model, "--api-key", KEY, "--alias", "a-model", "--chat-template", "vicuna", "--context", "256",
                    *options, wait=False)
    server.key, server.program, server.model = KEY, program, model
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def client_of(server, kind=openai.OpenAI):
    return kind(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", metavar="PROGRAMS_FOLDER")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--only", metavar="NAME", help="those whose name holds this")
    flags = parser.parse_args()
    failed, tests = [], [test for test in TESTS if not flags.only or flags.only in test.__name__]
    with vga_server(pathlib.Path(flags.programs) / "vga-server", flags.model, "--parallel", "4", "--queue", "512") as server:
        client = client_of(server)
        for test in tests:
            name, start = test.__name__.replace("_", " "), time.monotonic()
            try:
                test(server, client)
                print(f"ok    {name} ({time.monotonic() - start:.1f} s)", flush=True)
            except Exception as error:  # whatever a client raises, the next test is tried
                failed.append(name)
                print(f"WRONG {name}: {error}", flush=True)
                traceback.print_exc()
    print(f"check_clients: {len(tests) - len(failed)} of {len(tests)} as they should be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
