"""Tests of scripts/race, scripts/plot-race, scripts/plot-stream, scripts/measure, scripts/load and, where numpy is there, scripts/compare-outputs and backcopy;
of examples/train/converse.py and blind.py.

    python3 tests/test_scripts.py
"""
import contextlib
import csv
import http.server
import importlib.machinery
import importlib.util
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import xml.etree.ElementTree as xml

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent / "scripts"
TRAINING = SCRIPTS.parent / "examples" / "train"
sys.path.insert(0, str(SCRIPTS))  # for what scripts share

# A llama-bench that takes notes and is as fast as its flags say: 10 tokens a second, 20 with flash attention, and 1 less
# with every run. In the place of vga-bench it makes 60.
BENCH = """#!{python}
import json, os, pathlib, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
log = pathlib.Path(__file__).with_name("log")
lines = log.read_text().splitlines() if log.exists() else []
who = "vga" if "vga" in sys.argv[0] else "llama" + flags["-fa"]
log.write_text("\\n".join(lines + [" ".join([who, flags["-p"], flags["-n"], flags["-d"], flags["-t"], flags["-ctv"]])]) + "\\n")
if flags["-m"] == "bad.gguf":
    sys.exit("first line\\nno such model")
speed = {{"vga": 60, "llama0": 10, "llama1": 20}}[who] - sum(line.startswith(who) for line in lines)
print(json.dumps([{{"avg_ts": speed, "build_commit": who, "cpu_info": "a CPU",
                    "runs_on": f"cpu {{os.environ.get('VGA_CPU', 'best')}}, 1 thread"}}]))
"""


def load(name):
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_script(self, name, *arguments):
        return subprocess.run([sys.executable, SCRIPTS / name, *map(str, arguments)], capture_output=True, text=True)


