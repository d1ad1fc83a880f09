"""Templates of the package: values are escaped, and none may be missing."""

import pytest
from jinja2 import TemplateNotFound, UndefinedError

from fastad._html import template


@pytest.fixture
def package(tmp_path, monkeypatch):
    name = f"pages_of_{tmp_path.name}"  # of its own: modules outlive a test, and its files do not
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "a.html").write_text(
        '<p title="{{ text }}">{{ text }}</p>\n{% include "a.css" %}\n'
    )
    (tmp_path / name / "a.css").write_text("a > b { }\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_values_are_escaped_and_files_are_not(package):
    assert template(package, "a.html").render(text="<i>\"&'") == (
        '<p title="&lt;i&gt;&#34;&amp;&#39;">&lt;i&gt;&#34;&amp;&#39;</p>\na > b { }\n'
    )


def test_a_missing_value_is_an_error(package):
    with pytest.raises(UndefinedError, match="text"):
        template(package, "a.html").render()


def test_a_missing_template_is_an_error(package):
    with pytest.raises(TemplateNotFound):
        template(package, "b.html")
