"""The console command ``mer``: each subcommand is a module with ``add_arguments(parser)`` and ``run(args) -> int``."""

import argparse
import importlib
import os
import sys

COMMANDS = {
    "predict": "tag files or folders with moods, valence and arousal",
    "info": "what a piece of music is made of: length, rate, key, chords",
    "tag": "write moods, valence, arousal and key into music files",
    "playlist": "make a playlist by mood out of a file of predictions",
    "doctor": "check what works on this machine, and say what to do about the rest",
    "corpus": "look after a local copy of a training corpus",
}


def main(argv=None):
    """Run ``mer``. Exit codes: 0 all done, 1 something failed (it was said what), 2 wrong usage, 130 interrupted."""
    try:
        return _main(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. What Python still holds goes nowhere, or it would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _main(argv):
    parser = argparse.ArgumentParser(prog="mer", description="Music emotion recognition on your own machine.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Only the module that is asked for is imported: `mer --help` must not wait for torch.
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f".{name}", __package__) if name in argv[:1] else None
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if module is not None:
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
