"""`python -m infodcl_dist …` is `infodcl-dist …`."""

from infodcl_dist.cli.main import main

if __name__ == "__main__":
    main()
