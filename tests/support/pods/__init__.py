"""A cluster on one machine: pods as processes in namespaces, started, probed, restarted, ended as their manifests say.

What it does as Kubernetes 1.33 does it, what it leaves out and why: docs/decisions/0038-simulated-pods.md. It needs
root on Linux, `ip`, `unshare` and `nsenter`; `Cluster` skips the test where it cannot have them.
"""

from tests.support.pods.cluster import Cluster
from tests.support.pods.images import Image
from tests.support.pods.pod import Pod

__all__ = ["Cluster", "Image", "Pod"]
