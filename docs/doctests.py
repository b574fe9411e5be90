"""Shows the doctests of docstrings as examples in the manual: a griffe extension, named in mkdocs.yml."""

import textwrap
from typing import Any

from griffe import Extension, Object


class Doctests(Extension):
    """Puts every bare `>>>` paragraph of a docstring under `Examples:`, where the Google style looks for it."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = "\n\n".join(map(as_example, obj.docstring.value.split("\n\n")))


def as_example(paragraph: str) -> str:
    """Indent a paragraph that begins with `>>>` under a heading.

    >>> print(as_example(">>> 1 + 1"))
    Examples:
        >>> 1 + 1
    """
    text = textwrap.dedent(paragraph)
    return f"Examples:\n{textwrap.indent(text, '    ')}" if text.startswith(">>> ") else paragraph
