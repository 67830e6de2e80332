"""`python -m farspan` is the `farspan` command."""

from farspan.cli.main import main

if __name__ == "__main__":
    main()
