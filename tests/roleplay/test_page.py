"""The page as Gradio builds it; needs a Gradio that can run it."""

import inspect
from importlib.metadata import PackageNotFoundError, version

import pytest

try:
    found = tuple(int(part) for part in version("gradio").split(".")[:2])
except PackageNotFoundError:
    found = (0, 0)
if found < (6, 31):
    pytest.skip("the page needs Gradio 6.31", allow_module_level=True)
import gradio


@pytest.fixture
def app(make_memory, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    from demos.roleplay import build_app  # noqa: PLC0415

    made = build_app(make_memory(), home=tmp_path / "home", grace=1000)
    yield made
    made.studio.close()


def test_nothing_of_the_page_is_a_public_endpoint(app):
    dependencies = app.config["dependencies"]
    assert len(dependencies) > 25
    assert {item["api_visibility"] for item in dependencies if item["targets"]} == {"private"}
    assert app.analytics_enabled is False


def test_the_page_is_served_so_that_nothing_is_kept_or_shared(app):
    from demos.roleplay import launch_options  # noqa: PLC0415

    options = launch_options()
    known = inspect.signature(app.launch).parameters
    assert set(options) <= set(known)
    for name in ("share", "run_history", "enable_monitoring", "mcp_server", "pwa", "ssr_mode"):
        assert options[name] is False
    assert "default-src 'self'" in options["head"]


def test_every_control_has_a_label(app):
    unlabelled = [
        item["type"]
        for item in app.config["components"]
        if item["type"] in {"textbox", "dropdown", "radio", "slider", "checkbox", "file", "chatbot"}
        and not item["props"].get("label")
    ]
    assert unlabelled == []


def test_unknown_errors_show_no_inside():
    from demos.roleplay._guard import guarded  # noqa: PLC0415

    def boom():
        raise KeyError("secret inside")

    with pytest.raises(gradio.Error) as caught:
        guarded(boom)()
    assert "secret" not in caught.value.message
    assert "reference" in caught.value.message


def test_another_address_needs_a_password(capsys):
    from demos.roleplay._serve import main  # noqa: PLC0415

    with pytest.raises(SystemExit) as caught:
        main(["--host", "0.0.0.0"])  # noqa: S104  # refused
    assert caught.value.code == 2
    assert "--auth" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--auth", "name"])


def test_the_command_line_finds_the_page_in_a_checkout():
    from templora_memory.cli._demo import find_demo  # noqa: PLC0415

    assert find_demo().__module__ == "demos.roleplay._serve"
