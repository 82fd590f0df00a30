"""What peers_cpu.py compares: the libraries in this process and Octavo's own programs, each
of which embeds the same documents and queries when asked."""

import json
import os
import pathlib
import subprocess
import tempfile
import time

MAX_TOKENS = 256
SAMPLE = 16  # documents to try settings on
CALIBRATION_TEXTS = 100
WARM_UP_SHARE = 10  # a tenth of the queries is not counted
PEERS = ["onnxruntime-int8", "onnxruntime-fp32", "openvino-int8", "openvino-fp32", "torch-fp32",
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
            documents = [json.loads(line) for line in file]
        texts = [(d["title"] + " " + d["text"]).strip() for d in documents]
        with open(self.query_file, encoding="utf-8") as file:
            queries = [json.loads(line)["question"] for line in file]
        self.documents = self.ids(texts[:arguments.documents])
        self.queries = queries[:200]
        self.calibration_texts = (texts[arguments.documents:][-CALIBRATION_TEXTS // 2:]
                                  + queries[200:][-CALIBRATION_TEXTS // 2:])
        self.tokens = sum(map(len, self.documents))
        self.order = sorted(range(len(self.documents)), key=lambda i: -len(self.documents[i]))

    def ids(self, texts):
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def calibration(self):
        """Ids of documents and queries that are not among those timed."""
        return self.ids(self.calibration_texts)

    def batches(self, size, order=None):
        """Padded ids and masks of `size` documents of like length, with their places."""
        np, order = self.numpy, order or self.order
        for begin in range(0, len(order), size):
            places = order[begin:begin + size]
            length = max(len(self.documents[i]) for i in places)
            ids = np.zeros((len(places), length), np.int64)
            mask = np.zeros_like(ids)
            for row, i in enumerate(places):
                ids[row, :len(self.documents[i])] = self.documents[i]
                mask[row, :len(self.documents[i])] = 1
            yield places, ids, mask


class Peer:
    """A library that maps padded ids and a mask to last hidden states, `batch` texts at once."""

    def __init__(self, name, workload, forward, batch, description=None):
        self.name, self.workload, self.forward, self.batch = name, workload, forward, batch
        self.description = description

    def embed(self, ids, mask):
        np = self.workload.numpy
        hidden = self.forward(ids, mask)
        weights = mask[..., None].astype(np.float32)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def documents(self, order=None):
        start = time.perf_counter()
        for _, ids, mask in self.workload.batches(self.batch, order):
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
        for places, ids, mask in self.workload.batches(self.batch):
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


def openvino_forward(path, threads, numpy, precision):
    """`precision`: of what is not int8."""
    import openvino
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU",
                                  {"INFERENCE_NUM_THREADS": threads,
                                   "INFERENCE_PRECISION_HINT": precision,
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


def fastest(name, workload, batches, settings):
    """Of {setting: function that loads a forward} and batch sizes, those that embed documents
    soonest."""
    sample = workload.order[::max(1, len(workload.order) // SAMPLE)]
    best, least = None, float("inf")
    for setting, load in settings.items():
        forward = load()
        for batch in batches:
            peer = Peer(name, workload, forward, batch, {"setting": setting, "batch": batch})
            first = peer.documents(sample)  # warms up: some libraries compile for every shape
            if first > 3 * least:
                continue
            seconds = min(peer.documents(sample) for _ in range(2))
            if seconds < least:
                best, least = peer, seconds
    return best


def make_peer(name, arguments, model, workload):
    threads, numpy = arguments.threads, workload.numpy

    def onnxruntime(path):
        return {"default": lambda: onnxruntime_forward(path, threads, numpy)}

    def openvino(path):  # bf16 pays with AMX, not with AVX-512 alone
        return {precision: lambda precision=precision: openvino_forward(path, threads, numpy,
                                                                        precision)
                for precision in ("f32", "bf16")}

    def torch(dtype):
        return {"default": lambda: torch_forward(model.directory, dtype)}

    settings = {
        "onnxruntime-int8": lambda: onnxruntime(model.int8_onnx()),
        "onnxruntime-fp32": lambda: onnxruntime(model.fused_onnx()),
        "openvino-int8": lambda: openvino(model.int8_openvino(workload.calibration)),
        "openvino-fp32": lambda: openvino(model.onnx()),
        "torch-fp32": lambda: torch("float32"),
        "torch-bf16": lambda: torch("bfloat16"),
    }
    return fastest(name, workload, arguments.batches, settings[name]())


def float32_vectors(model, workload):
    """What everyone's vectors are compared with."""
    truth = Peer("truth", workload, torch_forward(model.directory, "float32"), batch=4)
    return {what: truth.vectors(what) for what in ("documents", "queries")}


class BenchProcess:
    """octavo-bench in another process: a command a line, answered by a line of JSON. `description`
    is its first line."""

    def __init__(self, name, command, errors=None):
        self.name = name
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

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Worker(BenchProcess):
    """octavo-bench as a runner of a workload (tests/bench/model_bench.h)."""

    def __init__(self, name, command, workload, errors=None):
        self.workload = workload
        super().__init__(name, command, errors)

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
