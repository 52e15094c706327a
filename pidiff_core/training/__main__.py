"""`python -m pidiff_core.training`: the command `pidiff` from a checkout."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
