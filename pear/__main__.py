"""`python -m pear` is the `pear` command."""

from pear.cli import main

if __name__ == "__main__":
    main()
