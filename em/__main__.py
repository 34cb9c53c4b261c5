"""`python -m em COMMAND` is `em COMMAND`."""

from em.cli.main import main

if __name__ == "__main__":
    main()
