# SPDX-License-Identifier: Apache-2.0
"""The servers that unbrickd is measured against: TFTP and plain HTTP, as users have them today."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from bench.processes import Usage, accepts, answers_tftp, free_port, program, python, running

NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
{user}
events {{}}
http {{
  access_log off;
  sendfile on;
  server {{ listen {host}:{port}; root {folder}; }}
}}
"""


class TftpServer:
    """tftpd-hpa if it is installed and we may start it (it wants root), else the lock-step server of bench/tftp.py."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemon = program("in.tftpd") if hasattr(os, "geteuid") and os.geteuid() == 0 else None
        self.name = "bundled lock-step server"
        if self._daemon:
            told = subprocess.run([self._daemon, "--version"], capture_output=True, text=True, check=False).stdout
            self.name = told.split(",")[0].strip()
        self.tells_cpu = self._daemon is None
        """tftpd-hpa serves each request in a child that it never waits for, so nobody is told what that used."""
        self.port = free_port(socket.SOCK_DGRAM)

    def running(self) -> AbstractContextManager[Usage]:
        command = python("-m", "bench.tftp", "serve", str(self.port), self._folder)
        if self._daemon:
            options = ["--foreground", "--create", "--secure", "--user", "root", "--address", f"127.0.0.1:{self.port}"]
            command = [self._daemon, *options, str(self._folder)]
        return running(command, ready=answers_tftp(self.port))


class HttpServer:
    """nginx if it is installed, else Python's http.server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemon = program("nginx")
        self.name = "Python http.server"
        if self._daemon:
            told = subprocess.run([self._daemon, "-v"], capture_output=True, text=True, check=False).stderr
            self.name = told.rpartition(" ")[2].strip()
        self.port = free_port(socket.SOCK_STREAM)

    def running(self) -> AbstractContextManager[Usage]:
        command = python("-m", "http.server", str(self.port), "--bind", "127.0.0.1", "--directory", self._folder)
        if self._daemon:
            user = "user root;" if os.geteuid() == 0 else ""  # its own user cannot read our temporary folder
            configuration = self._folder / "nginx.conf"
            configuration.write_text(
                NGINX.format(folder=self._folder, host="127.0.0.1", port=self.port, user=user), encoding="utf-8"
            )
            command = [self._daemon, "-c", str(configuration)]
        return running(command, ready=accepts(self.port))
