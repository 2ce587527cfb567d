# SPDX-License-Identifier: Apache-2.0
"""The C core in the place of the Python one: `CBootloader` has the calls of `recovery.bootloader.Bootloader`.

Flash calls go to the same simulated chip, so it cuts the power of the C code, too: the callback says
UNBRICKD_E_STOP, the core must return without another call, and the PowerCut is raised here. The declarations are read
from the headers of the core, so none can disagree. Knows no sockets; not part of the package `unbrickd`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cffi import FFI
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from filelock import FileLock

from unbrickd.errors import ConfigError, FlashError
from unbrickd.flash.device import DeviceFlash
from unbrickd.flash.interface import Flash
from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import ComponentKind
from unbrickd.model.peer import Datagram, Peer
from unbrickd.model.policy import BootPolicy
from unbrickd.recovery import events
from unbrickd.recovery.check import ComponentFinding, Decision, Findings, Reason
from unbrickd.recovery.light import Light
from unbrickd.recovery.offer import Choice
from unbrickd.seal.identity import encode_identity
from unbrickd.seal.maker import load_public_key
from unbrickd.sim.nor import PowerCut

__all__ = [
    "BUILD",
    "FFI",
    "SOURCES",
    "CBootloader",
    "CCore",
    "c_octets",
    "core",
    "crypto_functions",
    "ffi",
    "record_flash",
]

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "c"
REASONS = (
    Reason.SOUND,
    Reason.DAMAGED,
    Reason.RECORD_LOST,
    Reason.REFUSED,
    Reason.BUTTON,
    Reason.BOOT_FAILED,
)
"""As enum unbrickd_reason."""
LIGHTS = (Light.OFF, Light.START_SERVER, Light.RESTORING, Light.FAILED, Light.BOOTED)
CHOICES = (Choice.KEEP, Choice.DAMAGED, Choice.VERSION, Choice.CONTENT)


def _unsanitized() -> dict[str, str]:
    """For other programs: ASan is for the library in this process only."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def declarations() -> str:
    """All that the headers declare, as cffi reads it."""
    text = "".join(
        (SOURCES / name).read_text(encoding="utf-8")
        for name in ("include/unbrickd.h", "crypto/unbrickd_crypto.h", "src/internal.h")
    )
    text = re.sub(r"static inline [^;{]*\{.*?\n\}\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^#include .*$", "", text, flags=re.MULTILINE)
    found = subprocess.run(
        ["gcc", "-E", "-P", "-"], input=text, capture_output=True, text=True, check=True, env=_unsanitized()
    )
    return found.stdout.replace("UINT64_MAX", str((1 << 64) - 1))


SANITIZED = "UNBRICKD_C_SANITIZED" in os.environ
"""Whether to use the library with ASan and UBSan in it; ASan must have been preloaded (tests/c/test_c_sanitized.py)."""
GUARD_BYTES = 64
"""Before each piece of a sanitized core's memory; as in the Makefile."""
BUILD = ROOT / "build" / ("c-sanitized" if SANITIZED else "c")
"""`make clean` removes it."""


@functools.cache
def ffi() -> FFI:
    found = FFI()
    found.cdef(declarations())
    return found


@functools.cache
def core() -> FFI.CData:
    """Every function of the headers, by name; built if it must be. Raises CalledProcessError if it does not compile."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / "lock"):
        make = ["make", "--silent", "-C", str(SOURCES), f"BUILD={BUILD}", "sim-sanitized" if SANITIZED else "sim"]
        subprocess.run(make, check=True, capture_output=True, text=True, env=_unsanitized())
    return ffi().dlopen(str(BUILD / "libunbrickd.so"))


def c_octets(contents: bytes) -> FFI.CData:
    """Just so many bytes of C's own."""
    made = ffi().new("uint8_t[]", len(contents))
    ffi().memmove(made, contents, len(contents))
    return made


def fill_geometry(to: FFI.CData, geometry: Geometry) -> None:
    to.run_count = len(geometry.runs)
    for i, run in enumerate(geometry.runs):
        to.run[i].count, to.run[i].size_bytes = run.count, run.size_bytes


def crypto_functions(io: FFI.CData) -> None:
    """The core's own hashes and ciphers into the table of functions."""
    lib = core()
    io.sha256_begin, io.sha256_add, io.sha256_end = (
        lib.unbrickd_sha256_begin,
        lib.unbrickd_sha256_add,
        lib.unbrickd_sha256_end,
    )
    io.crc32, io.aes256_ctr = lib.unbrickd_crc32, lib.unbrickd_aes256_ctr


