"""Teacher and student in one: a base whose frozen matrices both share, and the updates and gates that only the student has.

    view = make_student(model, gate, torch.bfloat16)
    view.see(512, window=128)                           # the student's view; see(512, student=False) is the teacher's
    logits(model, hidden(model, tokens, rope))
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

import model as reference

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
OPEN = 5.0                  # bias of an open gate
SPIKE = 16                  # a token spikes when its largest number is so many times the median token's


# ---- what is not a product, fused: on a CPU it takes as long as the products otherwise ----------------------------------

@torch.compile(dynamic=True)
def normalised(x, weight, eps, dtype):
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight).to(dtype)


@torch.compile(dynamic=True)
def gated_product(gate, up):
    gate = gate.float()
    return (gate * torch.sigmoid(gate) * up.float()).to(up.dtype)


@torch.compile(dynamic=True)
def rotated(x, cos, sin):
    """x (B, T, heads, E) -> (B, heads, T, E)"""
    return reference.rotate(x.transpose(1, 2).float(), cos, sin).to(x.dtype)


# ---- the student: the base with updates and gates, which can be switched off --------------------------------------------

class Norm(reference.RMSNorm):
    """Gives its result in the matrices' precision."""

    def forward(self, x):
        return normalised(x, self.weight, self.eps, self.dtype)


class FeedForward(reference.MLP):
    def forward(self, x):
        mixed = gated_product(self.gate_proj(x), self.up_proj(x))
        if self.view.peaks is not None:
            self.view.peaks.append(excess(mixed))
        return self.down_proj(mixed)


class Layer(reference.Layer):
    """The reference's layer, which tells what it reads and whose residual sums a student may round."""

    def forward(self, x, rope, record=None):
        read = self.input_layernorm(x)
        if self.view.states is not None:
            sizes = largest(x)
            self.view.states.append((read, sizes < SPIKE / 2 * sizes.median()))
        x = self.view.rounded(x + self.self_attn(read, rope))
        return self.view.rounded(x + self.mlp(self.post_attention_layernorm(x)))


class View:
    """What all layers are told about the present forward pass, and what they tell back."""

    def __init__(self):
        self.student = False        # with updates and gates
        self.mask = None            # (T, T) which key a query sees; None: all up to itself
        self.queries = None         # positions whose attention on the first token is recorded
        self.first = []             # per layer: that attention, (B, H, queries)
        self.peaks = None           # per layer: excess() of what down_proj reads, and of the residual stream behind it
        self.states = None          # per layer: what its attention reads, (B, T, D), and which tokens do not spike there, (B, T)
        self.int8 = False           # the student rounds residual sums and what its matrices read to 8 bits
        self.fit = None             # per layer: (alpha of the first token, gate's input), for all tokens

    def see(self, T, window=0, kept=0, student=True, device="cpu"):
        self.student = student
        self.mask = None
        if window and window < T:
            i, j = torch.arange(T, device=device)[:, None], torch.arange(T, device=device)
            self.mask = (j <= i) & ((j > i - window + kept) | (j < kept))

    def rounded(self, x):
        return round_to_int8(x) if self.int8 and self.student else x


@torch.compile(dynamic=True)
def round_to_int8(x):
    """x (B, T, n) with one range a row of the batch, zero in it. The gradient passes the rounding by, and finds the range."""
    least, most = x.float().amin((1, 2), keepdim=True).clamp(max=0), x.float().amax((1, 2), keepdim=True).clamp(min=1e-6)
    step = (most - least) / 255
    units = x.float() / step
    return (step * (units + (units.round() - units).detach())).to(x.dtype)


class Updated(nn.Module):
    """A frozen matrix W (outputs, inputs), to which the student adds the update B A of a small rank."""

    def __init__(self, weight, view, dtype):
        super().__init__()
        self.register_buffer("weight", weight.detach().to(dtype), persistent=False)
        self.view, self.rank = view, 0

    def update(self, rank):
        """From now on there is an update of this rank, or of so much more; what is new begins as zero."""
        n_out, n_in = self.weight.shape
        A, B = torch.randn(rank, n_in) / math.sqrt(n_in), torch.zeros(n_out, rank)
        if self.rank:
            A, B = torch.cat((self.lora_A.detach(), A)), torch.cat((self.lora_B.detach(), B), 1)
        self.lora_A, self.lora_B, self.rank = nn.Parameter(A), nn.Parameter(B), self.rank + rank

    def cut(self, u, w):
        """Takes W u w^T away, W being the matrix with its update; u and w (k, inputs)."""
        W = self.weight.float() + (self.lora_B @ self.lora_A if self.rank else 0)
        self.update(len(u))
        self.lora_A[-len(u):] = w / w.norm(dim=1, keepdim=True)
        self.lora_B[:, -len(u):] = -(W @ u.T) * w.norm(dim=1)

    def forward(self, x):
        x = self.view.rounded(x)
        y = F.linear(x, self.weight)
        if self.rank and self.view.student:
            y = y + F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))
        return y


