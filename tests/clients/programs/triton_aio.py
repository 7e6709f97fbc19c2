"""tritonclient's clients for asyncio: python triton_aio.py HOST:PORT"""

import asyncio
import sys

import numpy as np
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http.aio as http_aio
from scenarios import run

FOUR = np.array([[1, 2, 3, 4]], np.int32)


def inputs(module, factor):
    made = []
    for name in ("INPUT0", "INPUT1"):
        one = module.InferInput(name, [1, 4], "INT32")
        one.set_data_from_numpy(FOUR * factor)
        made.append(one)
    return made


async def asked(module, target):
    async with module.InferenceServerClient(target) as client:
        ready = [await client.is_server_ready(), await client.is_model_ready("addsub")]
        answers = await asyncio.gather(*(client.infer("addsub", inputs(module, n)) for n in range(8)))
        return [ready, [answer.as_numpy("OUTPUT0")[0, 0] for answer in answers]]


async def http(target):
    return await asked(http_aio, target)


async def grpc(target):
    return await asked(grpc_aio, target)


async def stream(target):
    async def requests():
        for number in (2, 1):
            one = grpc_aio.InferInput("COUNT", [1], "INT32")
            one.set_data_from_numpy(np.array([number], np.int32))
            yield {"model_name": "counter", "inputs": [one], "request_id": str(number)}

    seen = []
    async with grpc_aio.InferenceServerClient(target) as client:
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            seen.append([result.get_response().id, *result.as_numpy("NUMBER").tolist()])
    return seen


if __name__ == "__main__":
    run(http, grpc, stream, given=[sys.argv[1]])
