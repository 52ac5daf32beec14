"""What imports what: the public names are lazy and torch is loaded only when a model is."""

import subprocess
import sys

import pytest

import rushes


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "code",
    [
        "import rushes",
        "import rushes; rushes.InvalidRequest, rushes.Preview, dir(rushes)",
        "import rushes.config, rushes.stages.base, rushes.pipelines.base, rushes.pipelines.rules",
    ],
)
def test_without_torch(code):
    result = run(f"{code}\nimport sys\nsys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", rushes.__all__)
def test_every_public_name_resolves(name):
    assert (
        getattr(rushes, name).__name__ == name
        if name[0].isupper() and name != "Event"
        else getattr(rushes, name)
    )


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="generat"):
        rushes.generat  # noqa: B018
