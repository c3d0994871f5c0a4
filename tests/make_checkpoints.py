"""Writes tests/data/checkpoints: one small Llama, saved in the ways in which people save models, with the logits that
transformers computes for it.

    python tests/make_checkpoints.py            needs torch, transformers and numpy

The results are committed, so the C++ tests need no Python. A case is a folder with a checkpoint, tokens.json,
logits.npy (tokens, vocab) and, where vga-convert needs to be told something, a file `flags`. What a wrapper does to names
is done by the wrapper itself where it runs in one CPU process; the others are written by hand.
"""
import argparse
import collections
import contextlib
import io
import json
import pathlib
import shutil

import numpy as np
import torch
import torch.distributed
import transformers
from safetensors.torch import save_file

DATA = pathlib.Path(__file__).parent / "data" / "checkpoints"
SIZES = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
             vocab_size=40, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
TOKENS = torch.randint(3, 40, (24,), generator=torch.Generator().manual_seed(7))
UNTIED = "tie_word_embeddings", False
TIED = "tie_word_embeddings", True
LINEAR = "rope_parameters", {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
LLAMA3 = "rope_parameters", {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 0.25,
                             "high_freq_factor": 2.0, "original_max_position_embeddings": 20}


def make_model(*settings):
    """A Llama in bfloat16 whose attention is far from uniform."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **dict(settings)))
    generator = torch.Generator().manual_seed(3)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=generator)
        p.data = 1 + 0.2 * draw if "norm" in name else draw * 1.5 * p.shape[-1] ** -0.5
    model.tie_weights()
    return model.to(torch.bfloat16).eval()


def logits(model):
    """In float32, from the weights as they are stored: in a new model, as to(bfloat16) rounds RoPE's frequencies, too."""
    fresh = transformers.LlamaForCausalLM(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    fresh.set_attn_implementation("eager")
    with torch.no_grad():
        return fresh(TOKENS[None]).logits[0].numpy()


def old_config(model, **more):
    """config.json as transformers 4 wrote it."""
    return SIZES | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rope_theta": 10000.0,
                    "rope_scaling": None, "torch_dtype": "bfloat16", "attention_bias": False, "mlp_bias": False,
                    "transformers_version": "4.46.0", "tie_word_embeddings": model.config.tie_word_embeddings} | more


def write_config(folder, model, **more):
    (folder / "config.json").write_text(json.dumps(old_config(model, **more), indent=1) + "\n")


def state(model):
    return {name: t.detach() for name, t in model.state_dict().items()}


def renamed(tensors, *pairs):
    for old, new in pairs:
        tensors = {name.replace(old, new): t for name, t in tensors.items()}
    return tensors


CASES = {}


def case(*settings):
    def register(function):
        CASES[function.__name__] = (settings, function)
        return function
    return register


@case(TIED)
def transformers_tied(model, folder):
    model.save_pretrained(folder)


@case(UNTIED)
def transformers_untied(model, folder):
    model.save_pretrained(folder)


@case(UNTIED, LLAMA3)
def transformers_llama3(model, folder):
    model.save_pretrained(folder)


@case(UNTIED)
def head_differs_though_tied(model, folder):
    write_config(folder, model, tie_word_embeddings=True)
    save_file(state(model), folder / "model.safetensors")


@case(TIED)
def head_is_a_copy(model, folder):
    write_config(folder, model)
    save_file({name: t.clone() for name, t in state(model).items()}, folder / "model.safetensors")


@case(UNTIED)
def sharded_safetensors(model, folder):
    model.save_pretrained(folder, max_shard_size="16KB")


@case(TIED)
def sharded_bin(model, folder):
    write_config(folder, model)
    tensors = {name: t.clone() for name, t in state(model).items() if name != "lm_head.weight"}
    where = {}
    names = list(tensors)
    for i, part in enumerate((names[:8], names[8:]), 1):
        file = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")


@case(TIED)
def pytorch_bin(model, folder):
    write_config(folder, model, pad_token_id=-1, unknown=float("nan"), bounds=[float("inf"), float("-inf")])
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


@case(UNTIED)
def model_bin(model, folder):
    write_config(folder, model, rope_scaling={"type": "default", "factor": 1.0})
    torch.save(model.state_dict(), folder / "model.bin")


@case(UNTIED, LINEAR)
def model_pth(model, folder):
    write_config(folder, model, rope_scaling={"type": "linear", "factor": 4.0}, rope_parameters=LINEAR[1])
    torch.save(collections.OrderedDict(model.state_dict()), folder / "model.pth")


@case(UNTIED)
def compiled(model, folder):
    write_config(folder, model)
    torch.save(torch.compile(model).state_dict(), folder / "compiled.pt")


@case(UNTIED)
def layers_compiled(model, folder):
    write_config(folder, model)
    for i, layer in enumerate(model.model.layers):
        model.model.layers[i] = torch.compile(layer)
    torch.save(model.state_dict(), folder / "layers.pt")


@case(UNTIED)
def data_parallel_compiled(model, folder):
    write_config(folder, model)
    parallel = torch.nn.parallel.DistributedDataParallel(model.float())
    torch.save({name: t.bfloat16() for name, t in torch.compile(parallel).state_dict().items()}, folder / "ddp.pt")


@case(UNTIED)
def layers_checkpointed(model, folder):
    """Activation checkpointing, saved without the hook that takes the wrapper's name out again."""
    write_config(folder, model)
    tensors = {}
    for name, t in state(model).items():
        head, dot, rest = name.partition(".self_attn.")
        tensors[head + "._checkpoint_wrapped_module" + dot + rest if dot else name] = t
    torch.save(tensors, folder / "model.pt")


@case(TIED)
def fully_sharded(model, folder):
    write_config(folder, model)
    tensors = renamed(state(model), ("model.", "_fsdp_wrapped_module.model."),
                      (".self_attn.", "._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn."))
    torch.save({name: t for name, t in tensors.items() if "lm_head" not in name}, folder / "fsdp.pt")


@case(UNTIED)
def peft_merged(model, folder):
    write_config(folder, model)
    tensors = renamed({"base_model.model." + name: t for name, t in state(model).items()},
                      (".q_proj.", ".q_proj.base_layer."), (".v_proj.", ".v_proj.base_layer."))
    for layer in (0, 1):
        for part in "AB":
            tensors[f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.default.weight"] = torch.ones(2, 2)
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "flags").write_text("--skip lora_\n")


@case(UNTIED)
def lightning(model, folder):
    """A LightningModule that holds the model as `self.model`, with what else such a file has."""
    write_config(folder, model)
    tensors = {"model." + name: t for name, t in state(model).items()}
    torch.save({"epoch": 3, "global_step": 1200, "pytorch-lightning_version": "2.5.0", "state_dict": tensors,
                "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}}}},
                "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(1.5),
                                                                     "dirpath": pathlib.PurePosixPath("runs")}},
                "optimizer_states": [{"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 1e-3}]}],
                "lr_schedulers": [{"_last_lr": [np.float64(1e-3)]}], "hparams_name": "kwargs",
                "hyper_parameters": argparse.Namespace(lr=1e-3, sizes=torch.Size([2, 3]))}, folder / "last.ckpt")


@case(UNTIED)
def deepspeed(model, folder):
    write_config(folder, model)
    shapes = [collections.OrderedDict((name, t.shape) for name, t in model.state_dict().items())]
    torch.save({"module": model.state_dict(), "buffer_names": [], "param_shapes": shapes, "frozen_param_fragments": None,
                "dtype": torch.bfloat16, "global_steps": 7, "mp_world_size": 1, "skipped_steps": np.int64(0),
                "ds_config": {"zero": {"stage": 1}}}, folder / "mp_rank_00_model_states.pt")


@case(UNTIED)
def averaged(model, folder):
    """The averaged weights of an exponential moving average, beside what a hand-written loop keeps."""
    write_config(folder, model)
    torch.save({"ema": model.state_dict(), "decay": np.float32(0.999), "seen": {"a", "b"}, "frozen": frozenset((1,)),
                "device": torch.device("cpu"), "rng": {"numpy": np.random.RandomState(1).get_state(),  # noqa: NPY002
                                                      "torch": torch.get_rng_state()[:16]},
                "range": slice(1, 2), "big": 1 << 100, "complex": 1 + 2j, "raw": b"bytes", "array": bytearray(b"more"),
                "counts": collections.Counter("abba"), "default": collections.defaultdict(list, a=[1])}, folder / "ema.pt")


@case(UNTIED)
def newest_protocol(model, folder):
    """The same in the newest pickle protocol, and the weights in a container in a container."""
    write_config(folder, model)
    torch.save({"model": {"net": model.state_dict()}, "seen": {"a", "b"}, "frozen": frozenset((1,)), "big": 1 << 3000,
                "raw": b"bytes" * 100, "array": bytearray(b"more"), "scalar": np.float64(2.5), "values": np.arange(3)},
               folder / "net.pt", pickle_protocol=5)


@case(TIED)
def trainer(model, folder):
    """A checkpoint folder of transformers' Trainer."""
    model.save_pretrained(folder)
    torch.save({"state": {0: {"step": 1}}, "param_groups": []}, folder / "optimizer.pt")
    torch.save({"last_epoch": 1}, folder / "scheduler.pt")
    torch.save({"python": (3, (1, 2), None)}, folder / "rng_state.pth")
    (folder / "trainer_state.json").write_text('{"log_history": [{"loss": NaN}]}\n')
    (folder / "training_args.bin").write_bytes(b"PK\x03\x04")


@case(UNTIED)
def own_loop(model, folder):
    """One file of weights beside the optimizer's, buffers of an old transformers among them."""
    write_config(folder, model)
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in (0, 1)}
    torch.save({"model_state_dict": model.state_dict() | buffers | {"causal_mask": torch.ones(2, 2)}, "loss": 1.5},
               folder / "step100.pt")
    torch.save({"state": {0: {"step": 1}}, "param_groups": []}, folder / "optimizer.pt")
    (folder / "flags").write_text("--skip ^causal_mask$\n")


def main():
    shutil.rmtree(DATA, ignore_errors=True)
    torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:29511", rank=0, world_size=1)
    for name, (settings, save) in CASES.items():
        folder = DATA / name
        folder.mkdir(parents=True)
        model = make_model(*settings)
        np.save(folder / "logits.npy", logits(model))
        (folder / "tokens.json").write_text(json.dumps(TOKENS.tolist()) + "\n")
        with contextlib.redirect_stderr(io.StringIO()):
            save(model, folder)
    torch.distributed.destroy_process_group()
    size = sum(f.stat().st_size for f in DATA.rglob("*") if f.is_file())
    print(f"{len(CASES)} checkpoints, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
