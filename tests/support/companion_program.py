"""A program for extproc.companion that does what it is told: `python -m tests.support.companion_program FOLDER`.

A file `broken` in the folder is what it says instead of being ready. Of a text it says the capitals.
"""

import json
import os
import sys
import time
from pathlib import Path


def answer(text: str, seconds: float) -> dict[str, str]:
    match text.split()[0]:
        case "DIE":
            os._exit(1)
        case "HANG":
            time.sleep(1000)
        case "SLOW":
            time.sleep(0.3)
        case "BAD":
            return {"error": "the model failed: ValueError"}
        case "VARIABLES":
            return {"said": " ".join(sorted(os.environ))}
        case "TIME":
            return {"said": str(seconds)}
        case "NOISE":
            print("what a library has to say", file=sys.stderr)
    return {"said": "".join(letter for letter in text if letter.isupper())}


def main() -> None:
    broken = Path(sys.argv[1]) / "broken"
    said = {"error": broken.read_text()} if broken.exists() else {}
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
