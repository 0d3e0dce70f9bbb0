"""Where the vectors of texts come from: a local model in a process of its own, or a service."""
