"""Compares what we make of chat templates with what Jinja makes of them, set up as transformers does.

    python3 tests/check_templates.py build/release/bin MODEL.gguf TEMPLATE.jinja...

Needs the Python packages gguf and jinja2. Conversations of several kinds are put through the model's own template and
the others given; texts must be equal, and a template that refuses a conversation must refuse it here. For the model's
own, ids must be those of the text as well. Says for each template how many conversations it took.
"""
import datetime
import json
import pathlib
import subprocess
import sys

import gguf
import jinja2
import jinja2.ext
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what a model is trained on; it says nothing by itself."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def refuse(message):
    raise jinja2.TemplateError(message)


def to_json(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compiled(template):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)
    return environment.from_string(template)


def message(role, content):
    return {"role": role, "content": content}


def turns(*contents):
    return [message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]


SYSTEM = [message("system", "Answer in one sentence.")]
CONVERSATIONS = {
    "one turn": turns("Hi"),
    "a system prompt": SYSTEM + turns("Hi"),
    "three turns": turns("Hi", "Hello!", "How are you?", "Fine.", "And you?"),
    "three turns and a system prompt": SYSTEM + turns("Hi", "Hello!", "How are you?", "Fine.", "And you?"),
    "an answer at the end": turns("Hi", "Hello!"),
    "thoughts": turns("1+1?", "<think>\nOne and\n\none.\n</think>\n\n2", "And 2+2?", "<think></think>4", "Why?"),
    "spaces": SYSTEM + turns("  Hi \n", "\n\nHello!\n", "\t\u00a0x\u3000 \n\n"),
    "an empty system prompt": [message("system", "")] + turns("Hi"),
    "empty messages": turns("", "", ""),
    "characters": [message("system", "\"Quotes\", 'more', \\n & <b>")] + turns(
        "\u00c4\u00d6\u00dc \u00df \U0001f98a e\u0301 {{ 7 * 7 }} {% if %}", "`code`\r\n\ttab \\ \"x\"",
        "<|im_end|></s>[/INST]<|eot_id|><end_of_turn> </think> x"),
}


def expected(template, messages, **values):
    """The text, or None if the template refuses."""
    follows = messages[-1]["role"] != "assistant"
    try:
        return template.render(messages=messages, tools=None, documents=None, add_generation_prompt=follows, **values)
    except jinja2.TemplateError:
        return None


def takes_system(template, **values):
    words = "are-they-said"
    text = expected(template, [message("system", words), message("user", "or-not")], **values)
    return text is not None and words in text


def without_system(messages):
    """As for a template that has no place for a system prompt."""
    if messages[0]["role"] != "system":
        return messages
    words = [messages[0]["content"]] if messages[0]["content"] else []
    return [message("user", "\n\n".join(words + [messages[1]["content"]]))] + messages[2:]


def run(bin_folder, model, messages, *flags):
    command = [str(bin_folder / "vga-tokenize"), "-m", model, "--chat", *flags, "-f", "-"]
    result = subprocess.run(command, input=json.dumps(messages).encode(), capture_output=True, check=False)
    if result.returncode not in (0, 1):
        raise SystemExit(f"{command}: status {result.returncode}")
    return result


def check(bin_folder, model, name, source, flags, values):
    template = compiled(source)
    has_system = takes_system(template, **values)
    wrong, refused = [], 0
    for kind, messages in CONVERSATIONS.items():
        wanted = expected(template, messages if has_system else without_system(messages), **values)
        result = run(bin_folder, model, messages, "--rendered", *flags)
        found = result.stdout.decode() if result.returncode == 0 else None
        refused += wanted is None
        if wanted != found:
            wrong.append((kind, wanted, found if found is not None else result.stderr.decode()))
    print(f"{name}: {len(CONVERSATIONS) - len(wrong)} of {len(CONVERSATIONS)} equal"
          + (f", {refused} of them refused" if refused else "") + ("" if has_system else ", no system prompt"))
    for kind, wanted, found in wrong:
        print(f"  {kind}: wanted {wanted!r}\n  {' ' * len(kind)}   found {found!r}")
    return not wrong


def check_ids(bin_folder, model, source, values, adds_bos):
    """The ids of a conversation are those of its text, where no message spells a control token."""
    template = compiled(source)
    good = True
    for kind, messages in CONVERSATIONS.items():
        if kind == "characters":
            continue
        found = run(bin_folder, model, messages, "--ids").stdout
        text = expected(template, messages, **values)
        flags = [] if adds_bos and not text.startswith(values["bos_token"]) else ["--no-bos"]
        command = [str(bin_folder / "vga-tokenize"), "-m", model, "--special", "--ids", *flags, "-f", "-"]
        wanted = subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout
        if found != wanted:
            good = False
            print(f"  {kind}: wanted ids {wanted.decode()}  found {found.decode()}")
    return good


def field(reader, key):
    found = reader.get_field(key)
    return found.contents() if found else None


def main():
    bin_folder, model, files = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    reader = gguf.GGUFReader(model)
    tokens = field(reader, "tokenizer.ggml.tokens")

    def special(kind):
        token = field(reader, f"tokenizer.ggml.{kind}_token_id")
        return "" if token is None else tokens[token]

    values = {"bos_token": special("bos"), "eos_token": special("eos")}
    own = field(reader, "tokenizer.chat_template")
    good = []
    if own:
        good.append(check(bin_folder, model, model, own, [], values))
        good.append(check_ids(bin_folder, model, own, values, bool(field(reader, "tokenizer.ggml.add_bos_token"))))
    for file in files:
        source = pathlib.Path(file).read_text()
        good.append(check(bin_folder, model, file, source, ["--chat-template", file], values))
    if not all(good):
        raise SystemExit("some templates differ")


main()
