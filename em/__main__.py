"""Let `python -m em COMMAND` do what `em COMMAND` does."""

from em.cli.main import main

if __name__ == "__main__":
    main()
