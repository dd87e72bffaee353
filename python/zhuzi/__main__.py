"""Where `zhuzi` and `python -m zhuzi` (as for `torchrun -m zhuzi pretrain ...`) begin.

Little is imported before `main`: the command line takes a moment to load, and Ctrl-C meanwhile must not show
a trace of imports.
"""

import signal
import sys

from zhuzi._process import is_first_here


def main() -> None:
    """Run the command line."""
    try:
        from zhuzi.cli import main as run
    except (KeyboardInterrupt, RuntimeError) as error:
        # Python 3.11 wraps what is raised while a class is made.
        if not any(isinstance(e, KeyboardInterrupt) for e in (error, error.__cause__)):
            raise
        if is_first_here():
            sys.stderr.write("zhuzi: interrupted\n")
        sys.exit(128 + signal.SIGINT)
    run()


if __name__ == "__main__":
    main()
