"""Envoy's wire messages, the subset we use, compiled from the .proto files beside (`make protos`)."""
