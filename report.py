"""Compare runs and judged tables on one page: `python report.py --help`."""

from em.cli.main import start

if __name__ == "__main__":
    start("report")
