# SPDX-License-Identifier: Apache-2.0
"""`unbrickd keys`, through the command line: files and their modes, round trips, and what goes wrong."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from unbrickd.cli.main import main
from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.seal.identity import FirmwarePolicy, decode_identity, decode_recovery_code
from unbrickd.seal.maker import decode_signature_file, encode_public_key, load_private_key, load_public_key

IMAGE = bytes(range(256)) * 700
LAYOUT = """\
model = "acme-rx1"
identity = { mtd = "/dev/mtd1" }
record = { mtd = "/dev/mtd2" }
[[component]]
name = "kernel"
kind = "firmware"
file = "kernel.bin"
size = "256KiB"
erase_blocks = [[8, "8KiB"], [3, "64KiB"]]
[[component]]
name = "rootfs"
kind = "firmware"
mtd = "/dev/mtd4"
[[component]]
name = "radio"
kind = "firmware"
sealed = true
file = "radio.bin"
size = "64KiB"
"""


@pytest.fixture(scope="session")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A maker's keys, made once: RSA takes a while."""
    folder = tmp_path_factory.mktemp("maker") / "keys"
    assert main(["keys", "maker", "--out", str(folder), "--bits", "2048"]) == 0
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "firmware.bin"
    path.write_bytes(IMAGE)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def keys_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["keys", *words, "--json"]) == 0
    values: dict[str, object] = json.loads(capsys.readouterr().out)
    return values


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What `keys` says when it refuses what the user gave; there is always a hint."""
    capsys.readouterr()
    assert main(["keys", *words]) == ConfigError.exit_code
    out, err = capsys.readouterr()
    assert not out and "hint: " in err
    return err


def sign(maker: Path, image: Path, *words: str) -> list[str]:
    return ["sign", "--key", str(maker / "maker-private.pem"), "--version", "2.1", *words, str(image)]


def test_maker_new_keys_belong_together(maker: Path) -> None:
    public = load_private_key((maker / "maker-private.pem").read_bytes()).public_key()
    der = encode_public_key(public)
    assert public.key_size == 2048
    assert (maker / "maker-public.der").read_bytes() == der
    assert encode_public_key(load_public_key((maker / "maker-public.pem").read_bytes())) == der


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_maker_private_key_only_its_owner_may_read(maker: Path) -> None:
    assert mode(maker / "maker-private.pem") == 0o600


def test_maker_any_of_its_files_exists_refused_and_kept(
    maker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (maker / "maker-private.pem").read_bytes()
    assert "is there already" in refused(capsys, "maker", "--out", str(maker))
    assert (maker / "maker-private.pem").read_bytes() == before
    (tmp_path / "maker-public.der").write_bytes(b"another's")
    refused(capsys, "maker", "--out", str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["maker-public.der"]


def test_maker_key_length_or_folder_wrong_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "maker", "--out", str(tmp_path), "--bits", "1024"]) == ConfigError.exit_code
    assert "2048 to 4096" in capsys.readouterr().err
    (tmp_path / "file").touch()
    refused(capsys, "maker", "--out", str(tmp_path / "file" / "keys"), "--bits", "2048")


def test_maker_passphrase_is_needed_to_sign(tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret, folder = tmp_path / "passphrase", tmp_path / "keys"
    secret.write_text("correct horse\nnot this line\n", encoding="utf-8")
    words = ("--passphrase-file", str(secret))
    assert main(["keys", "maker", "--out", str(folder), "--bits", "2048", *words]) == 0
    assert b"ENCRYPTED" in (folder / "maker-private.pem").read_bytes()
    signing = sign(folder, image, "--model", "acme-rx1", "--erase-block", "64KiB")
    assert main(["keys", *signing]) == ConfigError.exit_code
    assert "passphrase" in capsys.readouterr().err
    assert main(["keys", *signing, *words]) == 0
    secret.write_text("\n", encoding="utf-8")
    assert "is empty" in refused(capsys, *signing, *words)


def test_device_owner_identity_and_recovery_code_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "identity.bin"
    words = ("device", "--model", "acme-rx1", "--policy", "owner", "--rollback-floor", "3", "--out", str(out))
    values = keys_json(capsys, *words)
    identity = decode_identity(out.read_bytes())
    assert (identity.model, identity.policy, identity.rollback_floor) == ("acme-rx1", FirmwarePolicy.OWNER, 3)
    assert values["device_id"] == identity.device_id.hex()
    assert decode_recovery_code(str(values["recovery_code"])) == identity.recovery_secret
    if os.name != "nt":
        assert mode(out) == 0o600
    assert "is there already" in refused(capsys, *words)
    assert decode_identity(out.read_bytes()) == identity


def test_device_for_people_says_to_write_the_code_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["keys", "device", "--model", "m", "--policy", "owner", "--out", str(tmp_path / "identity.bin")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "recovery code: " in out and "Write the recovery code down" in out


def test_device_two_have_different_secrets(tmp_path: Path) -> None:
    for name in "ab":
        assert main(["keys", "device", "--model", "m", "--policy", "owner", "--out", str(tmp_path / name)]) == 0
    a, b = (decode_identity((tmp_path / name).read_bytes()) for name in "ab")
    assert a.device_key != b.device_key and a.recovery_secret != b.recovery_secret and a.device_id != b.device_id


@pytest.mark.parametrize("name", ["maker-public.pem", "maker-public.der"])
def test_device_maker_policy_holds_the_makers_key(tmp_path: Path, maker: Path, name: str) -> None:
    out = tmp_path / "identity.bin"
    words = ["--model", "m", "--policy", "maker", "--maker-key", str(maker / name), "--out", str(out)]
    assert main(["keys", "device", *words]) == 0
    assert decode_identity(out.read_bytes()).maker_key_der == (maker / "maker-public.der").read_bytes()


def test_device_maker_policy_without_a_usable_key_refused(
    tmp_path: Path, maker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("device", "--model", "m", "--policy", "maker", "--out", str(tmp_path / "identity.bin"))
    refused(capsys, *words)
    refused(capsys, *words, "--maker-key", str(maker / "none.pem"))
    refused(capsys, *words, "--maker-key", str(maker / "maker-private.pem"))
    assert list(tmp_path.iterdir()) == []


def test_sign_then_verify_succeeds(maker: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = keys_json(
        capsys, *sign(maker, image, "--model", "acme-rx1", "--rollback-index", "4", "--erase-block", "64KiB")
    )
    path = Path(str(values["signature"]))
    assert path == image.with_name("firmware.bin.sig")
    file = decode_signature_file(path.read_text(encoding="utf-8"))
    assert (file.model, file.version, file.rollback_index, file.length_bytes) == ("acme-rx1", "2.1", 4, len(IMAGE))
    assert [(r.count, r.size_bytes) for r in file.geometry.runs] == [(3, 65536)]
    verified = keys_json(capsys, "verify", "--key", str(maker / "maker-public.der"), str(image), str(path))
    assert (verified["version"], verified["rollback_index"]) == ("2.1", 4)


def test_sign_layout_gives_model_and_mixed_erase_blocks(maker: Path, image: Path, tmp_path: Path) -> None:
    layout, out = tmp_path / "layout.toml", tmp_path / "s.sig"
    layout.write_text(LAYOUT, encoding="utf-8")
    words = ("--layout", str(layout), "--component", "kernel", "--out", str(out))
    assert main(["keys", *sign(maker, image, *words)]) == 0
    file = decode_signature_file(out.read_text(encoding="utf-8"))
    assert file.model == "acme-rx1"
    assert [(r.count, r.size_bytes) for r in file.geometry.runs] == [(8, 8192), (2, 65536)]
    assert main(["keys", "verify", "--key", str(maker / "maker-public.pem"), str(image), str(out)]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--component", "none"], "no firmware named 'none'"),
        ([], "several firmware components"),
        (["--component", "rootfs"], "known on the device only"),
        (["--component", "radio"], "is sealed"),
        (["--component", "kernel", "--model", "other"], "the layout's model is 'acme-rx1'"),
    ],
)
def test_sign_layout_does_not_fit_refused(
    maker: Path, image: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    layout = image.with_name("layout.toml")
    layout.write_text(LAYOUT, encoding="utf-8")
    assert told in refused(capsys, *sign(maker, image, "--layout", str(layout), *words))
    assert not image.with_name("firmware.bin.sig").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--erase-block", "64KiB"], "which model"),
        (["--erase-block", "64KiB", "--model", "m" * 33], "model is longer than 32"),
        (["--erase-block", "64 apples", "--model", "m"], "not a size"),
        (["--erase-block", "100", "--model", "m"], "erase block of 100 bytes"),
        (["--erase-block", "64KiB", "--model", "m", "--component", "kernel"], "--component needs"),
        (["--erase-block", "64KiB", "--model", "m", "--rollback-index", "-1"], "rollback index"),
    ],
)
def test_sign_argument_wrong_refused(
    maker: Path, image: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["keys", *sign(maker, image, *words)]) == ConfigError.exit_code
    assert told in capsys.readouterr().err
    assert not image.with_name("firmware.bin.sig").exists()


def test_sign_no_image_or_an_empty_one_refused(maker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", "m", "--erase-block", "64KiB")
    refused(capsys, *sign(maker, tmp_path / "none", *words))
    (tmp_path / "empty").touch()
    assert "is empty" in refused(capsys, *sign(maker, tmp_path / "empty", *words))


@pytest.mark.parametrize("change", ["flip", "longer", "shorter", "signature", "version", "another key"])
def test_verify_anything_changed_fails(
    maker: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    assert main(["keys", *sign(maker, image, "--model", "acme-rx1", "--erase-block", "64KiB")]) == 0
    path, key = image.with_name("firmware.bin.sig"), maker / "maker-public.pem"
    text = path.read_text(encoding="utf-8")
    if change == "flip":
        image.write_bytes(IMAGE[:-1] + bytes([IMAGE[-1] ^ 1]))
    elif change == "longer":
        image.write_bytes(IMAGE + b"\0")
    elif change == "shorter":
        image.write_bytes(IMAGE[:-1])
    elif change == "signature":
        members = json.loads(text)
        members["signature"] = ("B" if members["signature"][0] == "A" else "A") + members["signature"][1:]
        path.write_text(json.dumps(members), encoding="utf-8")
    elif change == "version":
        path.write_text(text.replace('"2.1"', '"2.2"'), encoding="utf-8")
    else:
        assert main(["keys", "maker", "--out", str(tmp_path / "other"), "--bits", "2048"]) == 0
        key = tmp_path / "other" / "maker-public.pem"
    capsys.readouterr()
    assert main(["keys", "verify", "--key", str(key), str(image), str(path)]) == IntegrityError.exit_code
    assert not capsys.readouterr().out


def test_show_identity_tells_secrets_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "identity.bin"
    made = keys_json(capsys, "device", "--model", "m", "--policy", "owner", "--out", str(out))
    identity = decode_identity(out.read_bytes())
    shown = keys_json(capsys, "show", str(out))
    assert shown["device_id"] == made["device_id"]
    told = json.dumps(shown)
    assert str(made["recovery_code"]) not in told and identity.device_key.hex() not in told
    secrets = keys_json(capsys, "show", "--secrets", str(out))
    assert (secrets["recovery_code"], secrets["device_key"]) == (made["recovery_code"], identity.device_key.hex())
    out.write_bytes(out.read_bytes().ljust(4096, b"\xff"))  # as it is read out of the protected sector
    assert keys_json(capsys, "show", str(out)) == shown


def test_show_damaged_identity_is_an_integrity_error(tmp_path: Path) -> None:
    out = tmp_path / "identity.bin"
    assert main(["keys", "device", "--model", "m", "--policy", "owner", "--out", str(out)]) == 0
    octets = bytearray(out.read_bytes())
    octets[60] ^= 1
    out.write_bytes(octets)
    assert main(["keys", "show", str(out)]) == IntegrityError.exit_code


def test_show_public_key_and_signature_file(maker: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pem = keys_json(capsys, "show", str(maker / "maker-public.pem"))
    der = keys_json(capsys, "show", str(maker / "maker-public.der"))
    assert pem == der and pem["bits"] == 2048
    signed = keys_json(capsys, *sign(maker, image, "--model", "acme-rx1", "--erase-block", "64KiB"))
    shown = keys_json(capsys, "show", str(signed["signature"]))
    assert shown["image_digest"] == signed["image_digest"] and shown["runs"] == [[3, 65536]]


def test_show_private_key_or_stray_file_refused(maker: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is a private key" in refused(capsys, "show", str(maker / "maker-private.pem"))
    image.write_bytes(b"just some bytes")
    assert "is no identity" in refused(capsys, "show", str(image))
