#!/usr/local/bin/python3 -IS
"""`sluice` as the image has it, `/opt/sluice/bin/sluice`: its packages beside it are all that is loaded.

`-I` and `-S`: no folder of the caller's, no variable of Python's and no `.pth` file decides what runs. The programs
that it starts begin in the same way, see extproc.interpreter, and find the packages by the variables that are set here.
"""

import os
import sys
from pathlib import Path

packages = str(Path(__file__).resolve().parent.parent / "lib")
sys.path.insert(0, packages)
os.environ["PYTHONPATH"] = packages
os.environ["PYTHONSAFEPATH"] = "1"
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # the image has it already, and its root is read-only
os.environ.pop("PYTHONHOME", None)

from extproc.cli import main  # noqa: E402 - the path is made above

main()
