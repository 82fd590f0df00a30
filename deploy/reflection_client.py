#!/usr/bin/env python3
"""Embeds texts with a running octavo-server, knowing its messages by gRPC reflection alone.

    reflection_client.py HOST:PORT TEXT...

Needs pip install grpcio grpcio-reflection. Prints the format that ran and each vector's start.
"""

import array
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__.strip())
    channel = grpc.insecure_channel(sys.argv[1])
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName("octavo.v1.EmbeddingService").FindMethodByName("Embed")
    request_class = GetMessageClass(method.input_type)
    response_class = GetMessageClass(method.output_type)

    request = request_class()
    for text in sys.argv[2:]:
        request.inputs.add().text = text
    request.options.input_type = 1  # INPUT_TYPE_QUERY
    embed = channel.unary_unary(
        "/octavo.v1.EmbeddingService/Embed",
        request_serializer=request_class.SerializeToString,
        response_deserializer=response_class.FromString,
    )
    response = embed(request, timeout=30)
    rows = response.vectors[0]
    values = array.array("f", rows.data)  # row-major, little-endian
    print(f"{response.model}, lane {response.execution.lane}, {response.execution.format}")
    for i, text in enumerate(sys.argv[2:]):
        row = values[i * rows.dimensions : (i + 1) * rows.dimensions]
        start = ", ".join(f"{value:.4f}" for value in row[:4])
        print(f"{text}: [{start}, ...] ({rows.dimensions} dimensions)")


if __name__ == "__main__":
    main()