class Race(Folder):
    def setUp(self):
        super().setUp()
        for name in ("vga-bench", "llama-bench"):
            (self.folder / name).write_text(BENCH.format(python=sys.executable))
            (self.folder / name).chmod(0o755)

    def race(self, model, *arguments):
        return self.run_script("race", self.folder / "llama-bench", model, "--vga-bench", self.folder / "vga-bench", *arguments)

    def log(self):
        return (self.folder / "log").read_text().splitlines()

    def test_programs_take_turns_and_the_faster_llama_counts(self):
        out = self.folder / "race.json"
        done = self.race("m.gguf", "-p", "8", "-n", "0", "--rounds", "3", "--json", out, "--cpu", "avx2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([line.split()[0] for line in self.log()], 3 * ["vga", "llama0", "llama1"])
        race = json.loads(out.read_text())
        [result] = race["results"]
        self.assertEqual([pair["vga"] for pair in result["pairs"]], [60, 59, 58])
        self.assertEqual([pair["llama"] for pair in result["pairs"]], [20, 19, 18])
        self.assertEqual({pair["flash_attention"] for pair in result["pairs"]}, {"on"})
        self.assertEqual(result["median"], 59 / 19)
        self.assertEqual((result["least"], result["most"]), (60 / 20, 58 / 18))
        self.assertEqual(race["vga_runs_on"], "cpu avx2")
        self.assertIn("| 1 | prefill 8 | 59.0 | 19.0 | **3.11** | 3.00 | 3.22 | 3.00 3.11 3.22 |", done.stdout)

    def test_all_combinations(self):
        done = self.race("m.gguf", "-p", "8", "-n", "2,3", "-d", "0,5", "-t", "1,2", "-ct", "q8_0", "--rounds", "1",
                         "--csv", self.folder / "race.csv")
        self.assertEqual(done.returncode, 0, done.stderr)
        lengths = ["8 0", "0 2", "0 3"]
        tests = [f"{length} {depth} {threads} q8_0" for threads in (1, 2) for depth in (0, 5) for length in lengths]
        # A quantized cache needs flash attention.
        self.assertEqual(self.log(), [f"{who} {test}" for test in tests for who in ("vga", "llama1")])
        with open(self.folder / "race.csv") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(len(rows), len(tests))
        self.assertEqual({row["n_depth"] for row in rows}, {"0", "5"})
        for row in rows:
            self.assertAlmostEqual(float(row["ratio"]), float(row["vga_ts"]) / float(row["llama_ts"]))

    def test_what_fails_is_one_line(self):
        for arguments, said in ((["bad.gguf"], "no such model"), (["m.gguf", "--vga-bench", "/nope"], "/nope"),
                                (["m.gguf", "--vga-bench", "/bin/true"], "no result"),
                                (["m.gguf", "--json", "/nope/x", "--rounds", "1"], "/nope/x")):
            done = self.race(*arguments)
            self.assertEqual(done.returncode, 1, arguments)
            self.assertRegex(done.stderr.splitlines()[-1], f"^race: error: .*{said}")
            self.assertNotIn("Traceback", done.stderr)
        for arguments in (["-p", "x"], ["-p", "-5"], ["-t", "0"], ["-p", "0", "-n", "0"], ["--rounds", "0"]):
            self.assertEqual(self.race("m.gguf", *arguments).returncode, 2, arguments)


class PlotRace(Folder):
    def test_plot_shows_each_curve(self):
        out = self.folder / "race.svg"
        results = [{"n_threads": threads, "n_prompt": 0, "n_gen": 4, "n_depth": depth,
                    "pairs": [{"vga": 90 - depth / 100 + i, "llama": 40 - depth / 100} for i in range(3)]}
                   for threads in (1, 2) for depth in (0, 1000, 3000)]
        results.append({"n_threads": 1, "n_prompt": 8, "n_gen": 0, "n_depth": 0, "pairs": [{"vga": 1e6, "llama": 1e6}]})
        (self.folder / "race.json").write_text(json.dumps({"model": "a<b>.gguf", "cache_type": "f16", "results": results}))
        done = self.run_script("plot-race", self.folder / "race.json", "-o", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        root = xml.fromstring(out.read_text())
        texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        for text in ("a<b>.gguf, f16 cache: decode speed over context depth", "vga.cpp, 1 thread", "llama.cpp, 2 threads", "3000"):
            self.assertIn(text, texts)
        lines = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("stroke-width") == "1.6"]
        self.assertEqual(len(lines), 4)
        self.assertEqual(sum(path.get("stroke-dasharray") == "" for path in lines), 2)
        self.assertFalse(any(text == "1000000" for text in texts), "prefill does not belong here")

    def test_what_is_no_race_is_refused(self):
        for text in ("", "{}", "[1]", '{"results": []}', '{"results": [{"n_gen": 1}]}'):
            (self.folder / "x.json").write_text(text)
            done = self.run_script("plot-race", self.folder / "x.json", "-o", self.folder / "x.svg")
            self.assertEqual(done.returncode, 1, text)
            self.assertRegex(done.stderr, "^plot-race: error: .*x.json: .*\n$")
            self.assertFalse((self.folder / "x.svg").exists())

    def test_labels_keep_their_distance(self):
        spread = load("plot-race").spread
        self.assertEqual(spread([50, 10, 52], 18), [50, 10, 68])
        self.assertEqual(spread([1, 1, 1], 5), [1, 6, 11])

    def test_steps_are_round(self):
        step = load("plot-race").round_step
        self.assertEqual([step(value) for value in (0.7, 1, 1.1, 3, 7, 42)], [1, 1, 2, 5, 10, 50])


class PlotStream(Folder):
    def plot(self, text, *words):
        (self.folder / "x.csv").write_text(text)
        self.out = self.folder / "x.svg"
        return self.run_script("plot-stream", *words, "-o", self.out)

    def test_plot_shows_each_curve(self):
        rows = [f"{tokens},window,{keep},30,{20 + keep + tokens / 100}" for tokens in (256, 512, 768) for keep in (0, 4)]
        text = "\n".join(["tokens,policy,keep,ppl,ppl_stretch", *rows, "768,recompute,0,9,9", ""])
        file = self.folder / "x.csv"
        done = self.plot(text, "base <0>", file, "0", "base, 4", file, "4")
        self.assertEqual(done.returncode, 0, done.stderr)
        root = xml.fromstring(self.out.read_text())
        texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        self.assertTrue({"base <0>", "base, 4", "0", "600"} <= set(texts), texts)
        curves = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("class") == "curve"]
        self.assertEqual([path.get("d").count(",") for path in curves], [3, 3])
        read = load("plot-stream").read_curve(file, 4, 2)
        self.assertEqual([tokens for tokens, _ in read], [512])
        self.assertAlmostEqual(read[0][1], math.sqrt(26.56 * 29.12))

    def test_axes_have_round_numbers(self):
        plot = load("plot-stream")

        def under_the_axis(last):
            root = xml.fromstring(plot.svg("title", [("label", [(last, 20.0)])]))
            texts = root.iter("{http://www.w3.org/2000/svg}text")
            return " ".join(text.text for text in texts if text.get("y") == str(plot.BOTTOM + 20))

        self.assertEqual([under_the_axis(last) for last in (1, 768, 1000, 38912)],
                         ["0 1", "0 200 400 600", "0 200 400 600 800 1,000", "0 10,000 20,000 30,000"])
        self.assertEqual(plot.round_numbers(3, 300), [5, 10, 20, 50, 100, 200])
        self.assertEqual(plot.round_numbers(24.7, 50), [30, 40, 50])

    def test_what_is_no_run_is_refused(self):
        for text in ("", "tokens,policy,keep,ppl,ppl_stretch\n1,window,4,1,1\n", "policy,keep\nwindow,0\n", "{}"):
            done = self.plot(text, "a", self.folder / "x.csv", "0")
            self.assertEqual(done.returncode, 1, text)
            self.assertRegex(done.stderr, "^plot-stream: error: .*x.csv: .*\n$")
            self.assertFalse(self.out.exists())


