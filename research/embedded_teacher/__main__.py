"""``python -m research.embedded_teacher FOLDER``: train the embedded teacher, or go on with it."""

import argparse
import dataclasses
from pathlib import Path

from research.embedded_teacher.training import Config, train


def main() -> None:
    parser = argparse.ArgumentParser(prog="research.embedded_teacher", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--terms", default="", help="as dense=1,program=0.5")
    for field in dataclasses.fields(Config):
        if field.name == "terms":
            continue
        kind = (lambda text: text == "true") if field.type is bool else field.type
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--threads", type=int)
    options = vars(parser.parse_args())
    folder, threads, terms = (options.pop(name) for name in ("folder", "threads", "terms"))
    if terms:
        pairs = (term.split("=") for term in terms.split(","))
        options["terms"] = {name: float(weight) for name, weight in pairs}
    print(train(Config(**options), folder, threads))


if __name__ == "__main__":
    main()
