"""Where calls had better not go just now: what attempts tell of backends, and for how long it counts.

Pure: times are given, and chance is. Two things are kept apart. A target (a backend and the model that is deployed
there) cools when its provider asks for a pause; a backend has a circuit, which opens when it fails call after call.
"""