# A vga program that answers as its name says, for scripts/measure.
PROGRAM = """#!{python}
import json, pathlib, sys
name = pathlib.Path(sys.argv[0]).name
loss = {{"q8_0": 0.25, "q4_0": 2, "q4_k_m": -1}}
head = {{"first_attention": [0.1, 0.5], "gated_first_attention": [0.1, 0.1], "value_norm_ratio": [0.2, 1.0]}}
if name == "vga-quantize":
    pathlib.Path(sys.argv[2]).write_text(sys.argv[3])
elif name == "vga-perplexity" and "--w8a8" in sys.argv:
    print(json.dumps({{"perplexity": 10, "w8a8_perplexity": 10.5, "delta": 0.5}}))
elif name == "vga-perplexity":
    print(json.dumps({{"perplexity": 10 + loss[pathlib.Path(sys.argv[2]).read_text()]}}))
elif name == "vga-probe":
    print(json.dumps({{"sink_rate": 0.5, "first_attention": 0.3, "max_inf_norm": 7, "avg_kurtosis": 3, "layers": [head, head]}}))
else:
    print(json.dumps({{"policies": [{{"policy": "window", "keep": keep, "ppl": 20 - keep}} for keep in (0, 1, 4)]}}))
"""


class Measure(Folder):
    def test_figures_come_from_the_programs(self):
        for name in ("vga-perplexity", "vga-quantize", "vga-probe", "vga-stream"):
            (self.folder / name).write_text(PROGRAM.format(python=sys.executable))
            (self.folder / name).chmod(0o755)
        out = self.folder / "figures.json"
        done = self.run_script("measure", "a/b.gguf", "-f", "text", "--bin", self.folder, "--json", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(out.read_text()), {"b": {
            "perplexity": 10, "W8A8": 0.5, "q8_0": 0.25, "q4_0": 2, "q4_k_m": -1, "sink rate": 0.5,
            "attention on first token": 0.3, "largest head": 0.5, "times gate": 0.1, "value norm ratio, mean": 0.6,
            "value norm ratio, least": 0.2, "max infinity norm": 7, "average kurtosis": 3, "stream, 0 kept": 20,
            "stream, 4 kept": 16}})
        self.assertIn("| q4_k_m | -1 |", done.stdout)
        self.assertIn("| W8A8 | +0.5 |", done.stdout)

    def test_an_error_is_the_programs(self):
        done = self.run_script("measure", "b.gguf", "-f", "text", "--bin", self.folder)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("vga-perplexity: No such file", done.stderr)


