import pytest

from ssl_split.report import curves, figures


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report without figures, which take most of its time: for tests of words and numbers alone."""
    for module in (figures, curves):
        monkeypatch.setattr(module, "draw", lambda study, folder: [])
