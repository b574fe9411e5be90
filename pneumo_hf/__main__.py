"""The commands, `python -m pneumo_hf audit | prepare | evaluate | predict | ...`, also as `pneumo-hf`."""

import argparse
import sys
from collections.abc import Sequence

from pneumo_hf import DISCLAIMER, runtime
from pneumo_hf.commands import (
    audit,
    compare,
    evaluate,
    export,
    listen,
    monitor,
    predict,
    prepare,
    push,
    recalibrate,
    tune,
)
from pneumo_hf.errors import InputError, one_line_errors

COMMANDS = {
    "audit": audit,
    "prepare": prepare,
    "evaluate": evaluate,
    "predict": predict,
    "listen": listen,
    "compare": compare,
    "recalibrate": recalibrate,
    "monitor": monitor,
    "tune": tune,
    "export": export,
    "push": push,
}


class Parser(argparse.ArgumentParser):
    """Raises where argparse would print the usage and exit."""

    def error(self, message: str):
        raise InputError(f"{message} ({self.prog} --help)")


def make_parser() -> Parser:
    """Collect the commands."""
    parser = Parser(prog="pneumo-hf", description=f"Pneumonia or normal on chest X-rays. {DISCLAIMER}")
    subparsers = parser.add_subparsers(required=True, metavar="command")
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(name, help=command.HELP, description=command.DESCRIPTION)
        sub.set_defaults(run=command.run, name=name)
        command.add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; bad input ends it with one line and exit code 2."""
    with one_line_errors():
        arguments, rest = make_parser().parse_known_args(sys.argv[1:] if argv is None else argv)
        if rest and arguments.name != "tune":
            raise InputError(f"unknown argument: {rest[0]} (--help lists those of the command)")
        arguments.rest = rest  # of tune: a recipe and its overrides, as for train_hf.py
        runtime.before_imports()
        runtime.start()
        arguments.run(arguments)


if __name__ == "__main__":
    main()
