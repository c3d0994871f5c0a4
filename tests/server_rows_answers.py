"""What vga-server answers: the rows of requests, texts, counts and prompts that are kept."""
import json
import re
import time

from server_under_test import (
    at_once, cached, check, check_error, endless, equal, greedy, long_text, ok, server, text_of)


def check_shape(body, kind, mark):
    equal(body["object"], kind, "object")
    check(body["id"].startswith(mark) and len(body["id"]) > len(mark) + 8, f"id {body['id']!r}")
    check(isinstance(body["created"], int), "created")
    equal(body["model"], "stories", "model")


def row_5_plain_and_streamed():
    s = server("main")
    asked = {"max_tokens": 120, "stream_options": {"include_usage": True}, **greedy}
    plain_asked = {k: v for k, v in asked.items() if k != "stream_options"}
    for make, make_stream, kind, part, mark in (
            (s.text, s.stream_text, "text_completion", "text_completion", "cmpl-"),
            (s.chat, s.stream_chat, "chat.completion", "chat.completion.chunk", "chatcmpl-")):
        plain, stream = make("Once upon a time", **plain_asked), make_stream("Once upon a time", **asked).rest()
        body = ok(plain)
        check_shape(body, kind, mark)
        for chunk in stream.chunks:
            check_shape(chunk, part, mark)
        equal(len({c["id"] for c in stream.chunks}), 1, "ids in a stream")
        check(stream.chunks[0]["id"] != body["id"], "two answers with one id")
        equal(stream.headers["Content-Type"].split(";")[0], "text/event-stream", "type")
        equal(stream.headers["Cache-Control"], "no-cache", "Cache-Control")
        equal(stream.headers["X-Accel-Buffering"], "no", "X-Accel-Buffering")
        if mark == "chatcmpl-":
            equal(stream.chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": ""}, "first delta")
            equal(body["choices"][0]["message"]["role"], "assistant", "role")
        check(stream.done, "no [DONE]")
        equal(stream.text, text_of(plain), "text")
        equal(stream.finish_reason, body["choices"][0]["finish_reason"], "finish_reason")
        counts = ["prompt_tokens", "completion_tokens", "total_tokens"]
        equal([stream.usage[c] for c in counts], [body["usage"][c] for c in counts], "usage")
        equal(body["usage"]["total_tokens"], body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"], "total")
        times = stream.piece_times()
        check(len(times) > 60, f"only {len(times)} pieces of 120 tokens")
        check(times[0] < 0.5 * times[-1], f"the first piece at {times[0]:.3f} s, the last at {times[-1]:.3f} s")


def row_6_usage_chunk():
    s = server("main")
    for asked, wanted in (({"stream_options": {"include_usage": True}}, 1), ({}, 0), ({"stream_options": None}, 0)):
        stream = s.stream_chat("Hello", max_tokens=3, **asked).rest()
        with_usage = [c for c in stream.chunks if c.get("usage")]
        equal(len(with_usage), wanted, f"usage chunks with {asked}")
        for chunk in with_usage:
            equal((chunk["choices"], chunk), ([], stream.chunks[-1]), "usage chunk")


def row_7_max_tokens():
    s = server("main")
    for answer in (s.text("Once", max_tokens=5, ignore_eos=True), s.chat("Once", max_tokens=5, ignore_eos=True),
                   s.chat("Once", max_completion_tokens=5, ignore_eos=True)):
        equal(ok(answer)["usage"]["completion_tokens"], 5, "tokens")
        equal(answer.json["choices"][0]["finish_reason"], "length", "finish_reason")


def row_8_stop_strings():
    s = server("main")
    asked = {"prompt": "Once upon a time", "max_tokens": 60, **greedy}
    whole = text_of(s.post("/v1/completions", asked))
    check(len(whole) > 100, f"too short to test: {whole!r}")

    def expect(stop, wanted, reason):
        plain = s.post("/v1/completions", {**asked, "stop": stop})
        equal(text_of(plain), wanted, f"text with stop {stop!r}")
        equal(plain.json["choices"][0]["finish_reason"], reason, f"finish_reason with stop {stop!r}")
        stream = s.stream("/v1/completions", {**asked, "stop": stop}).rest()
        equal((stream.text, stream.finish_reason), (wanted, reason), f"streamed with stop {stop!r}")
        return plain.json["usage"]["completion_tokens"]

    for at in (20, 31, 42, 53):  # Wherever these are in their tokens, some are inside one.
        stop = whole[at:at + 7]
        used = expect(stop, whole[:whole.find(stop)], "stop")
        check(1 <= used <= 60, f"{used} tokens")
    stops = [whole[60:66], whole[35:41], "never@@"]
    expect(stops, whole[:min(whole.find(stop) for stop in stops[:2])], "stop")
    equal(expect(["never@@", whole[-4:] + "@"], whole, "length"), 60, "tokens")


def row_9_seeds():
    s = server("main")

    def one(**seed):
        return text_of(s.text("Once upon a time", max_tokens=30, temperature=1, ignore_eos=True, **seed))

    seven = one(seed=7)
    equal(one(seed=7), seven, "the same seed again")
    check(one(seed=8) != seven, "another seed, the same text")
    equal(len({one(), one(), one()}), 3, "texts without a seed")


def row_10_nulls_and_strangers():
    s = server("main")
    nulls = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "stop", "seed", "n", "stream",
             "stream_options", "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty",
             "repeat_penalty", "response_format", "tools", "tool_choice", "user", "model", "ignore_eos"]
    strangers = {"user": "u", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "prompt_cache_key": "k",
                 "safety_identifier": "s", "verbosity": "low", "reasoning_effort": "low", "quite_unknown": [1, {}]}
    short = {"max_tokens": 2}
    ok(s.chat("Hello", **{**dict.fromkeys(nulls), **short}))
    ok(s.text("Hello", **{**dict.fromkeys(nulls), **short, "suffix": None, "echo": None, "best_of": None}))
    ok(s.chat("Hello", model="gpt-4o", **strangers, **short))
    parts = [{"role": "developer", "content": "Be kind."},
             {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
    plain = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    equal(text_of(s.chat(parts, max_tokens=20, **greedy)), text_of(s.chat(plain, max_tokens=20, **greedy)), "text")


def row_11_logprobs():
    s = server("main")
    asked = {"max_tokens": 20, **greedy}
    answer = ok(s.chat("Tell me", logprobs=True, top_logprobs=3, **asked))
    entries = answer["choices"][0]["logprobs"]["content"]
    equal(len(entries), answer["usage"]["completion_tokens"], "entries")
    for entry in entries:
        top = entry["top_logprobs"]
        equal(len(top), 3, "top_logprobs")
        values = [t["logprob"] for t in top]
        equal(values, sorted(values, reverse=True), "order")
        check(all(v <= 0 for v in values), f"above 0: {values}")
        equal((top[0]["token"], top[0]["logprob"]), (entry["token"], entry["logprob"]), "greedy first")
    spelled = bytes(byte for entry in entries for byte in entry["bytes"]).decode()
    equal(spelled, answer["choices"][0]["message"]["content"], "bytes")
    streamed = s.stream_chat("Tell me", logprobs=True, top_logprobs=3, **asked).rest()
    pieces = [e for c in streamed.chunks if c["choices"] for e in (c["choices"][0].get("logprobs") or {}).get("content") or []]
    equal([e["token"] for e in pieces], [e["token"] for e in entries], "streamed tokens")

    answer = ok(s.text("Once upon a time", logprobs=3, **asked))
    found, text = answer["choices"][0]["logprobs"], answer["choices"][0]["text"]
    equal({len(found[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}, {20}, "lengths")
    equal("".join(found["tokens"]), text, "tokens")
    for token, value, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"]):
        check(len(top) >= 1 and max(top.values()) == value == top[token], f"{token!r} {value} is not first in {top}")
    equal(ok(s.chat("Hi", max_tokens=1))["choices"][0]["logprobs"], None, "logprobs unasked")


def row_12_several_answers():
    s = server("main")
    asked = {"max_tokens": 12, **greedy}
    alone = {p: text_of(s.text(p, **asked)) for p in ("Once upon", "The dog")}

    def choices_or_400(answer, param, wanted):
        if answer.status == 400:
            return check_error(answer, 400, param)
        choices = sorted(ok(answer)["choices"], key=lambda c: c["index"])
        equal([c["index"] for c in choices], list(range(len(wanted))), "indices")
        equal([c["text"] for c in choices], wanted, "texts")
        equal(answer.json["usage"]["completion_tokens"], 12 * len(wanted), "tokens")

    choices_or_400(s.text("Once upon", n=2, **asked), "n", 2 * [alone["Once upon"]])
    choices_or_400(s.text(["Once upon", "The dog"], **asked), "prompt", list(alone.values()))
    several = s.text(long_text(12, "several answers"), n=3, **asked)
    if several.status != 400:  # the first reads the prompt, the others its last token
        size = ok(several)["usage"]["prompt_tokens"]
        equal(several.json["timings"]["prompt_n"], size - cached(several) + 2, f"tokens read of {size}")
    answer = s.chat("Hi", n=2, max_tokens=4)
    if answer.status != 400:
        equal(len(ok(answer)["choices"]), 2, "choices of a chat")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    answer = s.chat("Hi", tools=[tool], max_tokens=4)
    check_error(answer, 400, "tools", "tools")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    check_error(s.chat("Hi", response_format=schema, max_tokens=4), 400, "response_format", "json_schema")


def row_13_alone_and_together():
    s = server("main")
    prompts = [long_text(i * 3, first) for i, first in enumerate(
        ["Once", "The dog", "A bird sang", "Tom ran", "In the wood", "My boat", "She said", "Far away"])]

    def one(i):
        return text_of(s.text(prompts[i], max_tokens=40, temperature=0.9, seed=i, ignore_eos=True))

    alone = [one(i) for i in range(8)]
    for time_ in ("first", "second"):
        equal(at_once([lambda i=i: one(i) for i in range(8)]), alone, f"eight at once, the {time_} time")


def row_14_short_beside_long():
    s = server("main")
    long = s.stream_text("Once", max_tokens=1500, ignore_eos=True).first(2)
    began = time.monotonic()
    ok(s.text("The dog", max_tokens=4, ignore_eos=True))
    short_at = time.monotonic() - began
    long.rest()
    check(long.done and short_at < 0.3 * (time.monotonic() - began), f"the short one took {short_at:.2f} s")


def row_15_prompt_beside_a_stream():
    s = server("main")
    tries = []
    for i in range(3):  # Other programs make gaps, too: one good time of three is enough.
        stream = s.stream_text("Once", max_tokens=1900, ignore_eos=True).first(5)
        posted = time.monotonic() - stream.began
        prompt = long_text(130, f"Try {i}:")

        def ask():
            answer = ok(s.text(prompt, max_tokens=1))
            return answer["usage"]["prompt_tokens"], time.monotonic() - stream.began

        _, (tokens, answered) = at_once([stream.rest, ask])
        check(1400 < tokens < 2048, f"a prompt of {tokens} tokens")
        times = [t for t in stream.piece_times() if posted <= t <= answered]
        gaps = [b - a for a, b in zip([posted, *times], [*times, answered])]
        tries.append((len(times), max(gaps) / (answered - posted)))
        if tries[-1][0] >= 6 and tries[-1][1] < 0.5:
            return
    raise AssertionError("pieces while the prompt was read, longest gap as a part of that time: "
                         + ", ".join(f"{pieces}, {gap:.2f}" for pieces, gap in tries))


def row_16_same_prompt_again():
    s = server("small")
    prompt = long_text(25, "Row 16.")
    asked = {"max_tokens": 20, **greedy}
    first, second = (s.text(prompt, **asked) for _ in range(2))
    size = ok(first)["usage"]["prompt_tokens"]
    check(size > 200, f"{size} tokens")
    check(cached(first) < 0.1 * size, f"{cached(first)} cached of {size} at first")
    check(0.9 * size < cached(second) < size, f"{cached(second)} cached of {size}")
    equal(text_of(second), text_of(first), "text")
    other = s.text(prompt + " Then it rained.", **asked)
    check(0.9 * size < cached(other) < ok(other)["usage"]["prompt_tokens"], f"{cached(other)} cached with another ending")


def row_17_four_chats_in_turn():
    s = server("small")
    chats = [[{"role": "user", "content": long_text(5, f"{name} tells this.")}] for name in ("Ann", "Bill", "Cleo", "Dora")]
    before = [0] * 4
    for turn in range(3):
        for i, chat in enumerate(chats):
            answer = s.chat(chat, max_tokens=15, **greedy)
            check(cached(answer) >= 0.9 * before[i], f"turn {turn} of chat {i}: {cached(answer)} cached of {before[i]}")
            before[i] = answer.json["usage"]["prompt_tokens"]
            chat += [{"role": "assistant", "content": text_of(answer)}, {"role": "user", "content": "And then?"}]


def row_22_context_and_window():
    answer = ok(server("small").text("Once", **endless))
    equal(answer["choices"][0]["finish_reason"], "length", "finish_reason")
    check(480 <= answer["usage"]["total_tokens"] <= 512, f"{answer['usage']} of a context of 512")
    s = server("window")
    props = ok(s.get("/props"))
    equal((props["window"], props["keep"], props["sequences"]), (256, 4, 1), "/props")
    answer = ok(s.text("Once", max_tokens=600, ignore_eos=True))
    usage = answer["usage"]
    equal((answer["choices"][0]["finish_reason"], usage["completion_tokens"]), ("length", 600), "beyond the window")
    check(0 < usage["total_tokens"] - usage["evicted_tokens"] <= 256, f"with a window of 256: {usage}")
    usage = ok(s.text(long_text(60), max_tokens=1))["usage"]
    check(usage["prompt_tokens"] > 512 and usage["evicted_tokens"] >= usage["prompt_tokens"] - 256, f"long prompt: {usage}")


def row_23_prompt_over_the_context():
    s = server("small")
    for answer in (s.text(long_text(80)), s.chat(long_text(80)), s.chat(long_text(80), stream=True)):
        check_error(answer, 400)
        equal(answer.error["code"], "context_length_exceeded", "code")
        counts = [int(n) for n in re.findall(r"\d+", answer.error["message"])]
        check(512 in counts and max(counts) > 512, f"numbers in {answer.error['message']!r}")
        check("maximum context length is 512 tokens" in answer.error["message"], answer.error["message"])


def row_24_bad_bodies():
    s = server("main")
    good = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "x": 0}).encode()
    ok(s.post("/v1/chat/completions", good))
    bodies = {
        "empty": b"", "cut": good[:-5], "trailing": good + b"x", "two": good + good, "NaN": good.replace(b"0", b"NaN"),
        "Infinity": good.replace(b"0", b"-Infinity"), "1e400": good.replace(b"0", b"1e400"),
        "bad UTF-8": good.replace(b"Hi", b"\xc3\x28"), "cut UTF-8": good.replace(b"Hi", b"\xf0\x9f"),
        "overlong": good.replace(b"Hi", b"\xc0\xaf"), "depth": good.replace(b"0", b"[" * 100_000 + b"]" * 100_000),
        "depth of objects": b'{"a":' * 100_000, "no object": b"[1]", "a text": b'"x"', "null": b"null",
        "duplicate": good.replace(b'"x"', b'"max_tokens"'), "comment": good.replace(b"0", b"0/*c*/"),
        "raw control": good.replace(b"Hi", b"a\x01b"), "single quotes": good.replace(b'"', b"'"),
    }
    for path in ("/v1/chat/completions", "/v1/completions"):
        for name, body in bodies.items():
            check_error(s.post(path, body), 400, what=name)


def row_25_bad_values():
    s = server("main")
    user = {"role": "user", "content": "Hi"}
    chat = [
        {"temperature": -1}, {"temperature": 2.5}, {"temperature": 1e300}, {"temperature": "hot"}, {"top_p": 1.5},
        {"top_p": -0.1}, {"min_p": 2}, {"top_k": -1}, {"top_k": 1.5}, {"max_tokens": -1}, {"max_tokens": 1.5},
        {"max_tokens": 2**63}, {"max_tokens": "5"}, {"max_completion_tokens": -3}, {"n": 0}, {"n": 1.5}, {"stop": ["x"] * 17},
        {"stop": [1]}, {"stop": 5}, {"seed": 1.5}, {"seed": "a"}, {"presence_penalty": 3}, {"frequency_penalty": -3},
        {"repeat_penalty": -1}, {"logit_bias": [1]}, {"logit_bias": {"x": 1}}, {"logit_bias": {"5": 1000}},
        {"logit_bias": {"99999999": 1}}, {"top_logprobs": 21, "logprobs": True}, {"top_logprobs": 3}, {"logprobs": "yes"},
        {"stream": "yes"}, {"stream": True, "stream_options": 5}, {"messages": []}, {"messages": None}, {"messages": "Hi"},
        {"messages": [{"role": "alien", "content": "Hi"}]}, {"messages": [{"content": "Hi"}]}, {"messages": [{"role": "user"}]},
        {"messages": [5]}, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"model": 5}, {"ignore_eos": 3},
    ]
    text = [{"prompt": None}, {"prompt": 5}, {"prompt": [-1]}, {"prompt": [99999999]}, {"prompt": [1.5]}, {"prompt": {"a": 1}},
            {"logprobs": 99}, {"logprobs": True}, {"max_tokens": -1}]
    faults = []
    for path, base, cases in (("/v1/chat/completions", {"messages": [user]}, chat), ("/v1/completions", {"prompt": "Hi"}, text)):
        for case in cases:
            try:
                check_error(s.post(path, {"max_tokens": 1, **base, **case}), 400, next(iter(case)) if "stream" not in case
                            else list(case)[-1], f"{case}")
            except AssertionError as error:
                faults.append(str(error))
    check(not faults, "; ".join(faults))


def row_26_markers_in_a_message():
    s = server("main")
    for mark in ("</s>", "<s>"):
        tokens = ok(s.post("/tokenize", {"content": mark}))["tokens"]
        check(len(tokens) > 1 and 2 not in tokens, f"{mark} became {tokens}")
        equal(ok(s.post("/detokenize", {"tokens": tokens}))["content"].strip(), mark, "and back")
    one, many = (ok(s.chat("x" + "</s><|im_end|>" * n, max_tokens=1))["usage"]["prompt_tokens"] for n in (1, 21))
    check(many - one > 60, f"20 marks more are {many - one} tokens")
    ending = [ok(s.text("Hi" + m, max_tokens=1))["usage"]["prompt_tokens"] for m in ("", "</s>")]
    check(ending[1] - ending[0] > 1, "</s> in a prompt is one token")


def row_27_odd_characters():
    s = server("main")
    for content in ('"a\\u0000b"', '"\\ud800"', '"\\udc00\\ud800"', '"' + "\U0001f600" * 50 + '"', '"\\ud83d\\ude00"'):
        answer = s.post("/v1/chat/completions", f'{{"messages":[{{"role":"user","content":{content}}}],"max_tokens":4}}'.encode())
        if "\\ud800" in content:
            check_error(answer, 400, what=content)
        elif "u0000" in content:
            check(answer.status in (200, 400), f"{content}: {answer.status}")
        else:
            ok(answer)


def row_28_hot_and_valid():
    s = server("main")
    for seed in range(5):
        asked = {"temperature": 2, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 80, "seed": seed, "ignore_eos": True}
        for path, start_ in (("/v1/completions", {"prompt": "Once"}),
                             ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})):
            plain = s.post(path, {**start_, **asked})
            stream = s.stream(path, {**start_, **asked}).rest()  # It decodes each event strictly.
            check(stream.done, "no [DONE]")
            equal(stream.text, text_of(plain), f"text of seed {seed}")
