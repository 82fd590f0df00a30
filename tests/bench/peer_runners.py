"""What peers_cpu.py compares: the libraries in this process and Octavo's own programs, each
of which embeds the same documents and queries when asked."""

import json
import os
import pathlib
import subprocess
import tempfile
import time

MAX_TOKENS = 256
BATCH = 32
WARM_UP_SHARE = 10  # a tenth of the queries is not counted
PEERS = ["onnxruntime-int8", "onnxruntime-fp32", "openvino-fp32", "openvino-int8", "torch-fp32",
         "torch-bf16"]


class Workload:
    """The texts, and the ids that the Hugging Face tokenizers library makes of them."""

    def __init__(self, arguments, model, numpy):
        import tokenizers
        self.numpy = numpy
        self.tokenizer = tokenizers.Tokenizer.from_file(
            os.path.join(model.directory, "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.document_file = os.path.join(arguments.data, "scifact", "corpus.jsonl")
        self.query_file = os.path.join(arguments.data, "nq-open", "NQ-open.dev.jsonl")
        with open(self.document_file, encoding="utf-8") as file:
            documents = [json.loads(line) for line in file][:arguments.documents]
        texts = [(d["title"] + " " + d["text"]).strip() for d in documents]
        self.documents = [e.ids for e in self.tokenizer.encode_batch(texts)]
        with open(self.query_file, encoding="utf-8") as file:
            self.queries = [json.loads(line)["question"] for line in file][:200]
        self.tokens = sum(map(len, self.documents))
        self.order = sorted(range(len(texts)), key=lambda i: -len(self.documents[i]))

    def batches(self):
        """Padded ids and masks of 32 documents of like length, with their places."""
        np = self.numpy
        for begin in range(0, len(self.order), BATCH):
            places = self.order[begin:begin + BATCH]
            length = max(len(self.documents[i]) for i in places)
            ids = np.zeros((len(places), length), np.int64)
            mask = np.zeros_like(ids)
            for row, i in enumerate(places):
                ids[row, :len(self.documents[i])] = self.documents[i]
                mask[row, :len(self.documents[i])] = 1
            yield places, ids, mask


class Peer:
    """A library that maps padded ids and a mask to last hidden states."""

    def __init__(self, name, workload, forward):
        self.name, self.workload, self.forward = name, workload, forward

    def embed(self, ids, mask):
        np = self.workload.numpy
        hidden = self.forward(ids, mask)
        weights = mask[..., None].astype(np.float32)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def documents(self):
        start = time.perf_counter()
        for _, ids, mask in self.workload.batches():
            self.embed(ids, mask)
        return time.perf_counter() - start

    def query(self, text):
        np = self.workload.numpy
        ids = np.array([self.workload.tokenizer.encode(text).ids], np.int64)
        return self.embed(ids, np.ones_like(ids))

    def queries(self):
        times = []
        for text in self.workload.queries:
            start = time.perf_counter()
            self.query(text)
            times.append(1e3 * (time.perf_counter() - start))
        return times[len(times) // WARM_UP_SHARE:]

    def vectors(self, what):
        np = self.workload.numpy
        if what == "queries":
            return np.concatenate([self.query(text) for text in self.workload.queries])
        rows = [None] * len(self.workload.documents)
        for places, ids, mask in self.workload.batches():
            for place, row in zip(places, self.embed(ids, mask)):
                rows[place] = row
        return np.stack(rows)

    def close(self):
        pass


def onnxruntime_forward(path, threads, numpy):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def forward(ids, mask):
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        return session.run(None, {name: feed[name] for name in names})[0]
    return forward


def openvino_forward(path, threads, numpy):
    import openvino
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU",
                                  {"INFERENCE_NUM_THREADS": threads,
                                   "PERFORMANCE_HINT": "LATENCY"})
    names = [i.get_any_name() for i in compiled.inputs]

    def forward(ids, mask):
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        return compiled({name: feed[name] for name in names})[0]
    return forward


def torch_forward(model_directory, dtype):
    import torch
    from transformers import AutoModel
    model = AutoModel.from_pretrained(model_directory, dtype=getattr(torch, dtype)).eval()

    @torch.inference_mode()
    def forward(ids, mask):
        return model(input_ids=torch.from_numpy(ids),
                     attention_mask=torch.from_numpy(mask)).last_hidden_state.float().numpy()
    return forward


def make_peer(name, arguments, model, workload):
    threads, numpy = arguments.threads, workload.numpy
    forwards = {
        "onnxruntime-int8": lambda: onnxruntime_forward(model.int8_onnx(), threads, numpy),
        "onnxruntime-fp32": lambda: onnxruntime_forward(model.fp32_onnx(), threads, numpy),
        # The default hint: on processors with bf16 arithmetic that is what it computes in.
        "openvino-fp32": lambda: openvino_forward(model.fp32_onnx(), threads, numpy),
        "openvino-int8": lambda: openvino_forward(model.int8_onnx(), threads, numpy),
        "torch-fp32": lambda: torch_forward(model.directory, "float32"),
        "torch-bf16": lambda: torch_forward(model.directory, "bfloat16"),
    }
    return Peer(name, workload, forwards[name]())


class Worker:
    """octavo-bench in another process, taking commands (tests/bench/model_bench.h)."""

    def __init__(self, name, command, workload, errors=None):
        self.name, self.workload = name, workload
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=errors, text=True)
        self.description = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read()

    def documents(self):
        return self.ask("documents")["seconds"]

    def queries(self):
        answer = self.ask("queries")
        if answer.get("failures") or answer.get("wrong"):
            raise RuntimeError(f"{self.name}: failed or wrong answers: {answer}")
        return answer["ms"]

    def vectors(self, what):
        np = self.workload.numpy
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "vectors")
            shape = self.ask(f"vectors {what} {path}")
            return np.fromfile(path, np.float32).reshape(shape["rows"], shape["columns"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class OverGrpc(Worker):
    """Queries to an octavo-server of our own, one at a time."""

    def __init__(self, arguments, model, workload):
        build = pathlib.Path(arguments.build)
        self.server = subprocess.Popen(
            [str(build / "service" / "octavo-server"), f"--model={model.directory}",
             "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
             f"--threads={arguments.threads}", f"--document_format={arguments.document_format}",
             f"--query_format={arguments.query_format}"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            port = json.loads(self.server.stdout.readline())["port"]
            self.start(build, port, workload)
        except BaseException:
            self.server.kill()
            raise

    def start(self, build, port, workload):
        command = [str(build / "tests" / "bench" / "octavo-bench"), "serve", "--worker",
                   f"--server=127.0.0.1:{port}", f"--queries={workload.query_file}"]
        for attempt in range(100):  # the server loads meanwhile
            last = attempt == 99 or self.server.poll() is not None
            try:
                super().__init__("octavo-grpc", command, workload,
                                 None if last else subprocess.DEVNULL)
                return
            except RuntimeError:
                if last:
                    raise
                time.sleep(0.3)

    documents = vectors = None

    def close(self):
        super().close()
        self.server.terminate()
        self.server.wait()


def make_octavo(arguments, model, workload):
    bench = str(pathlib.Path(arguments.build) / "tests" / "bench" / "octavo-bench")
    worker = Worker("octavo", [bench, "model", "--worker", f"--model={model.directory}",
                               f"--document_format={arguments.document_format}",
                               f"--query_format={arguments.query_format}",
                               f"--threads={arguments.threads}",
                               f"--max_documents={arguments.documents}",
                               f"--text={workload.document_file}",
                               f"--queries={workload.query_file}"], workload)
    if worker.description["tokens"] != workload.tokens:
        worker.close()
        raise RuntimeError(f"octavo counts {worker.description['tokens']} tokens where tokenizers "
                           f"counts {workload.tokens}")
    return worker
