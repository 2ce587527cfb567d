# SPDX-License-Identifier: Apache-2.0
"""fbtftp (PyPI) as its README shows it, a process for each: `python -m bench.street_fbtftp ADDRESS PORT FOLDER`.

SIGTERM ends it and all of its processes.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fbtftp.base_handler import BaseHandler, ResponseData
from fbtftp.base_server import BaseServer

RETRIES, TIMEOUT_S = 3, 5


class _File(ResponseData):  # type: ignore[misc]
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._size = path.stat().st_size

    def read(self, n: int) -> bytes:
        return self._file.read(n)

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        self._file.close()


class _Handler(BaseHandler):  # type: ignore[misc]
    def get_response_data(self) -> ResponseData:
        return _File(Path(sys.argv[3]) / self._path)


class _Server(BaseServer):  # type: ignore[misc]
    def get_handler(self, server_addr: object, peer: object, path: str, options: dict[str, str]) -> BaseHandler:
        return _Handler(server_addr, peer, path, options, lambda _: None)


if __name__ == "__main__":
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    _Server(sys.argv[1], int(sys.argv[2]), RETRIES, TIMEOUT_S).run()
