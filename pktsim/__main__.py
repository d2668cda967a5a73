"""``python -m pktsim``."""

from pktsim.cli import main

if __name__ == "__main__":
    main()
