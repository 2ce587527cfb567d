# SPDX-License-Identifier: Apache-2.0
"""Every module can be imported, and the command explains itself, on a platform that lacks what this one has.

In a process of its own: what the source imports from outside is imported first, then the modules and the attributes
that another platform does not have are taken away, then every module of unbrickd is imported."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "unbrickd"

POSIX_MODULES = [
    "fcntl",
    "termios",
    "tty",
    "pty",
    "pwd",
    "grp",
    "resource",
    "syslog",
    "readline",
    "curses",
    "spwd",
    "crypt",
    "nis",
    "posix",
    "ossaudiodev",
]
WINDOWS_MODULES = ["msvcrt", "winreg", "_winapi", "winsound", "nt", "_overlapped"]
POSIX_ATTRIBUTES = {
    "os": "fork forkpty getuid geteuid getgid getegid getgroups getlogin setuid setgid setsid getpgid setpgid killpg "
    "fchmod fchown chown lchown chroot mkfifo mknod statvfs fstatvfs sync fdatasync posix_fallocate posix_fadvise "
    "pread pwrite preadv pwritev sendfile uname sysconf confstr nice getloadavg wait wait3 wait4 WNOHANG "
    "sched_getaffinity sched_setaffinity memfd_create eventfd pidfd_open splice copy_file_range openpty ttyname "
    "O_DIRECT O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_SYNC O_DSYNC O_NOCTTY O_TMPFILE O_PATH",
    "signal": "SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGSTOP SIGCONT SIGTSTP SIGWINCH SIGIO "
    "alarm setitimer getitimer pause sigwait sigtimedwait pthread_kill pthread_sigmask siginterrupt",
    "socket": "AF_UNIX AF_PACKET AF_NETLINK AF_VSOCK SO_BINDTODEVICE SO_REUSEPORT SO_PRIORITY SO_MARK MSG_DONTWAIT "
    "MSG_NOSIGNAL SOCK_NONBLOCK SOCK_CLOEXEC CMSG_SPACE CMSG_LEN sethostname TCP_CORK TCP_QUICKACK TCP_USER_TIMEOUT",
    "select": "epoll poll kqueue kevent devpoll EPOLLIN POLLIN",
    "time": "tzset clock_gettime clock_settime CLOCK_MONOTONIC CLOCK_REALTIME CLOCK_BOOTTIME",
    "mmap": "PROT_READ PROT_WRITE MAP_SHARED MAP_PRIVATE MADV_DONTNEED",
}
"""Documented as Unix (docs.python.org, library reference); what another system lacks of them is left out."""

SCRIPT = """
import contextlib, importlib, io, json, sys
task = json.load(sys.stdin)
sys.path.insert(0, task["path"])
for name in task["outside"]:
    if name not in task["absent"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
for name in task["absent"]:
    sys.modules[name] = None
for module, names in task["attributes"].items():
    for name in names.split():
        vars(importlib.import_module(module)).pop(name, None)
failed = {}
for name in task["modules"]:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
for words in task["commands"]:
    main = importlib.import_module("unbrickd.cli.main").main
    try:
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            main(words)
    except SystemExit as end:
        if end.code != 0 or "usage: unbrickd" not in shown.getvalue():
            failed[" ".join(words)] = f"exit {end.code}"
    except Exception as error:
        failed[" ".join(words)] = repr(error)
json.dump(failed, sys.stdout)
"""


def modules_under(package: Path) -> list[str]:
    """Names of all modules, but for __main__, which runs."""
    paths = (path.relative_to(package.parent).with_suffix("") for path in sorted(package.rglob("*.py")))
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__")
    return list(names)


def outside_modules(package: Path) -> list[str]:
    """What the modules import from elsewhere when they are imported or later."""
    found: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return sorted(name for name in found if name.split(".")[0] != package.name)


def failures(
    package: Path, *, absent: list[str], attributes: dict[str, str], commands: list[list[str]]
) -> dict[str, str]:
    """What fails on a platform without those: module or command, and the error."""
    task = {
        "path": str(package.parent),
        "outside": ["argparse", "logging.handlers", "asyncio", *outside_modules(package)],
        "absent": absent,
        "attributes": attributes,
        "modules": modules_under(package),
        "commands": commands,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(task), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    failed: dict[str, str] = json.loads(done.stdout)
    return failed


@pytest.mark.parametrize(
    ("absent", "attributes"),
    [(POSIX_MODULES, POSIX_ATTRIBUTES), (WINDOWS_MODULES, {})],
    ids=["without-posix", "without-windows"],
)
def test_unbrickd_on_another_platform_imports_whole_and_explains_itself(
    absent: list[str], attributes: dict[str, str]
) -> None:
    commands = [["--help"], ["serve", "--help"], ["gateway", "--help"], ["agent", "--help"], ["recover", "--help"]]
    assert failures(PACKAGE, absent=absent, attributes=attributes, commands=commands) == {}


@pytest.mark.parametrize(
    "text", ["import fcntl", "import os\nUSER = os.geteuid()", "import signal\nSTOP = [signal.SIGKILL]"]
)
def test_failures_of_a_module_bound_to_one_platform_are_told(tmp_path: Path, text: str) -> None:
    package = tmp_path / "bound"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "early.py").write_text(text + "\n", encoding="utf-8")
    (package / "late.py").write_text("def lock() -> None:\n    import fcntl\n", encoding="utf-8")
    assert set(failures(package, absent=POSIX_MODULES, attributes=POSIX_ATTRIBUTES, commands=[])) == {"bound.early"}
