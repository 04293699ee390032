"""`python -m engine` is the command `rowtide`."""

from .cli.app import main

if __name__ == "__main__":
    main()
