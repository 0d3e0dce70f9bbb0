"""For all tiers."""

import os

from hypothesis import settings

# How long an example takes is the machine's affair. `make deep-laws` tries many more.
settings.register_profile("project", deadline=None, max_examples=int(os.environ.get("SLUICE_EXAMPLES", "40")))
settings.load_profile("project")
