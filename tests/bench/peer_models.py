"""The models that peers_cpu.py runs: a directory that Octavo and PyTorch load and the same weights
in the forms that ONNX Runtime and OpenVINO compute fastest from, in float32 and in int8, weights
and activations both. What has to be made is made once and kept in the cache."""

import contextlib
import hashlib
import json
import pathlib
import shutil
import sys

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
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


def export_onnx(model_directory, path):
    """Attention is exported as plain products and a softmax and the graph as a trace: that is the
    form in which both libraries know an encoder's layers and fuse them."""
    import torch
    from transformers import AutoModel

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = AutoModel.from_pretrained(model_directory, dtype=torch.float32,
                                                     attn_implementation="eager")

        def forward(self, input_ids, attention_mask):
            return self.encoder(input_ids=input_ids,
                                attention_mask=attention_mask).last_hidden_state

    ids = torch.ones(2, 16, dtype=torch.int64)
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(Encoder().eval(), (ids, torch.ones_like(ids)), str(path),
                      input_names=["input_ids", "attention_mask"], output_names=["hidden"],
                      dynamic_axes={"input_ids": axes, "attention_mask": axes, "hidden": axes},
                      dynamo=False, opset_version=17)


class Model:
    """`directory` and `weights`, a name of what it holds, are set by the models below."""

    def __init__(self, cache, directory, weights, heads, hidden):
        self.cache, self.directory, self.weights = cache, directory, weights
        self.heads, self.hidden = heads, hidden

    def made(self, name, make):
        return made_once(self.cache / f"{self.name}-{self.weights}-{name}", make)

    def onnx(self):
        return self.made("fp32.onnx", lambda path: export_onnx(self.directory, path))

    def fused_onnx(self):
        return self.made("fused.onnx", self.fuse)

    def fuse(self, path):
        """With ONNX Runtime's own attention, norm and GELU in place of their parts."""
        from onnxruntime.transformers import optimizer
        model = optimizer.optimize_model(self.onnx(), "bert", num_heads=self.heads,
                                         hidden_size=self.hidden, opt_level=0)
        fused = model.get_fused_operator_statistics()
        if not fused["Attention"] or not fused["BiasGelu"] or not fused["SkipLayerNormalization"]:
            sys.exit(f"ONNX Runtime fuses no whole layers of {self.name}: {fused}")
        model.save_model_to_file(str(path))

    def int8_onnx(self):
        return self.made("int8.onnx", self.quantize_dynamic)

    def quantize_dynamic(self, path):
        """Activations as they come, weights by channel. Unsigned weights take 1.4 times as long on
        VNNI; one scale for a whole matrix saves nothing and leaves a cosine of 0.93."""
        import onnx
        from onnxruntime import quantization
        quantization.quantize_dynamic(self.fused_onnx(), path, per_channel=True,
                                      weight_type=quantization.QuantType.QInt8,
                                      op_types_to_quantize=["MatMul", "Attention"],
                                      extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})

    def int8_openvino(self, calibration):
        """`calibration()` gives the ids of texts that are not timed."""
        directory = self.made("openvino-int8", lambda path: self.calibrate(path, calibration()))
        return str(pathlib.Path(directory) / "model.xml")

    def calibrate(self, directory, texts):
        """Activations by ranges seen in `texts`, outliers moved into the weights (SmoothQuant): of
        what OpenVINO offers the fastest."""
        import nncf
        import numpy as np
        import openvino
        shutil.rmtree(directory, ignore_errors=True)
        samples = [{"input_ids": np.array([ids], np.int64),
                    "attention_mask": np.ones((1, len(ids)), np.int64)} for ids in texts]
        quantized = nncf.quantize(openvino.Core().read_model(self.onnx()), nncf.Dataset(samples),
                                  model_type=nncf.ModelType.TRANSFORMER,
                                  preset=nncf.QuantizationPreset.MIXED, subset_size=len(samples))
        openvino.save_model(quantized, directory / "model.xml", compress_to_fp16=False)


class MiniLm(Model):
    """all-MiniLM-L6-v2 itself."""

    name = "minilm"
    documents = 256

    def __init__(self, minilm_directory, cache):
        super().__init__(cache, minilm_directory, MINILM_SHA256[:12], heads=12, hidden=384)


class BertBase(Model):
    """BERT-base with random weights: as fast as trained ones. MiniLM gives the tokenizer, which is
    BERT's own, and the sentence-transformers modules, so that the ids are the same."""

    name = "bert-base"
    documents = 48  # its linear layers are 8 times MiniLM's
    seed = 1

    def __init__(self, minilm_directory, cache):
        directory = made_once(cache / f"bert-base-seed{self.seed}",
                              lambda partial: self.initialize(minilm_directory, partial))
        # Other versions of PyTorch may draw other weights.
        weights = sha256(pathlib.Path(directory) / "model.safetensors")[:12]
        super().__init__(cache, directory, weights, heads=12, hidden=768)

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


SHAPES = {shape.name: shape for shape in (MiniLm, BertBase)}
