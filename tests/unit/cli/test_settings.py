# SPDX-License-Identifier: Apache-2.0
"""Settings: which source wins, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from unbrickd.cli.settings import DEFAULT_UDP, LogFormat, LogLevel, default_store, load_settings
from unbrickd.errors import ConfigError
from unbrickd.wire.framing import DEFAULT_PORT


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "server.toml"


def test_settings_of_nothing_are_the_built_in_ones(config: Path) -> None:
    config.write_text("")
    settings = load_settings({"config": str(config), "keep": None}, {})
    assert settings.store == default_store()
    assert settings.keep == 5 and settings.announce and settings.new_devices
    assert settings.udp_addresses() == (("0.0.0.0", DEFAULT_PORT), ("::", DEFAULT_PORT))
    assert settings.tcp_addresses() == () and len(DEFAULT_UDP) == 2


def test_settings_flag_wins_over_environment_wins_over_file(config: Path, tmp_path: Path) -> None:
    config.write_text('keep = 1\nmax_devices = 1\nlog_level = "error"\nstore = "/from/file"\n')
    environment = {"UNBRICKD_KEEP": "2", "UNBRICKD_MAX_DEVICES": "2", "UNBRICKD_CONFIG": str(config)}
    settings = load_settings({"keep": 3, "config": None, "store": None}, environment)
    assert (settings.keep, settings.max_devices, settings.log_level) == (3, 2, LogLevel.ERROR)
    assert settings.store == Path("/from/file")


def test_settings_of_each_source_are_typed_alike(config: Path) -> None:
    config.write_text(
        'udp = ["127.0.0.1:1", "[::1]:2"]\ntcp = ["10.0.0.1"]\n'
        'new_devices = false\nannounce = false\nlog_format = "json"\n'
    )
    from_file = load_settings({"config": str(config), "store": Path("s")}, {})
    environment = {
        "UNBRICKD_UDP": "127.0.0.1:1, [::1]:2",
        "UNBRICKD_TCP": "10.0.0.1",
        "UNBRICKD_NEW_DEVICES": "no",
        "UNBRICKD_ANNOUNCE": "off",
        "UNBRICKD_LOG_FORMAT": "JSON",
    }
    config.write_text("")
    assert load_settings({"config": str(config), "store": Path("s")}, environment) == from_file
    assert from_file.udp_addresses() == (("127.0.0.1", 1), ("::1", 2))
    assert from_file.tcp_addresses() == (("10.0.0.1", DEFAULT_PORT),)
    assert from_file.log_format is LogFormat.JSON and not from_file.new_devices


def test_settings_with_tcp_alone_serve_no_udp(config: Path) -> None:
    config.write_text("")
    settings = load_settings({"config": str(config), "tcp": ("0.0.0.0:1",)}, {})
    assert settings.udp_addresses() == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keep = 0", ":1: keep: 0 is not within 1"),
        ("\nkeep = true", ":2: keep: must be a whole number"),
        ('\n\nlog_level = "loud"', ":3: log_level: 'loud' is not one of debug, info, warning, error"),
        ('udp = "127.0.0.1:1"', ":1: udp: must be a list"),
        ("kep = 3", ":1: kep: no such key"),
        ("keep = \nudp = []", "line 1"),
    ],
)
def test_settings_file_with_a_wrong_key_names_file_line_and_key(config: Path, text: str, said: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings({"config": str(config)}, {})
    assert str(config) in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("UNBRICKD_KEEP", "0"),
        ("UNBRICKD_KEEP", "three"),
        ("UNBRICKD_MAX_DEVICES", "-1"),
        ("UNBRICKD_ANNOUNCE", "perhaps"),
        ("UNBRICKD_LOG_FORMAT", "xml"),
    ],
)
def test_settings_variable_that_is_wrong_is_named(config: Path, variable: str, value: str) -> None:
    config.write_text("")
    with pytest.raises(ConfigError, match=f"{variable}='{value}' is not"):
        load_settings({"config": str(config)}, {variable: value})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("keep", "0", "--keep='0' is not a whole number from 1 to"),
        ("keep", "many", "--keep='many' is not"),
        ("max_devices", "-1", "--max-devices='-1' is not"),
        ("log_level", "loud", "--log-level='loud' is not one of debug, info, warning, error"),
        ("store", "", "--store='' is not a folder"),
    ],
)
def test_settings_flag_that_is_wrong_is_named(config: Path, key: str, value: str, said: str) -> None:
    config.write_text("")
    with pytest.raises(ConfigError) as caught:
        load_settings({"config": str(config), key: value}, {})
    assert said in str(caught.value)


def test_settings_address_that_is_none_is_refused_before_anything_is_opened(config: Path) -> None:
    config.write_text("")
    with pytest.raises(ConfigError, match="is not an address"):
        load_settings({"config": str(config), "udp": ("127.0.0.1:99999",)}, {})


def test_settings_file_that_is_named_must_be_there(config: Path) -> None:
    with pytest.raises(ConfigError, match="there is no settings file"):
        load_settings({"config": str(config)}, {})
