# SPDX-License-Identifier: Apache-2.0
"""The server as one state machine: messages, time and a store in; datagrams and events out (spec/protocol.md).

An adapter drives it with seven calls: `receive` what came, `next_batch` until there is none, `timer` and `handle_timer`
for time, `events` for what happened, `next_work` and `work_done` for what waits for the disk. It knows no sockets and
no clock; `now_s` is any clock that only grows. Nothing that a peer sends makes it raise.

Bounds: per address that has proven nothing, one answer per message and never three times its bytes (§1); sessions,
uploads, devices, replies and cached bytes as `ServerLimits` says.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Set
from contextlib import suppress

from unbrickd.errors import IntegrityError, RemoteProtocolError, StorageError, UnbrickdError
from unbrickd.model.peer import Batch, Datagram, Peer
from unbrickd.seal.keys import device_id_of, verify_identity_signature
from unbrickd.server.backup import BackupSession
from unbrickd.server.cache import EraseBlockCache
from unbrickd.server.cookies import Cookies
from unbrickd.server.events import Event, Refused, Rotten, SessionEnd, SessionEnded, SessionOpened
from unbrickd.server.limits import SESSION_EXPIRY_S, ServerLimits
from unbrickd.server.port import DiskWork, Port, Refusal, SessionKey
from unbrickd.server.restore import RestoreSession
from unbrickd.server.sessions import Session, Sessions
from unbrickd.server.sightings import Sightings
from unbrickd.server.timers import Timers
from unbrickd.server.turns import Turns
from unbrickd.store.vault import Vault
from unbrickd.wire import messages as m
from unbrickd.wire.framing import HEADER_BYTES, VERSION, Octets, decode_frame
from unbrickd.wire.packet import Packet, decode, encode

AMPLIFICATION = 3
"""Bytes out per byte in, before an address has returned a cookie (§1; the factor of RFC 9000 §8)."""
MAX_EVENTS = 10_000
MAX_ENDED = 1024
"""Sessions that we ended and still answer for with the Error that ended them."""
_NEVER_S = float("inf")
_ERROR_FIXED_BYTES = HEADER_BYTES + 7
_FROM_SERVERS = (m.ProbeAck, m.BackupAck, m.RestoreAck, m.Announce, m.Error)
"""What devices never send or what is never answered."""
_WAIT_AND_RETRY = {m.ErrorCode.BUSY, m.ErrorCode.NO_SPACE, m.ErrorCode.STORAGE}
_ENDS_SESSION = {m.ErrorCode.NO_SPACE, m.ErrorCode.STORAGE}


class Server:
    """Serves backups into a vault and restores out of it.

    server_id: 16 bytes, the same at every start, so that a device knows its server again; cookie_secret: at least 16
    random bytes. The vault is used by this server alone for as long as it lives.
    """

    def __init__(
        self, vault: Vault, *, server_id: bytes, cookie_secret: bytes, limits: ServerLimits | None = None
    ) -> None:
        assert len(server_id) == m.SERVER_ID_BYTES
        self._vault = vault
        self._server_id = server_id
        self._cookies = Cookies(cookie_secret)
        self._limits = limits or ServerLimits()
        self._cache = EraseBlockCache(vault, self._limits.cache_bytes)
        self._sessions = Sessions()
        self._ended: OrderedDict[SessionKey, m.Error] = OrderedDict()
        self._replies: deque[Datagram] = deque(maxlen=self._limits.max_replies)
        self._work: deque[DiskWork] = deque()
        """No more than there are sessions, each of which waits for one."""
        self._turns = Turns()
        self._timers: Timers[BackupSession] = Timers()
        self._sightings = Sightings(vault)
        self._expires_s = _NEVER_S
        """No session was silent for too long before that; the next may be later."""
        self._turned_away = 0
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)

    # The seven calls

    def receive(self, peer: Peer, octets: Octets, now_s: float) -> None:
        """Take one message, whole and of any origin."""
        try:
            packet = decode(octets)
        except RemoteProtocolError as error:
            if error.code != "frame":
                self._refuse_undecoded(peer, octets, Refusal.of(error))
            return
        if isinstance(packet.message, _FROM_SERVERS):
            return
        key = peer, packet.session
        session = self._sessions.heard(key, now_s)
        try:
            if isinstance(packet.message, m.Probe):
                self._probe(peer, packet.message, now_s)
            elif session is not None:
                if session.receive(packet.transfer, packet.message, now_s):
                    self._await(session)
            else:
                self._without_session(peer, packet, octets, now_s)
        except (Refusal, UnbrickdError) as error:
            self._refuse(key, packet, octets, Refusal.of(error))

    def next_batch(self, blocked: Set[int] = frozenset()) -> Batch | None:
        """What to send next: answers first, then a batch of each session in turn, so that none waits for a slow one.

        blocked: the channels (`Peer.channel`) that take no DataBlocks now; their sessions keep their turn.
        """
        while not self._replies and (turn := self._turns.next(blocked)) is not None:
            session, most = turn
            try:
                batch = session.next_batch(most)
            except (Refusal, UnbrickdError) as error:
                self._refuse(session.port.key, None, b"", Refusal.of(error))
                batch = None
            self._turns.sent(session)
            if batch is not None:
                return batch
        return self._next_reply() if self._replies else None

    def timer(self) -> float | None:
        """When to call `handle_timer`, if nothing else happens before; it may be for nothing."""
        due_s = min(self._timers.first_s(), self._expires_s, self._sightings.due_s)
        return None if due_s == _NEVER_S else due_s

    def handle_timer(self, now_s: float) -> None:
        """Repeat requests that were not answered, and forget who fell silent; nothing, if it is not due."""
        if now_s >= self._expires_s:
            self._expire(now_s)
        if now_s >= self._sightings.due_s:
            self._sightings.note()
        for session in self._timers.due(now_s):
            key = session.port.key
            try:
                session.handle_timer(now_s)
            except (Refusal, UnbrickdError) as error:
                self._refuse(key, None, b"", Refusal.of(error))
            if key not in self._sessions:
                continue
            if session.silent(now_s):
                self._close(key, SessionEnd.SILENT)
            else:
                self._await(session)

    def next_work(self) -> DiskWork | None:
        """The next wait for the disk: to be run, whatever comes meanwhile, and given to `work_done`."""
        return self._work.popleft() if self._work else None

    def work_done(self, work: DiskWork, now_s: float) -> None:
        """It was run. Its session goes on, or, if it ended meanwhile, lets go of its upload."""
        try:
            work.done(work.error, now_s)
        except (Refusal, UnbrickdError) as error:
            self._refuse(work.key, None, b"", Refusal.of(error))
        session = self._sessions.get(work.key)
        if session is not None:
            self._await(session)

    def _expire(self, now_s: float) -> None:
        while (silent := self._sessions.longest_silent()) and now_s >= silent[1] + SESSION_EXPIRY_S:
            self._close(silent[0], SessionEnd.SILENT)
        if silent:
            self._expires_s = silent[1] + SESSION_EXPIRY_S

    def _await(self, session: Session) -> None:
        """Its turn, or its time."""
        self._sessions.settle(session)
        if isinstance(session, BackupSession):
            self._timers.set(session, session.timer())
        elif session.pending:
            self._turns.add(session)

    def events(self) -> list[Event]:
        """What happened since the last call, oldest first."""
        happened = list(self._events)
        self._events.clear()
        return happened

    # Besides

    def told(self, event: Event, now_s: float) -> None:
        """What happened in another process, which serves restores from the same store but does not write to it."""
        self._events.append(event)
        if isinstance(event, SessionOpened):
            self._sightings.add(event.device_id, now_s)
        elif isinstance(event, Rotten):
            with suppress(StorageError):
                self._vault.distrust(event.device_id, event.number, event.component)

    @property
    def wants_write(self) -> bool:
        """Whether `next_batch` may have something, blocked channels aside."""
        return bool(self._replies or self._turns)

    @property
    def gather_s(self) -> float:
        """For how long what comes next may gather before it is given to `receive`; 0.0: not at all."""
        return self._sessions.gather_s

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    def announce(self, prefix_bits: int = 0) -> bytes:
        """The message by which devices find us through the firewall; how long our network's prefix is (§4.15)."""
        return encode(m.Announce(server_id=self._server_id, prefix_bits=prefix_bits))

    def peer_gone(self, peer: Peer) -> None:
        """The connection of this peer is closed: keep what came and forget the sessions."""
        for key in self._sessions.of_peer(peer):
            self._close(key, SessionEnd.CLOSED)

    def close(self) -> None:
        """Before the program ends: what was uploaded so far is kept, durably, and the next session resumes it.

        Work that was taken must be done.
        """
        for key in self._sessions.all():
            self._close(key, SessionEnd.CLOSED)
        self._sightings.note()

    # Opening sessions

    def _probe(self, peer: Peer, probe: m.Probe, now_s: float) -> None:
        """Answered by one message, and nothing is kept (§4.2)."""
        if not probe.version_lowest <= VERSION <= probe.version_highest:
            raise Refusal(m.ErrorCode.VERSION, f"this server speaks version {VERSION}")
        busy = self._is_full(probe.purpose)
        ack = m.ProbeAck(
            nonce=probe.nonce,
            server_id=self._server_id,
            cookie=self._cookies.make(peer, probe.device_id, now_s),
            version=VERSION,
            holds_device=any(row.good for row in self._vault.generations(probe.device_id)),
            busy=busy,
            retry_after_s=self._later_s() if busy else 0,
            max_message_bytes=self._limits.max_message_bytes(peer.transport),
        )
        self._replies.append((peer, encode(ack)))

    def _without_session(self, peer: Peer, packet: Packet, octets: Octets, now_s: float) -> None:
        key, message = (peer, packet.session), packet.message
        if key in self._ended:
            self._replies.append((peer, self._fitted(self._ended[key], packet, len(octets))))
        elif isinstance(message, m.Backup):
            self._open_backup(key, message, now_s)
        elif isinstance(message, m.Restore):
            self._open_restore(key, message, now_s)
        else:
            raise Refusal(m.ErrorCode.NO_SESSION, "this session is not known here")

    def _open_backup(self, key: SessionKey, backup: m.Backup, now_s: float) -> None:
        """Cookie, key, signature: in this order, before anything else is looked at (§4.3)."""
        _, session_id = key
        self._check_cookie(key, backup.cookie, backup.device_id, now_s)
        if device_id_of(backup.public_key) != backup.device_id:
            raise Refusal(m.ErrorCode.NOT_AUTHENTIC, "the device id is not that of the public key")
        try:
            verify_identity_signature(backup.public_key, backup.signed_bytes(session_id), backup.signature)
        except IntegrityError as error:
            raise Refusal(m.ErrorCode.NOT_AUTHENTIC, str(error)) from error
        if not self._vault.known(backup.device_id):
            if not self._limits.accept_new:
                raise Refusal(m.ErrorCode.NOT_ACCEPTED, "this server takes no new devices")
            if len(self._vault.devices()) >= self._limits.max_devices:
                raise Refusal(m.ErrorCode.NOT_ACCEPTED, "this server has as many devices as it takes")
        # The signature proves the device, so its older sessions are over; two uploads of one image must not meet.
        for older in self._sessions.of_device(backup.device_id):
            self._supersede(older)
        self._make_room(m.Purpose.BACKUP)
        session = BackupSession(
            vault=self._vault, limits=self._limits, port=self._port(key), backup=backup, now_s=now_s
        )
        self._open(key, session, now_s)

    def _open_restore(self, key: SessionKey, restore: m.Restore, now_s: float) -> None:
        peer, _ = key
        self._check_cookie(key, restore.cookie, restore.device_id, now_s)
        if not self._vault.known(restore.device_id):
            raise Refusal(m.ErrorCode.UNKNOWN_DEVICE, "nothing is held for this device")
        # Restore proves no device, so it ends only what came from the same host: a stranger can end nobody's session.
        for older in self._sessions.of_device(restore.device_id):
            same_host = (older[0].host, older[0].scope) == (peer.host, peer.scope)
            if same_host and isinstance(self._sessions.get(older), RestoreSession):
                self._supersede(older)
        self._make_room(m.Purpose.RESTORE)
        session = RestoreSession(
            vault=self._vault, cache=self._cache, limits=self._limits, port=self._port(key), restore=restore
        )
        self._open(key, session, now_s)

    def _check_cookie(self, key: SessionKey, cookie: bytes, device_id: bytes, now_s: float) -> None:
        peer, session_id = key
        if not self._cookies.check(cookie, peer, device_id, now_s):
            raise Refusal(m.ErrorCode.COOKIE, "the cookie is not of this address, or too old")
        if session_id == 0:
            raise Refusal(m.ErrorCode.MALFORMED, "session 0")

    def _port(self, key: SessionKey) -> Port:
        return Port(peer=key[0], session=key[1], replies=self._replies, events=self._events, work=self._work)

    def _open(self, key: SessionKey, session: Session, now_s: float) -> None:
        """A session that cannot open leaves nothing behind, so that the same message gets the same Error again."""
        self._sessions.put(key, session, now_s)
        self._expires_s = min(self._expires_s, now_s + SESSION_EXPIRY_S)
        opened = SessionOpened(device_id=session.device_id, peer=session.port.peer, purpose=session.purpose)
        self._events.append(opened)
        try:
            session.open()
        except (Refusal, UnbrickdError):
            self._sessions.pop(key)
            raise
        self._await(session)
        self._sightings.add(session.device_id, now_s)

    def _is_full(self, purpose: m.Purpose) -> bool:
        if len(self._sessions) >= self._limits.max_sessions and self._sessions.resting is None:
            return True
        return purpose is m.Purpose.BACKUP and self._sessions.uploading >= self._limits.max_backups

    def _make_room(self, purpose: m.Purpose) -> None:
        if self._is_full(purpose):
            raise Refusal(m.ErrorCode.BUSY, "this server has as many sessions as it takes")
        resting = self._sessions.resting
        if len(self._sessions) >= self._limits.max_sessions and resting is not None:
            self._close(resting, SessionEnd.CLOSED)

    # Ending sessions

    def _supersede(self, key: SessionKey) -> None:
        session = self._sessions.get(key)
        assert session is not None
        error = m.Error(code=m.ErrorCode.SUPERSEDED, text="a newer session of this device took over")
        if not (isinstance(session, BackupSession) and session.done):
            session.port.send(error)
        self._close(key, SessionEnd.SUPERSEDED)
        # A late repetition of its Backup must not open it again, over the newer one.
        self._remember_ended(key, error)

    def _close(self, key: SessionKey, reason: SessionEnd) -> None:
        session = self._sessions.pop(key)
        if not len(self._sessions):
            self._expires_s = _NEVER_S
        done = isinstance(session, RestoreSession) or session.done
        if isinstance(session, BackupSession):
            self._timers.set(session, None)
            session.suspend()
        else:
            session.close()
        if not done:
            self._events.append(
                SessionEnded(
                    device_id=session.device_id, peer=session.port.peer, purpose=session.purpose, reason=reason
                )
            )

    def _remember_ended(self, key: SessionKey, error: m.Error) -> None:
        self._ended[key] = error
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    # Refusing

    def _refuse(self, key: SessionKey, packet: Packet | None, octets: Octets, refusal: Refusal) -> None:
        """Answer with an Error; `packet` is None where no message called for it, but a session did."""
        peer, session_id = key
        error = self._error_of(refusal, 0 if packet is None else packet.message.TYPE)
        session = self._sessions.get(key)
        if session is None:
            device_id = packet.message.device_id if packet and isinstance(packet.message, m.Backup | m.Restore) else b""
            packet = packet or Packet(message=error, session=session_id)
            self._replies.append((peer, self._fitted(error, packet, len(octets))))
        else:
            device_id = session.device_id
            session.port.send(error, packet.transfer if packet else 0)
            if refusal.code in _ENDS_SESSION:
                self._close(key, SessionEnd.CLOSED)
                self._remember_ended(key, error)
        self._events.append(Refused(device_id=device_id, peer=peer, code=refusal.code, reason=refusal.text))

    def _refuse_undecoded(self, peer: Peer, octets: Octets, refusal: Refusal) -> None:
        frame = decode_frame(octets)
        if frame.type in {kind.TYPE for kind in _FROM_SERVERS}:
            return
        error = self._error_of(refusal, frame.type)
        packet = Packet(message=error, session=frame.session, transfer=frame.transfer)
        self._replies.append((peer, self._fitted(error, packet, len(octets))))
        self._events.append(Refused(device_id=b"", peer=peer, code=refusal.code, reason=refusal.text))

    def _error_of(self, refusal: Refusal, about: int) -> m.Error:
        wait_s = self._later_s() if refusal.code in _WAIT_AND_RETRY else 0
        return m.Error(code=refusal.code, about=about, retry_after_s=wait_s, text=refusal.text)

    def _later_s(self) -> int:
        """When to come back: not all at once, who were turned away together."""
        more_s = self._turned_away % self._limits.retry_spread_s
        self._turned_away += 1
        return self._limits.retry_after_s + more_s

    def _fitted(self, error: m.Error, packet: Packet, received_bytes: int) -> bytes:
        """The Error as sent to an address that has proven nothing: its text gives way to the bound of §1."""
        room = max(0, AMPLIFICATION * received_bytes - _ERROR_FIXED_BYTES)
        text = error.text.encode()[:room].decode(errors="ignore")
        short = m.Error(code=error.code, about=error.about, retry_after_s=error.retry_after_s, text=text)
        return encode(short, session=packet.session, transfer=packet.transfer)

    def _next_reply(self) -> Batch:
        peer, octets = self._replies.popleft()
        return Batch(peer=peer, octets=octets, message_bytes=len(octets))
