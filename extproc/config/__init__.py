"""Configuration: one strict YAML tree, loaded whole, compiled to an immutable snapshot."""
