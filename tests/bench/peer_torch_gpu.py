"""A BERT encoder in PyTorch on a GPU, 16 bit, out of torch.nn.functional: the peer of peers_gpu.py.

Attention is scaled_dot_product_attention with the backend named; every layer runs as it is
("eager") or through torch.compile ("compiled"). Sequences are of equal length, so nothing is
padded."""

import json
import pathlib
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

DEVICE = "cuda"
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
EVICTED_BYTES = 256 << 20  # touched before a cold query


@dataclass
class Shape:
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int = 30522
    positions: int = 512


SHAPES = {
    "minilm": Shape(384, 6, 12, 1536),
    "bert-base": Shape(768, 12, 12, 3072),
    "bert-large": Shape(1024, 24, 16, 4096),
}


def random_weights(shape, dtype, seed=1):
    """By the names of transformers' BertModel, query, key and value stacked."""
    generator = torch.Generator(device=DEVICE)
    generator.manual_seed(seed)

    def normal(*size, deviation=0.03, mean=0.0):
        values = torch.randn(*size, device=DEVICE, generator=generator)
        return (values * deviation + mean).to(dtype)

    def norm():
        return normal(shape.hidden, mean=1.0, deviation=0.014), normal(shape.hidden, deviation=0.02)

    def linear(n, k):
        return normal(n, k), normal(n, deviation=0.02)

    hidden = shape.hidden
    embeddings = [normal(rows, hidden) for rows in (shape.vocabulary, shape.positions, 1)]
    layers = [
        (
            *linear(3 * hidden, hidden),
            *linear(hidden, hidden),
            *norm(),
            *linear(shape.intermediate, hidden),
            *linear(hidden, shape.intermediate),
            *norm(),
        )
        for _ in range(shape.layers)
    ]
    return embeddings, norm(), layers


def read_weights(directory, dtype):
    """The same from a model directory of the Hugging Face layout."""
    from safetensors.torch import load_file

    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    shape = Shape(
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["intermediate_size"],
        config["vocab_size"],
        config["max_position_embeddings"],
    )
    tensors = load_file(directory / "model.safetensors", device=DEVICE)
    tensors = {name.removeprefix("bert."): t.to(dtype) for name, t in tensors.items()}

    def pair(name):
        return tensors[name + ".weight"], tensors[name + ".bias"]

    layers = []
    for i in range(shape.layers):
        layer = f"encoder.layer.{i}."
        parts = [pair(f"{layer}attention.self.{part}") for part in ("query", "key", "value")]
        layers.append(
            (
                torch.cat([weight for weight, _ in parts]),
                torch.cat([bias for _, bias in parts]),
                *pair(layer + "attention.output.dense"),
                *pair(layer + "attention.output.LayerNorm"),
                *pair(layer + "intermediate.dense"),
                *pair(layer + "output.dense"),
                *pair(layer + "output.LayerNorm"),
            )
        )
    embeddings = [
        tensors[f"embeddings.{table}_embeddings.weight"]
        for table in ("word", "position", "token_type")
    ]
    return shape, (embeddings, pair("embeddings.LayerNorm"), layers)


def make_functions(heads, backend):
    """Of embeddings, a layer and the pooling, for one backend of attention."""

    def embed(ids, word, position, token_type, gain, bias):
        x = word[ids] + position[: ids.shape[1]] + token_type[0]
        return F.layer_norm(x, x.shape[-1:], gain, bias, 1e-12)

    def layer(x, w_qkv, b_qkv, w_out, b_out, gain1, bias1, w_up, b_up, w_down, b_down, gain2, bias2):
        batch, tokens, hidden = x.shape
        qkv = F.linear(x, w_qkv, b_qkv).view(batch, tokens, 3, heads, hidden // heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        with sdpa_kernel(backend):
            attended = F.scaled_dot_product_attention(q, k, v)
        attended = attended.transpose(1, 2).reshape(batch, tokens, hidden)
        x = F.layer_norm(x + F.linear(attended, w_out, b_out), (hidden,), gain1, bias1, 1e-12)
        up = F.gelu(F.linear(x, w_up, b_up))
        return F.layer_norm(x + F.linear(up, w_down, b_down), (hidden,), gain2, bias2, 1e-12)

    def pool(x):
        return x.float().mean(1)

    return embed, layer, pool


class Encoder:
    """forward(ids [batch, tokens]) -> [batch, hidden] f32, mean-pooled. `compiled` compiles one
    layer, which all share: to them it is as good as compiling the whole, and much sooner done."""

    def __init__(self, shape, weights, backend, compiled):
        self.name = f"torch {'compiled' if compiled else 'eager'} {backend}"
        self.embeddings, self.norm, self.layers = weights
        functions = make_functions(shape.heads, BACKENDS[backend])
        if compiled:
            functions = [torch.compile(f, dynamic=False, fullgraph=True) for f in functions]
        self.embed, self.layer, self.pool = functions

    @torch.inference_mode()
    def forward(self, ids):
        x = self.embed(ids, *self.embeddings, *self.norm)
        for layer in self.layers:
            x = self.layer(x, *layer)
        return self.pool(x)


def allow_recompiling():
    """Each shape is compiled once; past the limit torch would go on uncompiled without a word."""
    config = torch._dynamo.config
    config.recompile_limit = 256
    config.accumulated_recompile_limit = 4096
    config.fail_on_recompile_limit_hit = True


def seconds_of_batches(encoder, ids, seconds):
    """Seconds of a batch, batches following each other so that the device never waits."""
    for _ in range(2):
        encoder.forward(ids)
    torch.cuda.synchronize()
    batches, events, start = 0, [], time.perf_counter()
    while batches < 1 or time.perf_counter() - start < seconds:
        if len(events) >= 2:
            events[-2].synchronize()  # stays at most two batches ahead
        encoder.forward(ids)
        event = torch.cuda.Event()
        event.record()
        events.append(event)
        batches += 1
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / batches


class GraphedQuery:
    """One sequence as a CUDA graph, from ids in pinned host memory to a vector there."""

    def __init__(self, encoder, tokens):
        self.host_ids = torch.randint(1000, 30000, (1, tokens)).pin_memory()
        self.ids = self.host_ids.to(DEVICE)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                vector = encoder.forward(self.ids)
        torch.cuda.current_stream().wait_stream(side)
        self.host_vector = torch.empty(vector.shape, dtype=torch.float32).pin_memory()
        self.graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self.graph):
            self.ids.copy_(self.host_ids, non_blocking=True)
            self.host_vector.copy_(encoder.forward(self.ids), non_blocking=True)
        self.evicted = torch.randn(EVICTED_BYTES // 4, device=DEVICE)

    def microseconds(self, cold, seconds):
        """Of each query: from the call to the vector on the host, and on the device alone."""
        wall, device = [], []
        begin = time.perf_counter()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        while len(wall) < 20 or time.perf_counter() - begin < seconds:
            if cold:
                self.evicted.add_(1.0)
            torch.cuda.synchronize()
            start = time.perf_counter()
            self.graph.replay()
            torch.cuda.synchronize()
            wall.append(1e6 * (time.perf_counter() - start))
            if cold:
                self.evicted.add_(1.0)
            first.record()
            self.graph.replay()
            last.record()
            torch.cuda.synchronize()
            device.append(1e3 * first.elapsed_time(last))
        return wall[10:], device[10:]
