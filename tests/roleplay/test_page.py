"""The page as Gradio builds it; needs a Gradio that can run it.

Built in a process of its own, because Gradio leaves event loops open.
"""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
SCRIPT = """
import inspect, json, sys
from templora_memory.apps.roleplay import build_app, launch_options
from templora_memory import ParametricMemory
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

with ParametricMemory(FakeBackend(context=400), DirectoryStore(sys.argv[1] + "/m")) as memory:
    app = build_app(memory, home=sys.argv[1] + "/home", grace=1000)
    from templora_memory.apps.roleplay.error_toasts import with_error_toasts

    def boom():
        raise KeyError("secret inside")

    import warnings

    with warnings.catch_warnings(record=True) as shown:  # outside of a page, toasts are warnings
        warnings.simplefilter("always")
        with_error_toasts(boom)()
    toast = str(shown[-1].message)
    options = launch_options()
    print(json.dumps({
        "config": app.config,
        "analytics": app.analytics_enabled,
        "options": {key: value for key, value in options.items() if key != "theme"},
        "unknown": sorted(set(options) - set(inspect.signature(app.launch).parameters)),
        "toast": toast,
    }, default=str))
    app.studio.close()
"""


def installed():
    try:
        return tuple(int(part) for part in version("gradio").split(".")[:2])
    except PackageNotFoundError:
        return (0, 0)


pytestmark = pytest.mark.skipif(installed() < (6, 31), reason="the page needs Gradio 6.31")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_of_the_page_is_a_public_endpoint(page):
    dependencies = page["config"]["dependencies"]
    assert len(dependencies) > 25
    assert {item["api_visibility"] for item in dependencies if item["targets"]} == {"private"}
    assert page["analytics"] is False


def test_the_page_is_served_so_that_nothing_is_kept_or_shared(page):
    options = page["options"]
    assert page["unknown"] == []
    for name in ("share", "run_history", "enable_monitoring", "mcp_server", "pwa", "ssr_mode"):
        assert options[name] is False
    assert "default-src 'self'" in options["head"]


def test_every_control_has_a_label(page):
    kinds = {"textbox", "dropdown", "radio", "slider", "checkbox", "file", "chatbot"}
    controls = [item for item in page["config"]["components"] if item["type"] in kinds]
    assert len(controls) > 20
    assert [item for item in controls if not item["props"].get("label")] == []


def test_unknown_errors_show_no_inside(page):
    assert "secret" not in page["toast"]
    assert "reference" in page["toast"]