def record_flash(device: DeviceFlash) -> Flash:
    """The flash of the boot record. Its store keeps that to itself, as Python has no other use for it."""
    return device.record._halves[0]._flash


def micros(seconds: float) -> int:
    return round(seconds * 1e6)


class CCore:
    """One power-on of the C core over Python's flash, with every call of it in view.

    record: the flash of the boot record. spare_bytes: memory beyond what it needs.
    """

    def __init__(
        self,
        device: DeviceFlash,
        record: Flash,
        *,
        policy: BootPolicy,
        targets: tuple[Peer, ...],
        entropy: Callable[[int], bytes],
        max_message_bytes: int,
        ring_frames: int = 0,
        spare_bytes: int = 0,
    ) -> None:
        self.device = device
        self.sent: list[Datagram] = []
        self.events: list[events.Event] = []
        self.light = Light.OFF
        self._flashes = {0: record, **{slot.component_id: slot.flash for slot in device.slots}}
        self._entropy = entropy
        self._numbers: dict[Peer, int] = {}
        self._peers: dict[int, Peer] = {}
        self._raised: BaseException | None = None
        self._kept: list[FFI.CData] = []
        self.lib = core()
        self.config = self._make_config(policy, targets, max_message_bytes, ring_frames)
        size = self.lib.unbrickd_memory_bytes(self.config)
        self.memory_bytes = size + spare_bytes
        self.memory = ffi().new("uint8_t[]", self.memory_bytes)
        out = ffi().new("struct unbrickd **")
        error = self.lib.unbrickd_init(out, self.config, self.memory, self.memory_bytes)
        if error:
            raise ConfigError(f"the C core: {self.words(error)}", code=str(error))
        self.ub = out[0]
        if SANITIZED:
            self._put_up_fences()

    def _put_up_fences(self) -> None:
        """No byte between the pieces of the memory may be touched from now on."""
        poison = ctypes.CDLL(None)["__asan_poison_memory_region"]
        ub = self.ub
        for piece in (ub.receiver.storage.flights, ub.receiver.storage.blocks, ub.buffer, ub.damage, ub.document):
            at = int(ffi().cast("uintptr_t", piece))
            poison(ctypes.c_void_p(at - GUARD_BYTES), ctypes.c_size_t(GUARD_BYTES))

    def words(self, error: int) -> str:
        return str(ffi().string(self.lib.unbrickd_words(error)).decode())

    def call(self, error: int) -> None:
        """After every call of the core: raise what a callback raised."""
        raised, self._raised = self._raised, None
        if raised is not None:
            assert error == self.lib.UNBRICKD_E_STOP, "the core went on after it was told to stop"
            raise raised
        assert error == 0, self.words(error)

    def octets_of(self, peer: Peer) -> FFI.CData:
        """The same struct unbrickd_peer for the same address."""
        number = self._numbers.setdefault(peer, len(self._numbers))
        found = ffi().new("struct unbrickd_peer *")
        ffi().memmove(found.octets, number.to_bytes(24, "big"), 24)
        self._peers[number] = peer
        return found

    def peer_of(self, octets: FFI.CData) -> Peer:
        return self._peers[int.from_bytes(bytes(octets.octets), "big")]

    # Setting up

    def _make_config(
        self, policy: BootPolicy, targets: tuple[Peer, ...], max_message_bytes: int, ring_frames: int
    ) -> FFI.CData:
        config = self._new("struct unbrickd_config *")
        identity = encode_identity(self.device.keys.identity)
        config.io, config.app = self._make_io(), ffi().NULL
        config.identity, config.identity_bytes = self._keep(c_octets(identity)), len(identity)
        fill_geometry(config.record, self._flashes[0].geometry)
        components = self._new("struct unbrickd_component[]", len(self.device.slots))
        for to, slot in zip(components, self.device.slots, strict=True):
            to.id, to.kind, to.sealed = slot.component_id, int(slot.kind), slot.sealed
            fill_geometry(to.geometry, slot.flash.geometry)
        config.components, config.component_count = components, len(self.device.slots)
        peers = self._new("struct unbrickd_peer[]", len(targets))
        for i, target in enumerate(targets):
            peers[i] = self.octets_of(target)[0]
        config.targets, config.target_count = peers, len(targets)
        config.max_message_bytes, config.ring_frames = max_message_bytes, ring_frames
        config.boot_limit, config.wait_ms = policy.boot_limit, round(policy.wait_s * 1000)
        return config

    def _make_io(self) -> FFI.CData:
        io = self._new("struct unbrickd_io *")
        crypto_functions(io)
        for name in ("read", "program", "erase", "send", "random", "light", "event", "verify_signature"):
            kind = ffi().typeof("struct unbrickd_io")
            field = next(member for found, member in kind.fields if found == name)
            stop = {"error": -14} if name in {"read", "program", "erase", "verify_signature"} else {}
            callback = ffi().callback(field.type, getattr(self, f"_{name}"), onerror=self._on_error, **stop)
            self._kept.append(callback)
            setattr(io, name, callback)
        return io

    def _new(self, kind: str, value: object = None) -> FFI.CData:
        """Kept for as long as the core runs."""
        return self._keep(ffi().new(kind) if value is None else ffi().new(kind, value))

    def _keep(self, made: FFI.CData) -> FFI.CData:
        self._kept.append(made)
        return made

    # The table of functions

    def _on_error(self, kind: type[BaseException], error: BaseException, trace: object) -> None:
        """What a callback raises, PowerCut or a failed assertion, is kept, and the core is told to stop."""
        if self._raised is None:
            self._raised = error

    def _flash(self, act: Callable[[], None]) -> int:
        assert self._raised is None, "the core used the flash after it was told to stop"
        try:
            act()
        except FlashError:
            return int(self.lib.UNBRICKD_E_FLASH)
        return 0

    def _read(self, app: FFI.CData, part: int, offset: int, to: FFI.CData, length: int) -> int:
        return self._flash(lambda: ffi().memmove(to, self._flashes[part].read(offset, length), length))

    def _program(self, app: FFI.CData, part: int, offset: int, wanted: FFI.CData, length: int) -> int:
        assert 0 < length <= 256
        return self._flash(lambda: self._flashes[part].program(offset, bytes(ffi().buffer(wanted, length))))

    def _erase(self, app: FFI.CData, part: int, offset: int, length: int) -> int:
        assert self._flashes[part].geometry.at(offset).size_bytes == length
        return self._flash(lambda: self._flashes[part].erase(offset))

    def _send(self, app: FFI.CData, to: FFI.CData, message: FFI.CData, length: int) -> None:
        assert self._raised is None
        self.sent.append((self.peer_of(to), bytes(ffi().buffer(message, length))))

    def _random(self, app: FFI.CData, to: FFI.CData, length: int) -> None:
        ffi().memmove(to, self._entropy(length), length)

    def _verify_signature(  # noqa: PLR0917 - as the table of functions has it
        self, app: FFI.CData, key: FFI.CData, key_length: int, digest: FFI.CData, signature: FFI.CData, length: int
    ) -> int:
        try:
            load_public_key(bytes(ffi().buffer(key, key_length))).verify(
                bytes(ffi().buffer(signature, length)),
                bytes(ffi().buffer(digest, 32)),
                padding.PKCS1v15(),
                Prehashed(hashes.SHA256()),
            )
        except (InvalidSignature, ConfigError):
            return -1
        return 0

    def _light(self, app: FFI.CData, light: int) -> None:
        assert self._raised is None
        self.light = LIGHTS[light]
        self.events.append(events.LightChanged(light=self.light))

    def _event(self, app: FFI.CData, event: FFI.CData) -> None:
        assert self._raised is None
        self.events.append(self._understand(event))

    # Events

    def _understand(self, event: FFI.CData) -> events.Event:
        lib, u = self.lib, event.u
        server = str(self.peer_of(event.server)) if event.server else ""
        match event.kind:
            case lib.UNBRICKD_CHECKED:
                return self._checked(u.checked, event.generation)
            case lib.UNBRICKD_SERVER_FOUND:
                return events.ServerFound(server=server, holds_device=u.holds_device)
            case lib.UNBRICKD_SERVER_GIVEN_UP:
                text = bytes(ffi().buffer(u.given_up.text, u.given_up.text_bytes)).decode() if u.given_up.text else ""
                why = text or self.words(u.given_up.why)
                return events.ServerGivenUp(server=server, why=why, refused=u.given_up.refused)
            case lib.UNBRICKD_OFFER_TAKEN:
                parts = [event.generation.part[i] for i in range(event.generation.part_count)]
                return events.OfferTaken(
                    generation=event.generation.number,
                    is_named=u.is_named,
                    components=tuple((_text(p.name, 16), p.differing, p.erase_blocks, p.bytes) for p in parts),
                    choices=tuple(CHOICES[p.choice] for p in parts),
                )
            case lib.UNBRICKD_ERASE_BLOCK_RESTORED:
                return events.EraseBlockRestored(
                    component=_text(u.restored.part.name, 16),
                    index=u.restored.index,
                    done=u.restored.done,
                    wanted=u.restored.part.differing,
                )
            case lib.UNBRICKD_RESTORED:
                return events.Restored(
                    generation=event.generation.number,
                    bytes_received=0,
                    bytes_sent=0,
                    payload_bytes=u.payload_bytes,
                )
            case _:
                assert event.kind == lib.UNBRICKD_BOOTING
                return self.booting_of(u.booting)

    def booting_of(self, booting: FFI.CData) -> events.Booting:
        return events.Booting(
            generation=booting.generation,
            firmware_version=_text(booting.firmware_version, 64),
            config_default=booting.config_default,
            went_back_from=booting.went_back_from,
        )

    def _checked(self, checked: FFI.CData, generation: FFI.CData) -> events.Checked:
        parts = [generation.part + i for i in range(generation.part_count) if generation.part[i].fits]
        reason = REASONS[checked.reason]
        findings = Findings(
            loaded=None if reason is Reason.RECORD_LOST else self.device.record.load(),
            refused=self.words(checked.refused) if checked.refused else "",
            components=tuple(
                ComponentFinding(
                    component_id=part.id,
                    name=_text(part.name, 16),
                    kind=ComponentKind(part.kind),
                    version=_text(part.version, 64),
                    erase_blocks=part.erase_blocks,
                    damaged=tuple(n for n in range(part.erase_blocks) if self.lib.ub_differs(self.ub, part, n)),
                )
                for part in parts
            ),
        )
        assert checked.bootable == findings.bootable
        rejected = checked.rejected_from, checked.rejected_to
        return events.Checked(
            findings=findings,
            decision=Decision(reason=reason, named=checked.named, rejected=rejected),
            record_repaired=checked.record_repaired,
        )


