# SPDX-License-Identifier: Apache-2.0
"""A virtual gateway that is switched on: its bootloader, then, if it boots, its system with the agent, until stopped.

Other commands reach it through its request folder: they leave a JSON file and wait for the answer beside it, which
works on every platform and needs no port.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unbrickd.adapters.memory import load_memory, save_memory, write_whole
from unbrickd.adapters.net.device import DeviceLink, open_link
from unbrickd.agent.agent import Agent, AgentOptions, BackupEnded
from unbrickd.agent.agent import Event as AgentEvent
from unbrickd.agent.session import Ending
from unbrickd.cli.console import Narrator
from unbrickd.cli.drive import run_agent, run_bootloader
from unbrickd.cli.narrate import light_text
from unbrickd.errors import ConfigError, UnbrickdError
from unbrickd.recovery.bootloader import Bootloader
from unbrickd.recovery.events import Booting, LightChanged
from unbrickd.recovery.events import Event as RecoveryEvent
from unbrickd.seal.maker import decode_signature_file
from unbrickd.sim.gateway import MEMORY_FILE, NewFirmware, VirtualGateway
from unbrickd.sim.nor import Phase, PowerCut

REQUESTS_FOLDER = "requests"
STATUS_FILE = "status.json"
REQUEST_PATIENCE_S = 60.0
WATCHDOG_S = 0.3
"""How long a system that does not come up takes to be reset; shorter than any real one."""
EXIT_POWER_CUT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerOptions:
    """until: "booted", "backed-up" or "good"; "": until somebody stops it. cut_at: flash operations from now."""

    until: str = ""
    cut_at: int | None = None
    cut_phase: Phase = Phase.TORN


class PoweredGateway:
    """One run of the process. Raises what VirtualGateway raises."""

    def __init__(self, gateway: VirtualGateway, narrator: Narrator, options: PowerOptions) -> None:
        self._gateway = gateway
        self._narrate = narrator
        self._options = options
        self._stopped = False
        self._reboot = False
        self._status: dict[str, object] = {"pid": os.getpid(), "state": "bootloader", "light": "off"}
        self._requests = gateway.directory / REQUESTS_FOLDER
        self._requests.mkdir(exist_ok=True)
        for stale in self._requests.iterdir():
            stale.unlink()
        if options.cut_at is not None:
            gateway.chip.cut_power(at=gateway.chip.operations + options.cut_at, phase=options.cut_phase)

    def run(self) -> int:
        """Exit code: 0 if stopped or `until` was reached, EXIT_POWER_CUT at the power cut that was asked for."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop())
        link = open_link(self._gateway.layout.link, say=self._narrate.say)
        code = 0
        try:
            while not self._stopped:
                self._power_cycle(link)
        except PowerCut:
            self._narrate.say("PowerCut", text="the power is cut")
            code = EXIT_POWER_CUT
        finally:
            link.close()
            (self._gateway.directory / STATUS_FILE).unlink(missing_ok=True)
        chip = self._gateway.chip
        self._narrate.say(
            "PowerOff",
            text=f"off; a real chip: {chip.busy_s:.1f} s for {chip.erases} erases and {chip.programs} programs",
            flash_s=round(chip.busy_s, 3),
            erases=chip.erases,
            programs=chip.programs,
            received_bytes=link.received_bytes,
            sent_bytes=link.sent_bytes,
        )
        return code

    def _stop(self) -> None:
        self._stopped = True

    def _power_cycle(self, link: DeviceLink) -> None:
        gateway = self._gateway
        self._set_status(state="bootloader")
        self._narrate.say("PowerOn", text=f"power on: {gateway.layout.model} {gateway.identity.device_id.hex()[:8]}")
        bootloader = Bootloader(
            gateway.device,
            button=gateway.take_button(),
            policy=gateway.layout.boot,
            targets=link.targets,
            entropy=os.urandom,
            now_s=time.monotonic(),
            max_message_bytes=link.max_message_bytes,
            ring_frames=gateway.layout.link.ring_frames,
            polled=False,
        )
        booting = run_bootloader(bootloader, link, on_event=self._on_recovery, stop=self._is_stopped_in_bootloader)
        gateway.save_chip()
        if booting is None:
            return
        if gateway.hangs():
            self._narrate.say("Hung", text="the system does not come up; the watchdog resets it")
            time.sleep(WATCHDOG_S)
        else:
            self._run_system(booting, link)

    def _run_system(self, booting: Booting, link: DeviceLink) -> None:
        gateway, layout = self._gateway, self._gateway.layout
        self._reboot = False
        self._set_status(state="running", generation=booting.generation)
        self._narrate.say("SystemUp", text="the system is up", generation=booting.generation)
        memory_path = gateway.directory / MEMORY_FILE
        agent = Agent(
            gateway.software,
            AgentOptions(policy=layout.backup, good_after_s=layout.good_after_s, probe_tries=layout.link.probe_tries),
            memory=load_memory(memory_path),
            targets=link.targets,
            entropy=os.urandom,
            max_message_bytes=link.max_message_bytes,
            now_s=time.monotonic(),
            wall_s=time.time(),
        )
        kept = agent.memory
        if self._options.until == "booted":
            self._stop()

        def stop() -> bool:
            nonlocal kept
            self._answer_requests(agent)
            if agent.memory != kept:
                kept = agent.memory
                save_memory(memory_path, kept)
            return self._stopped or self._reboot

        run_agent(agent, link, on_event=self._on_agent, stop=stop)
        save_memory(memory_path, agent.memory)
        gateway.save_chip()

    def _is_stopped_in_bootloader(self) -> bool:
        self._answer_requests(None)
        return self._stopped

    def _on_recovery(self, event: RecoveryEvent) -> None:
        self._narrate(event)
        if isinstance(event, LightChanged):
            self._set_status(light=light_text(event.light))

    def _on_agent(self, event: AgentEvent) -> None:
        self._narrate(event)
        if isinstance(event, BackupEnded) and event.outcome.ending is Ending.COMMITTED:
            good = self._gateway.software.loaded().is_good
            if self._options.until == "backed-up" or (self._options.until == "good" and good):
                self._stop()

    def _set_status(self, **changes: object) -> None:
        self._status.update(changes)
        write_whole(self._gateway.directory / STATUS_FILE, json.dumps(self._status).encode())

    def _answer_requests(self, agent: Agent | None) -> None:
        for path in sorted(self._requests.glob("*.json")):
            try:
                request = json.loads(path.read_text(encoding="utf-8"))
                if agent is None:
                    raise ConfigError("the gateway is in its bootloader; its system is not up", code="not-up")
                answer = {"ok": True, "text": self._perform(request, agent)}
            except UnbrickdError as error:
                answer = {"ok": False, "text": str(error), "hint": error.hint, "exit": error.exit_code}
            except (OSError, ValueError, KeyError) as error:
                answer = {"ok": False, "text": f"the request cannot be read: {error}", "hint": "", "exit": 2}
            path.unlink()
            write_whole(path.with_suffix(".done"), json.dumps(answer).encode())

    def _perform(self, request: dict[str, str], agent: Agent) -> str:
        if request["what"] == "upgrade":
            text = perform_upgrade(self._gateway, request)
            agent.upgraded(time.monotonic())
            self._reboot = True
            return text + "; it restarts"
        if request["what"] == "set-config":
            text = perform_set_config(self._gateway, request)
            agent.config_changed(time.monotonic())
            return text
        if request["what"] == "back-up":
            agent.back_up_now(time.monotonic())
            return "asked for a backup"
        raise ConfigError(f"unknown request {request['what']!r}", code="request")


