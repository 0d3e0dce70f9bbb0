"""Finding what must not leave, putting something else in its place, and taking that back in the answer."""
