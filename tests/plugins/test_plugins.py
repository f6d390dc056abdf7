"""Names come from metadata, code is imported when it is asked for, errors say what to do."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from templora_memory import plugins
from templora_memory.errors import InvalidSetting
from templora_memory.importers import ChatLog, FileRefused, Limits, load

GROUPS = ("backends", "stores", "recipes", "importers")
CHAT = """
from templora_memory import Message
from templora_memory.importers import ChatLog

def read(data, filename, limits):
    return ChatLog(messages=(Message("user", data.decode()),), character_name=filename)
"""


def imported(folder):
    return (folder / f"{folder.name}.imported").exists()


def ask(group, name):
    return getattr(plugins, group.removesuffix("s"))(name)


def test_without_plugins_no_group_has_names():
    assert [plugins.names(group) for group in GROUPS] == [()] * 4


@pytest.mark.parametrize("group", GROUPS)
def test_a_plugin_is_imported_when_it_is_named_and_not_before(group, install):
    folder = install("lazy_one", (group, "mine", "lazy_one:call"))
    assert plugins.names(group) == ("mine",)
    assert not imported(folder)
    assert ask(group, "mine")(1, a=2) == ((1,), {"a": 2})
    assert imported(folder)


def test_a_plugin_of_one_group_is_none_of_another(install):
    folder = install("lazy_two", ("recipes", "mine", "lazy_two:call"))
    with pytest.raises(InvalidSetting, match=r"No plugin 'mine' in the group templora\.stores"):
        plugins.store("mine")
    assert not imported(folder)


def test_an_unknown_name_is_refused_with_the_names_that_are_installed(install):
    install("known", ("recipes", "lines", "known:call"), ("recipes", "rhymes", "known:call"))
    with pytest.raises(InvalidSetting, match=r"'line' .*installed are: lines, rhymes"):
        plugins.recipe("line")


def test_with_nothing_installed_the_error_says_none():
    with pytest.raises(InvalidSetting, match="installed are: none"):
        plugins.backend("mine")


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("import no_such_module_here", "broken:call", "ModuleNotFoundError"),
        ("1 / 0", "broken:call", "ZeroDivisionError"),
        ("x = 1", "broken:call", "AttributeError"),
        ("def (", "broken:call", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_says_which_one_and_why(source, target, reason, install):
    install("broken", ("recipes", "mine", target), source=source)
    assert plugins.names("recipes") == ("mine",)
    with pytest.raises(InvalidSetting, match=f"'mine' .*broken:call of broken.*{reason}") as error:
        plugins.recipe("mine")
    assert error.value.__cause__ is not None


def test_two_plugins_with_one_name_are_refused_with_both_distributions(install):
    folders = [install(name, ("recipes", "mine", f"{name}:call")) for name in ("first", "second")]
    assert plugins.names("recipes") == ("mine",)
    with pytest.raises(InvalidSetting, match="first:call of first and second:call of second"):
        plugins.recipe("mine")
    assert not any(imported(folder) for folder in folders)


def test_a_plugin_that_is_no_callable_is_refused(install):
    install("constant", ("stores", "mine", "constant:CONSTANT"))
    with pytest.raises(InvalidSetting, match="is of type int, which cannot be called"):
        plugins.store("mine")


def test_importing_the_package_reads_no_metadata_of_plugins():
    code = (
        "import importlib.metadata as m\n"
        "m.entry_points = None\n"
        "import templora_memory, templora_memory.plugins, templora_memory.importers\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- importers ---------------------------------------------------------------------------------


def test_a_file_with_the_suffix_of_an_importer_is_read_by_it(install, tmp_path):
    install("fb2_reader", ("importers", "fb2", "fb2_reader:read"), source=CHAT)
    path = tmp_path / "Book.FB2"
    path.write_bytes(b"PK\x03\x04 looks like an archive")
    chat = load(path)
    assert isinstance(chat, ChatLog)
    assert chat.character_name == "Book.FB2"


def test_an_importer_can_be_chosen_by_its_name_whatever_the_suffix(install):
    install("logs", ("importers", "irc-log", "logs:read"), source=CHAT)
    chat = load(b"hello", filename="chat.txt", importer="irc-log")
    assert chat.messages[0].content == "hello"


def test_no_importer_takes_over_a_format_that_is_read_here(install):
    folder = install("thief", ("importers", "txt", "thief:call"))
    assert load(b"Ada keeps bees.", filename="ada.txt").description == "Ada keeps bees."
    assert not imported(folder)


def test_an_importer_gets_no_file_over_the_limit(install):
    folder = install("big", ("importers", "big", "big:call"))
    with pytest.raises(FileRefused, match="larger"):
        load(b"x" * 9, filename="a.big", limits=Limits(file=8))
    assert not imported(folder)


def test_an_importer_that_is_not_installed_is_refused():
    with pytest.raises(InvalidSetting, match="No plugin 'irc-log'"):
        load(b"hello", importer="irc-log")


# --- beside what there is ----------------------------------------------------------------------


def test_a_mapping_has_its_own_names_and_those_of_plugins_and_imports_none(install):
    folder = install(
        "beside", ("recipes", "mine", "beside:call"), ("recipes", "own", "beside:call")
    )
    known = plugins.WithPlugins("recipes", {"own": 1})
    assert (list(known), len(known)) == (["own", "mine"], 2)
    assert "mine" in known
    assert "yours" not in known
    assert known["own"] == 1
    assert not imported(folder)
    assert known["mine"](2) == ((2,), {})
    assert known.get("yours") is None


def test_the_local_backend_takes_recipes_of_plugins(install):
    install("extra", ("recipes", "mine", "extra:call"))
    backend = importlib.import_module("templora_memory.backends.local").LocalBackend()
    assert backend._recipes["mine"](3) == ((3,), {})
    assert "auto" in backend._recipes
