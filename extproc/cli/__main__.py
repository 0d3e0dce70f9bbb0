"""`python -m extproc.cli` is `sluice`."""

from extproc.cli import main

if __name__ == "__main__":
    main()
