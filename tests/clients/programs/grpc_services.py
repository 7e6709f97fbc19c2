"""grpcio's clients of health checking and reflection: python grpc_services.py HOST:PORT"""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from scenarios import refused, run

LIMIT_S = 20


def check(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    names = ("", "inference.GRPCInferenceService", "PredictionService", "ModelService", "addsub")
    found = {name: stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=LIMIT_S).status for name in names}
    error = refused(stub.Check, health_pb2.HealthCheckRequest(service="no"), timeout=LIMIT_S)
    return [found, error.code().name]


def watch(channel):
    """The first thing that a watch tells; then the caller goes."""
    stub = health_pb2_grpc.HealthStub(channel)
    seen = []
    for name in ("", "no"):
        call = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=LIMIT_S)
        seen.append(next(call).status)
        call.cancel()
    return seen


def services(channel):
    return sorted(ProtoReflectionDescriptorDatabase(channel).get_services())


def services_by_v1(channel):
    """The newer service has the messages of the older one under another name."""
    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=LIMIT_S)
    return sorted(service.name for service in answer.list_services_response.service)


def a_call_by_reflection_alone(channel):
    """What tools without stubs do: find the method, build its messages, call it."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    method = service.FindMethodByName("ModelInfer")
    request = GetMessageClass(method.input_type)(model_name="addsub")
    for name in ("INPUT0", "INPUT1"):
        one = request.inputs.add(name=name, datatype="INT32", shape=[1, 4])
        one.contents.int_contents[:] = [1, 2, 3, 4]
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        type(request).SerializeToString,
        GetMessageClass(method.output_type).FromString,
    )
    answer = call(request, timeout=LIMIT_S)
    return [answer.model_name, [output.name for output in answer.outputs], len(service.methods)]


def every_service_is_described(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    return {name: len(pool.FindServiceByName(name).methods) for name in database.get_services()}


if __name__ == "__main__":
    with grpc.insecure_channel(sys.argv[1]) as channel:
        run(
            check,
            watch,
            services,
            services_by_v1,
            a_call_by_reflection_alone,
            every_service_is_described,
            given=[channel],
        )
