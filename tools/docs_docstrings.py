"""Griffe extension for the API reference: the package's docstrings as Google's style writes them.

The docstrings join entries that share a meaning (``height, width: in pixels``), and end in examples
without a heading. Neither is known to the parser.
"""

import re
from typing import Any

import griffe

JOINED = re.compile(r"^( {4})((?:\*{0,2}\w+, )+\*{0,2}\w+): ((?:.*\n)(?:^ {5,}.*\n)*)", re.M)
ERROR = re.compile(r"^(\w*(Error|Exception|Warning|Interrupt)(, )?)+$")
ROLE = re.compile(r":\w+:(?=`)")


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_google_writes(obj.docstring.value)


def as_google_writes(text: str) -> str:
    text = JOINED.sub(_apart, ROLE.sub("", text) + "\n")
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
    if "Examples:\n" not in text:
        before, prompt, example = text.partition("\n>>> ")
        if prompt:
            indented = re.sub(r"^(?=.)", "    ", f">>> {example}", flags=re.M)
            text = f"{before}\nExamples:\n{indented}"
    return text.rstrip()


def _apart(entry: re.Match) -> str:
    indent, names, meaning = entry.groups()
    if ERROR.match(names):
        return entry[0]
    return "".join(f"{indent}{name}: {meaning}" for name in names.split(", "))