def _text(field: FFI.CData, size: int) -> str:
    return bytes(ffi().buffer(field, size)).partition(b"\0")[0].decode()


class CBootloader:
    """The C core behind the calls of `recovery.bootloader.Bootloader`, one power-on."""

    core_class = CCore

    def __init__(
        self,
        device: DeviceFlash,
        *,
        button: bool,
        policy: BootPolicy,
        targets: tuple[Peer, ...],
        entropy: Callable[[int], bytes],
        now_s: float,
        max_message_bytes: int,
        ring_frames: int = 0,
    ) -> None:
        self.core = self.core_class(
            device,
            record_flash(device),
            policy=policy,
            targets=targets,
            entropy=entropy,
            max_message_bytes=max_message_bytes,
            ring_frames=ring_frames,
        )
        self.booting: events.Booting | None = None
        self._cut: PowerCut | None = None
        """Raised when what the core sent before it is on its way."""
        self._wake = ffi().new("uint64_t *", micros(now_s))
        self.peak_ram_bytes = self.core.memory_bytes - self.core.ub.document_room
        self._power_on(button=button, now_us=micros(now_s))
        self._look()

    @property
    def light(self) -> Light:
        return self.core.light

    def receive(self, peer: Peer, message: bytes, now_s: float) -> None:
        """Take one message; raises what a callback raised."""
        with self._until_cut(now_s):
            self._receive(peer, message, micros(now_s))
        self._look()

    def outgoing(self, now_s: float) -> list[Datagram]:
        """Every message that is due now; raises what a callback raised."""
        if self._cut is not None and not self.core.sent:
            raise self._cut
        if self._cut is None:
            with self._until_cut(now_s):
                self._poll(micros(now_s))
        self._look()
        sent, self.core.sent = self.core.sent, []
        return sent

    def timer(self) -> float | None:
        wake = self._wake[0]
        return None if wake == (1 << 64) - 1 else wake / 1e6

    def events(self) -> list[events.Event]:
        happened, self.core.events = self.core.events, []
        return happened

    # The core's calls

    @contextmanager
    def _until_cut(self, now_s: float) -> Iterator[None]:
        try:
            yield
        except PowerCut as cut:
            if not self.core.sent:
                raise
            self._cut, self._wake[0] = cut, micros(now_s)

    def _power_on(self, *, button: bool, now_us: int) -> None:
        self.core.call(self.core.lib.unbrickd_power_on(self.core.ub, button, now_us))

    def _receive(self, peer: Peer, message: bytes, now_us: int) -> None:
        core = self.core
        octets, from_ = c_octets(message), core.octets_of(peer)
        core.call(core.lib.unbrickd_receive(core.ub, from_, octets, len(message), now_us))

    def _poll(self, now_us: int) -> None:
        self.core.call(self.core.lib.unbrickd_poll(self.core.ub, now_us, self._wake))

    def _look(self) -> None:
        boots = self.core.lib.unbrickd_boots(self.core.ub)
        if boots and self.booting is None:
            self.booting = self.core.booting_of(boots)
