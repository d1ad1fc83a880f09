"""Pages of HTML from the templates of the package."""

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