def perform_upgrade(gateway: VirtualGateway, request: dict[str, str]) -> str:
    """Install the firmware a request names. Returns what to tell the user."""
    octets = Path(request["file"]).read_bytes()
    signature = request.get("signature")
    gateway.upgrade(
        NewFirmware(
            octets=octets,
            version=request["version"],
            signature=decode_signature_file(Path(signature).read_text(encoding="utf-8")) if signature else None,
        )
    )
    if request.get("hangs"):
        gateway.mark_hanging()
    return f"firmware {request['version']} is installed as generation {_generation(gateway)}"


def perform_set_config(gateway: VirtualGateway, request: dict[str, str]) -> str:
    """Replace the configuration by the file a request names. Returns what to tell the user."""
    gateway.set_config(Path(request["file"]).read_bytes())
    return f"the configuration is changed, generation {_generation(gateway)}"


def _generation(gateway: VirtualGateway) -> int:
    return gateway.software.loaded().record.sealed.generation.number


def ask_running(directory: Path, request: dict[str, str], *, sleep: Callable[[float], None] = time.sleep) -> str:
    """Have the process that runs this gateway do something; returns what it says. Raises ConfigError."""
    path = directory / REQUESTS_FOLDER / f"{time.time_ns()}-{os.getpid()}.json"
    done = path.with_suffix(".done")
    write_whole(path, json.dumps(request).encode())
    deadline_s = time.monotonic() + REQUEST_PATIENCE_S
    while not done.exists():
        if time.monotonic() > deadline_s:
            path.unlink(missing_ok=True)
            raise ConfigError("the gateway does not answer", code="no-answer", hint="is its process still running?")
        sleep(0.05)
    answer = json.loads(done.read_text(encoding="utf-8"))
    done.unlink()
    if not answer["ok"]:
        raise ConfigError(answer["text"], code="refused", hint=answer["hint"])
    return str(answer["text"])
