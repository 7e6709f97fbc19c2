"""`python -m dukou` and the console command."""


def main() -> None:
    """Run the command line."""
    raise SystemExit("dukou: the command line is not here yet")


if __name__ == "__main__":
    main()
