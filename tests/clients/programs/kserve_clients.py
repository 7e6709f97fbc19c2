"""The clients of KServe's SDK, REST (v1 and v2) and gRPC: python kserve_clients.py HOST:PORT"""

import sys

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from scenarios import run

FOUR = np.array([[1, 2, 3, 4]], np.int32)


def request(binary):
    made = []
    for name, factor in (("INPUT0", 1), ("INPUT1", 10)):
        one = InferInput(name, [1, 4], "INT32")
        one.set_data_from_numpy(FOUR * factor, binary_data=binary)
        made.append(one)
    return InferRequest("addsub", made, request_id="7")


def read(answer):
    return [answer.id, answer.model_name, *(output.as_numpy() for output in answer.outputs)]


async def rest_v1(url):
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    live, ready = await client.is_server_live(url), await client.is_model_ready(url, "half_plus_two")
    answer = await client.infer(url, {"instances": [2.0, 3.0, 4.0]}, "half_plus_two")
    await client.close()
    return [live, ready, answer]


async def rest_v2(url):
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    states = [
        await client.is_server_live(url),
        await client.is_server_ready(url),
        await client.is_model_ready(url, "addsub"),
    ]
    answers = [read(await client.infer(url, request(binary), "addsub")) for binary in (False, True)]
    await client.close()
    return [states, *answers]


async def rest_errors(url):
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    try:
        await client.infer(url, request(False), "no")
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error)]
    finally:
        await client.close()


async def grpc(url):
    async with InferenceGRPCClient(url.removeprefix("http://")) as client:
        states = [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("addsub")]
        answers = [read(await client.infer(request(binary))) for binary in (False, True)]
    return [states, *answers]


if __name__ == "__main__":
    run(rest_v1, rest_v2, rest_errors, grpc, given=[f"http://{sys.argv[1]}"])