try:
    import numpy as np
except ImportError:
    np = None


@unittest.skipIf(np is None, "needs numpy")
class CompareOutputs(unittest.TestCase):
    def setUp(self):
        self.module = load("compare-outputs")

    def test_rows(self):
        reference = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], np.float32))
        logits = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.2, 0.7]], np.float32)) + 3     # a shift means nothing
        rows = self.module.compare_rows(logits, reference, [0, 2])
        divergence = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.5)
        np.testing.assert_allclose(rows[0][:4], [-math.log(0.25), -math.log(0.5), divergence, 0], atol=1e-6)
        np.testing.assert_allclose(rows[1], [-math.log(0.7), -math.log(0.7), 0, 1, 0], atol=1e-6)
        # The reference's best is 0, its second best one of the others.
        self.assertAlmostEqual(abs(rows[0][4] + 1.5 * math.log(2)), 0.5 * math.log(2), places=5)
        summary = self.module.summary(rows)
        self.assertAlmostEqual(summary["perplexity"], math.exp((math.log(4) - math.log(0.7)) / 2), places=5)
        self.assertAlmostEqual(summary["divergence"], divergence / 2, places=6)
        self.assertEqual(summary["same_best"], 0.5)

    def test_chunks_begin_as_every_text_does(self):
        chunks_of = self.module.chunks_of
        self.assertEqual(chunks_of([1, 5, 6, 7, 8, 9, 10], [1], 3, 9), [[1, 5, 6], [1, 8, 9]])
        self.assertEqual(chunks_of([5, 6, 7, 8], [], 2, 1), [[5, 6]])
        self.assertEqual(chunks_of([5, 6], [], 3, 9), [])

    def test_greedy_differences(self):
        ours = np.array([[0, 1, 3], [5, 4.5, 0]], np.float32)
        theirs = np.array([[0, 1, 2], [5, 5.25, 0]], np.float32)
        [difference] = self.module.differences(ours, theirs, [2, 1])
        self.assertEqual(difference, {"step": 1, "vga_token": 0, "llama_token": 1, "vga_gap": 0.5, "llama_gap": 0.25})
        self.assertTrue(self.module.near_tie(difference, {"gap_moved": 0.2}))
        self.assertFalse(self.module.near_tie(difference, {"gap_moved": 0.1}))


@unittest.skipIf(np is None, "needs numpy")
class Backcopy(unittest.TestCase):
    def setUp(self):
        self.module = load("backcopy")
        step = {"attention": 0.5, "gate of <s>": None, "bigram risk": 0.1, "backcopy risk": 0.2, "value ratio": 0.1,
                "gated attention": 0.5, "delta logit": -3, "value of <s>": 1}
        losses = {"loss, 0 kept": 2.5, "loss, 1 kept": 2.25, "loss, 4 kept": 2.25}
        self.results = [{"variant": "vanilla", "seed": seed, "eviction": losses,
                         "steps": {str(s): step | {"attention": 0.5 * seed} for s in range(200, 1201, 200)}} for seed in (1, 2)]

    def test_plots_are_svg(self):
        for title, key in self.module.FIGURES.values():
            xml.fromstring(self.module.plot(title, key, self.results, ["vanilla"]))
        xml.fromstring(self.module.plot_eviction(self.results, ["vanilla"]))

    def test_table_has_means_and_ranges(self):
        row = self.module.table(self.results, ["vanilla"]).splitlines()[-1]
        self.assertTrue(row.startswith("| vanilla | 0.2 (0.2 to 0.2) | 0.1 (0.1 to 0.1) | 0.75 (0.5 to 1) |"), row)
        self.assertIn("| – | 2.5 (2.5 to 2.5) | 2.25", row)


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that answers token by token, each after the server's pause; a prompt of over 100 tokens takes longer."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who has enough hangs up
            super().handle()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, asked))
        if self.server.fails:
            self.send_response(503)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"busy")
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        prompt = asked.get("prompt") or asked["messages"][0]["content"].split()
        if len(prompt) > 100:
            time.sleep(0.3)
        for _ in range(asked["max_tokens"]):
            time.sleep(self.server.pause)
            choice = {"text": "x"} if "prompt" in asked else {"delta": {"content": "x"}}
            self.event(json.dumps({"choices": [choice]}))
        self.event(json.dumps({"choices": [], "usage": {"prompt_tokens": len(prompt), "completion_tokens": asked["max_tokens"]}}))
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, data):
        text = f"data: {data}\n\n".encode()
        # In two pieces, as a network may do it.
        for part in (text[:9], text[9:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))


