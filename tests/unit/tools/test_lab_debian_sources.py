# SPDX-License-Identifier: Apache-2.0
"""The laboratory's package sources are the machine's own, with sources and backports, in both of apt's formats."""

from __future__ import annotations

from tools.lab.debian import derived_sources

STANZAS = """\
# a remark
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcd

Types: deb
URIs: http://other.example/tools
Suites: stable
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""


def test_derived_sources_of_stanzas_add_sources_and_backports() -> None:
    main, security = derived_sources([], [STANZAS])
    assert main.splitlines() == [
        "Types: deb deb-src",
        "Suites: bookworm bookworm-updates bookworm-backports",
        "URIs: http://mirror.example/debian",
        "Components: main contrib",
        "Signed-By: /usr/share/keyrings/debian.gpg",
    ]
    assert "Suites: bookworm-security\n" in security and "backports" not in security
    assert security.endswith("Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abcd")


def test_derived_sources_of_one_line_entries_are_the_same() -> None:
    text = """
deb [arch=amd64 signed-by=/etc/key.gpg] http://mirror.example/debian bookworm main contrib  # here
deb-src http://mirror.example/debian bookworm main
# deb http://off.example/debian bookworm main
deb http://other.example/debian trixie main
"""
    (only,) = derived_sources([text], [])
    assert only.splitlines() == [
        "Types: deb deb-src",
        "Suites: bookworm bookworm-backports",
        "URIs: http://mirror.example/debian",
        "Components: main contrib",
        "Signed-By: /etc/key.gpg",
    ]
