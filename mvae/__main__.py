"""`python -m mvae` is the `mvae` command."""

from mvae.cli import main

if __name__ == "__main__":
    main()
