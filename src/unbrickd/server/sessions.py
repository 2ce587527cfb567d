# SPDX-License-Identifier: Apache-2.0
"""The sessions there are, found by address, device, silence and rest without looking at all of them. Sends nothing."""

from __future__ import annotations

from collections import OrderedDict

from unbrickd.model.peer import Peer
from unbrickd.server.backup import BackupSession
from unbrickd.server.port import SessionKey
from unbrickd.server.restore import RestoreSession

Session = BackupSession | RestoreSession


class Sessions:
    """By key. A session at rest has done what it was asked so far: its slot is free for whoever needs one."""

    def __init__(self) -> None:
        self._sessions: dict[SessionKey, Session] = {}
        self._heard_s: OrderedDict[Session, float] = OrderedDict()
        """When each was heard last, the one that was silent longest first."""
        self._of_device: dict[bytes, list[SessionKey]] = {}
        self._resting: OrderedDict[Session, None] = OrderedDict()
        """The one that rests longest first."""
        self._uploading: set[BackupSession] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._sessions

    def all(self) -> list[SessionKey]:
        return list(self._sessions)

    def put(self, key: SessionKey, session: Session, now_s: float) -> None:
        self._sessions[key] = session
        self._heard_s[session] = now_s
        self._of_device.setdefault(session.device_id, []).append(key)

    def get(self, key: SessionKey) -> Session | None:
        return self._sessions.get(key)

    def heard(self, key: SessionKey, now_s: float) -> Session | None:
        """The session, of which a message has come."""
        session = self._sessions.get(key)
        if session is not None:
            self._heard_s[session] = now_s
            self._heard_s.move_to_end(session)
        return session

    def settle(self, session: Session) -> None:
        """Look again at what it does, after a message or its timer."""
        if session.at_rest:
            self._resting.setdefault(session)
            self._uploading.discard(session)
        else:
            self._resting.pop(session, None)
            if isinstance(session, BackupSession):
                self._uploading.add(session)

    def pop(self, key: SessionKey) -> Session:
        session = self._sessions.pop(key)
        del self._heard_s[session]
        self._resting.pop(session, None)
        self._uploading.discard(session)
        keys = self._of_device[session.device_id]
        keys.remove(key)
        if not keys:
            del self._of_device[session.device_id]
        return session

    def of_device(self, device_id: bytes) -> list[SessionKey]:
        return list(self._of_device.get(device_id, ()))

    def of_peer(self, peer: Peer) -> list[SessionKey]:
        return [key for key in self._sessions if key[0] == peer]

    def longest_silent(self) -> tuple[SessionKey, float] | None:
        """It, and when it was heard last."""
        for session, heard_s in self._heard_s.items():
            return session.port.key, heard_s
        return None

    @property
    def resting(self) -> SessionKey | None:
        """The one that rests longest."""
        return next((session.port.key for session in self._resting), None)

    @property
    def gather_s(self) -> float:
        """For how long blocks may gather, while nothing goes on but uploads; 0.0: not at all."""
        if len(self._sessions) - len(self._resting) > len(self._uploading):
            return 0.0
        return min((session.gather_s for session in self._uploading), default=0.0)

    @property
    def uploading(self) -> int:
        """How many do."""
        return len(self._uploading)