@torch.compile(dynamic=True)
def largest(x):
    """Each token's largest number, (B, T). x (B, T, n)"""
    return x.float().abs().amax(-1)


def excess(x):
    """How far, in log, the largest number exceeds SPIKE / 2 times the median token's, (B)."""
    sizes = largest(x)
    return F.relu((sizes.amax(1) / sizes.detach().median(1).values * (2 / SPIKE)).log())


class Attention(reference.Attention):
    """The reference's attention with a window; products in the matrices' precision."""

    def forward(self, x, rope, record=None):
        B, T, _ = x.shape
        c, gate, view = self.config, self.config.gate, self.view
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        dtype = q.dtype
        q = rotated(q.view(B, T, -1, c.head_dim), *rope)                                         # (B, H, T, E)
        k = rotated(k.view(B, T, -1, c.head_dim), *rope)                                         # (B, K, T, E)
        values = v.view(B, T, -1, c.head_dim)                                                    # (B, T, K, E)
        gated = view.student and gate.source != "none"
        g = self.gate(x.float(), v.float()).to(dtype) if gated else None                         # (B, T, H or K, E or 1)
        if gated and gate.placement == "value":
            values = values * g
        shared = c.num_attention_heads // c.num_key_value_heads
        k = k.repeat_interleave(shared, 1)
        values = values.transpose(1, 2).repeat_interleave(shared, 1)
        mixed = F.scaled_dot_product_attention(q, k, values, view.mask, is_causal=view.mask is None)
        if view.queries is not None:
            view.first.append(first_attention(q[:, :, view.queries], k, view.queries))
        if view.fit is not None:
            inputs = v if gate.source == "value" else x
            view.fit.append((first_attention(q, k, torch.arange(T)), inputs.float()))
        mixed = mixed.transpose(1, 2)
        if gated and gate.placement == "output":
            mixed = mixed * g
        return self.o_proj(mixed.reshape(B, T, -1))


def first_attention(q, k, positions):
    """The weight that queries at these positions give to the first token in the full view, (B, H, queries)."""
    scores = (q @ k.mT).float() * q.shape[-1] ** -0.5
    hidden = torch.arange(k.shape[2], device=k.device) > positions[:, None]
    return scores.masked_fill(hidden, -math.inf).softmax(-1)[..., 0]


def make_student(model, gate, dtype):
    """Turns the base into teacher and student in one, which share the frozen matrices. Returns its View."""
    model.requires_grad_(False)
    view, K_E = View(), model.config.num_key_value_heads * model.config.head_dim
    model.config.gate = gate
    model.model.embed_tokens.to(dtype)
    for norm in (module for module in model.modules() if isinstance(module, reference.RMSNorm)):
        norm.__class__, norm.dtype = Norm, dtype
    for layer in model.model.layers:
        layer.__class__, layer.view, layer.mlp.__class__, layer.mlp.view = Layer, view, FeedForward, view
        attention = layer.self_attn
        attention.__class__, attention.view = Attention, view
        for block, names in ((attention, ATTENTION), (layer.mlp, MLP)):
            for name in names:
                setattr(block, name, Updated(getattr(block, name).weight, view, dtype))
        if gate.source != "none":
            n_in = K_E if gate.source == "value" else model.config.hidden_size
            heads = model.config.num_attention_heads if gate.placement == "output" else model.config.num_key_value_heads
            attention.gate_proj = nn.Linear(n_in, heads * (model.config.head_dim if gate.granularity == "element" else 1))
            nn.init.zeros_(attention.gate_proj.weight)
            nn.init.constant_(attention.gate_proj.bias, OPEN)
    return view


def hidden(model, tokens, rope):
    """(B, T) -> the normalised residual stream behind the last layer, (B, T, D)."""
    x, view = model.model.embed_tokens(tokens).float(), model.model.layers[0].self_attn.view
    for layer in model.model.layers:
        x = layer(x, rope)
        if view.peaks is not None:
            view.peaks.append(excess(x))
    return model.model.norm(x)


def logits(model, h):
    head = model.model.embed_tokens if model.config.tie_word_embeddings else model.lm_head
    return F.linear(h.to(head.weight.dtype), head.weight)
