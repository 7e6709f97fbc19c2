"""What one writes with grpcio: its own server, 8 threads, ModelInfer by ONNX Runtime, of the graphs that dukou has.

python grpc_server.py PORT REPOSITORY
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime

from dukou.protos import pool

REQUEST = pool.message("inference.ModelInferRequest")
RESPONSE = pool.message("inference.ModelInferResponse")
DATATYPES = {"FP32": np.float32, "FP64": np.float64}
NAMES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}


def session(repository: Path, model: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = next((repository / model / "1").glob("*.onnx"))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class Service:
    def __init__(self, repository: Path) -> None:
        self.sessions = {model: session(repository, model) for model in ("iris", "mean")}

    def infer(self, request, context):
        run = self.sessions[request.model_name]
        said = request.inputs[0]
        X = np.frombuffer(request.raw_input_contents[0], DATATYPES[said.datatype]).reshape(tuple(said.shape))
        output = request.outputs[0].name
        (y,) = run.run([output], {run.get_inputs()[0].name: X})
        return RESPONSE(
            model_name=request.model_name,
            model_version="1",
            outputs=[{"name": output, "datatype": NAMES[y.dtype], "shape": y.shape}],
            raw_output_contents=[y.tobytes()],
        )


def main(port: str, repository: str) -> None:
    method = grpc.unary_unary_rpc_method_handler(
        Service(Path(repository)).infer,
        request_deserializer=REQUEST.FromString,
        response_serializer=RESPONSE.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})]
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
