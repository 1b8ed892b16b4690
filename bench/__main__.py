"""``python -m bench``: the same as the ``bench`` command (torchrun needs a module)."""

from bench.cli import main

if __name__ == "__main__":
    main()
