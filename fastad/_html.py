"""Pages of HTML from the templates of the package."""

import base64

import jinja2


def template(package: str, name: str) -> jinja2.Template:
    """The template ``name`` beside the modules of ``package``.

    It escapes whatever is put into it, and refuses a value that it was not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def embedded(kind: str, picture: bytes) -> str:
    """A picture as an address, of a kind like "png": names inside an SVG cannot clash then."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
