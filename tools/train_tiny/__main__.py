"""Command line: prepare, train, evaluate, export, people; each one command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.train_tiny import settings as settings_module

PEOPLE = Path("templora_memory/evaluation/people.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_tiny", description=__doc__)
    parser.add_argument("command", choices=["prepare", "train", "evaluate", "export", "people"])
    parser.add_argument("--settings", type=Path, default=settings_module.DEFAULT)
    parser.add_argument(
        "--work", type=Path, default=Path("build/train_tiny"), help="token files, checkpoints, logs"
    )
    parser.add_argument(
        "--corpus", type=Path, help="folder with stories.jsonl.xz and chat.jsonl.xz (prepare)"
    )
    parser.add_argument(
        "--minutes", type=float, help="stop after this long, with a checkpoint (train)"
    )
    parser.add_argument(
        "--start", type=Path, help="model folder to begin with instead of random weights (train)"
    )
    parser.add_argument(
        "--into", type=Path, default=Path("templora_memory/tiny"), help="model folder (export)"
    )
    options = parser.parse_args()
    settings = settings_module.load(options.settings)
    if options.command == "prepare":
        from tools.train_tiny.data import prepare  # each command loads only what it needs

        if options.corpus is None:
            parser.error("prepare needs --corpus FOLDER")
        print(json.dumps(prepare(options.corpus, options.work, settings)))
    elif options.command == "train":
        from tools.train_tiny.train import train

        step = train(options.work, settings, minutes=options.minutes, start=options.start)
        print(json.dumps({"step": step}))
    elif options.command == "evaluate":
        from tools.train_tiny.evaluate import evaluate

        print(json.dumps(evaluate(options.work, settings), indent=2))
    elif options.command == "people":
        from tools.train_tiny.people import write_people

        print(json.dumps({"people": write_people(PEOPLE)}))
    else:
        from tools.train_tiny.export import export

        print(json.dumps(export(options.work, options.into, settings)))


if __name__ == "__main__":
    main()
