"""python -m anynorm: the command line, which _cli holds."""

from ._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
