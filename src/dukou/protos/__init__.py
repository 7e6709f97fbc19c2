"""The messages of the gRPC protocols: `.proto` files, compiled into `descriptors.binpb` by scripts/protos."""
