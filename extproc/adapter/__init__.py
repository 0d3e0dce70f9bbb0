"""The thin gRPC shell: Envoy's messages in, the pipeline's orders out. The only place that knows protobuf."""