class Load(Folder):
    def serve(self, pause=0.001, fails=False):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        server.daemon_threads = True
        server.pause, server.fails, server.asked = pause, fails, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return server, f"http://127.0.0.1:{server.server_port}"

    def test_streams_are_timed(self):
        server, url = self.serve(pause=0.02)
        out = self.folder / "load.json"
        done = self.run_script("load", url, "-c", "1,3", "-p", "7", "-n", "9", "--rounds", "2", "--warm-up", "0", "--json", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(server.asked), 2 * (1 + 3))
        prompts = [tuple(asked["prompt"]) for _, asked in server.asked]
        self.assertEqual({len(prompt) for prompt in prompts}, {7})
        self.assertEqual(len(set(prompts)), 8, "prompts are alike")
        results = json.loads(out.read_text())["results"]
        for streams in (1, 3):
            [row] = results[str(streams)].values()
            self.assertEqual((row["prompt_tokens"], row["tokens"]), (7, 9))
            self.assertGreater(row["gap"]["50"], 19)
            self.assertGreater(row["first"]["50"], 19)
            self.assertGreater(row["total"]["50"], 9 * 20 - 1)
            self.assertLess(row["tokens_per_second"], streams * 50)
            self.assertGreater(row["tokens_per_second"], streams * 15)

    def test_a_race_takes_turns(self):
        (one, url), (other, against) = self.serve(pause=0.01), self.serve(pause=0.03)
        done = self.run_script("load", url, "--against", against, "-c", "2", "-p", "5", "-n", "10", "--rounds", "1", "--chat", "--same")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([path for path, _ in one.asked], 4 * ["/v1/chat/completions"])
        self.assertEqual([asked["messages"] for _, asked in one.asked], [asked["messages"] for _, asked in other.asked])
        ratio = float(next(line for line in done.stdout.splitlines() if "ratio" in line).split()[2])
        self.assertGreater(ratio, 1.5)
        self.assertLess(ratio, 4)

    def test_a_long_prompt_comes_in_between(self):
        server, url = self.serve(pause=0.02)
        out = self.folder / "load.json"
        done = self.run_script("load", url, "-c", "2", "-p", "5", "-n", "30", "--rounds", "1", "--warm-up", "0", "--long", "101", "--json", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        [row] = json.loads(out.read_text())["results"]["2"].values()
        self.assertGreater(row["long"]["first"], 300)
        self.assertLess(row["long"]["gap"], 250)  # here nobody waits for it
        self.assertEqual(sorted(len(asked["prompt"]) for _, asked in server.asked), [5, 5, 101])

    def test_what_fails_is_one_line(self):
        _, busy = self.serve(fails=True)
        for arguments, said in (([busy, "-c", "2"], "2 streams: status 503: busy"), (["http://127.0.0.1:1"], "127.0.0.1:1, 1 stream: .*failed"),
                                (["nonsense"], "wanted an address"), ([busy, "--against", busy], "another server")):
            done = self.run_script("load", *arguments)
            self.assertEqual(done.returncode, 1, arguments)
            self.assertRegex(done.stderr.splitlines()[-1], f"^load: error: .*{said}")
            self.assertNotIn("Traceback", done.stderr)
        for arguments in (["-c", "0"], ["-p", "x"], ["--ids", "5-4"]):
            self.assertEqual(self.run_script("load", busy, *arguments).returncode, 2, arguments)

    def test_percentiles(self):
        percentile = load("load").percentile
        self.assertEqual([percentile(range(1, 101), share) for share in (50, 95, 99)], [50, 95, 99])
        self.assertEqual([percentile([3, 1], share) for share in (50, 95)], [1, 3])


class Replies(http.server.BaseHTTPRequestHandler):
    """A chat server that says its name and how many messages it was sent. One named "loops" repeats that from the third on."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        times = 9 if self.server.name == "loops" and len(asked["messages"]) > 1 else 1
        answer = {"content": " ".join([f"{self.server.name} {len(asked['messages'])}"] * times)}
        body = json.dumps({"choices": [{"message": answer}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Conversations(Folder):
    def serve(self, name):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replies)
        server.daemon_threads, server.name = True, name
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}"

    def train(self, name, *arguments):
        return subprocess.run([sys.executable, TRAINING / name, *map(str, arguments)], capture_output=True, text=True)

    def test_conversations_are_whole_in_order_and_repeatable(self):
        out = [self.folder / "a.jsonl", self.folder / "b.jsonl"]
        url = self.serve("s")
        for file, flags in zip(out, (["--conversations", 6], ["--conversations", 3, "--first", 3])):
            done = self.train("converse.py", "--server", url, "--out", file, "--turns", 3, *flags)
            self.assertEqual(done.returncode, 0, done.stderr)
        talks = [json.loads(line) for line in out[0].read_text().splitlines()]
        self.assertEqual(talks[3:], [json.loads(line) for line in out[1].read_text().splitlines()])
        for talk in talks:
            self.assertEqual([message["role"] for message in talk], ["user", "assistant"] * (len(talk) // 2))
            self.assertEqual([m["content"] for m in talk[1::2]], [f"s {i}" for i in range(1, len(talk), 2)])
        self.assertGreater(len({len(talk) for talk in talks}), 1)

    def test_loops(self):
        before_loop = load(str(TRAINING / "repeats.py")).before_loop
        for text in ("", "one", "a b a b c", "a a"):
            self.assertEqual(before_loop(text), text)
        self.assertEqual(before_loop("in a b a b\n a b a b"), "in a b a b")
        self.assertEqual(before_loop("x x x"), "x x")
        long = " ".join(map(str, range(40)))
        self.assertEqual(before_loop(f"{long} {long} {long}"), f"{long} {long}")

    def test_a_conversation_ends_where_its_answer_loops(self):
        out = self.folder / "loops.jsonl"
        done = self.train("converse.py", "--server", self.serve("loops"), "--out", out, "--turns", 4, "--conversations", 8)
        self.assertEqual(done.returncode, 0, done.stderr)
        said = [[m["content"] for m in json.loads(line)[1::2]] for line in out.read_text().splitlines()]
        self.assertIn(["loops 1", "loops 3 loops 3"], said)
        self.assertEqual(max(map(len, said)), 2)

    def test_a_blind_reader_is_counted_by_the_key(self):
        prompts = self.folder / "prompts.txt"
        prompts.write_text("".join(f"question {i}\n" for i in range(12)))
        done = self.train("blind.py", "ask", "--servers", self.serve("left"), self.serve("right"), "--prompts", prompts, "--out", self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.count(": 0 of 12 answers fall into a loop"), 2)
        text = (self.folder / "pairs.txt").read_text()
        pairs = [part.splitlines() for part in text.split("######## ")[1:]]
        firsts = [pair[2].split()[0] for pair in pairs]
        self.assertEqual([pair[0] for pair in pairs], [f"{i + 1}. question {i}" for i in range(12)])
        self.assertEqual(set(firsts), {"left", "right"})
        # A reader who always likes "right" better, and in two pairs sees no difference.
        ratings = ["=", "="] + ["1" if first == "right" else "2" for first in firsts[2:]]
        (self.folder / "ratings.txt").write_text("\n".join(ratings))
        counted = self.train("blind.py", "count", self.folder).stdout
        self.assertRegex(counted, "preferred 0 times, http://.* 10 times, no difference 2 times; sign test p = 0.002")
        (self.folder / "ratings.txt").write_text("1 2")
        refused = self.train("blind.py", "count", self.folder)
        self.assertEqual(refused.returncode, 1)
        self.assertRegex(refused.stderr, "^.*ratings.txt: wanted 12 of 1, 2 and =, found 2 words\n$")


if __name__ == "__main__":
    unittest.main()
