"""``python -m fedrad`` is the ``fedrad`` command."""

from fedrad.cli.app import app

if __name__ == "__main__":
    app(prog_name="fedrad")
