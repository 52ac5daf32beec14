"""`python -m rushes` is the `rushes` command."""

from rushes.cli import main

if __name__ == "__main__":
    main()
