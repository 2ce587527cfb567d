# SPDX-License-Identifier: Apache-2.0
"""The agent as a program: joins the agent's core to a real device, its link and its letter box, and drives it.

What flash holds is recorded when somebody says that it was changed, and at no other time: a change that nobody spoke
of may be damage, and recording it would back the damage up.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from unbrickd.adapters.device import RealDevice, open_device, read_layout
from unbrickd.adapters.flash.command import CommandFlash
from unbrickd.adapters.memory import load_memory, save_memory
from unbrickd.adapters.net.device import DeviceLink, open_link
from unbrickd.adapters.notices import LetterBox, What
from unbrickd.agent.agent import Agent, AgentOptions, BackupEnded, Event, Trouble
from unbrickd.agent.session import Ending
from unbrickd.agent.software import DeviceSoftware, Installed
from unbrickd.cli.console import Narrator
from unbrickd.cli.drive import run_agent
from unbrickd.cli.real_device import EXIT_NO_SERVER, alone, load_commands, state_folder, stopping_signals
from unbrickd.errors import FlashError, IntegrityError, UnbrickdError
from unbrickd.flash.device import ComponentSlot
from unbrickd.model.manifest import ComponentKind, Manifest
from unbrickd.model.policy import BackupPolicy

MEMORY_FILE = "memory.json"
NOTICE_RETRY_S = 60.0
"""Before notices are looked at again that could not be seen to."""
EXIT_FAILED = 1

_NEVER = BackupPolicy(after_start_s=None, period_s=None, after_upgrade=False, after_config_change=False)
_TOUCHED = {
    What.UPGRADED: frozenset(ComponentKind),
    What.CONFIG_CHANGED: frozenset({ComponentKind.CONFIG}),
    What.BACK_UP: frozenset[ComponentKind](),
}
"""Which kinds of component may have changed."""


def run(args: argparse.Namespace) -> int:
    layout = read_layout(args.layout)
    state = state_folder(args)
    with (
        alone(state),
        open_device(layout, base=args.layout.parent, write_components=False) as device,
        Narrator(as_json=args.json) as narrator,
        contextlib.closing(open_link(layout.link, say=narrator.say)) as link,
        stopping_signals() as is_stopped,
    ):
        return RunningAgent(device, link, narrator, state=state, once=args.once, is_stopped=is_stopped).run()


class RunningAgent:
    """One run of the program. once: back up now, whatever the policy says, and end."""

    def __init__(
        self,
        device: RealDevice,
        link: DeviceLink,
        narrator: Narrator,
        *,
        state: Path,
        once: bool,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._device = device
        self._software = DeviceSoftware(device.flash)
        self._narrate = narrator
        self._memory_path = state / MEMORY_FILE
        self._letters = LetterBox(state)
        self._letters_at_s = 0.0
        self._once = once
        self._exit_code: int | None = None
        self._is_stopped = is_stopped
        self._kept = load_memory(self._memory_path)
        load_commands(device, narrator)
        self._provision()
        layout = device.layout
        self._agent = Agent(
            self._software,
            AgentOptions(
                policy=_NEVER if once else layout.backup,
                good_after_s=layout.good_after_s,
                probe_tries=layout.link.probe_tries,
            ),
            memory=self._kept,
            targets=link.targets,
            entropy=os.urandom,
            max_message_bytes=link.max_message_bytes,
            now_s=time.monotonic(),
            wall_s=time.time(),
        )
        self._link = link

    def run(self) -> int:
        """Exit code: 0 if stopped or backed up; for `once` EXIT_NO_SERVER or EXIT_FAILED."""
        self._see_to_letters()
        self._say_what_differs()
        if self._once:
            self._agent.back_up_now(time.monotonic())
        try:
            run_agent(self._agent, self._link, on_event=self._on_event, stop=self._poll)
        finally:
            self._save_memory()
        return self._exit_code or 0

    def _poll(self) -> bool:
        self._see_to_letters()
        self._save_memory()
        return self._is_stopped() or self._exit_code is not None

    def _save_memory(self) -> None:
        if self._agent.memory != self._kept:
            save_memory(self._memory_path, self._agent.memory)
            self._kept = self._agent.memory

    def _on_event(self, event: Event) -> None:
        self._narrate(event)
        if not self._once:
            return
        if isinstance(event, BackupEnded):
            codes = {Ending.COMMITTED: 0, Ending.NO_SERVER: EXIT_NO_SERVER}
            self._exit_code = codes.get(event.outcome.ending, EXIT_FAILED)
        elif isinstance(event, Trouble) and not self._agent.busy:
            self._exit_code = EXIT_FAILED

    # What the device holds

    def _provision(self) -> None:
        """Without a boot record what flash holds is the maker's: make the first one."""
        if self._device.flash.record.load() is not None:
            return
        if self._kept.last_success_wall_s is not None:
            raise IntegrityError(
                "the boot record is lost, and this device was backed up before",
                code="no-record",
                hint="`unbrickd recover` fetches it; to begin anew with what is in flash, remove "
                f"{self._memory_path} and start the agent again",
            )
        sealed = self._software.record_change(
            {slot.component_id: self._device.installed(slot) for slot in self._device.flash.slots}
        )
        number = sealed.generation.number
        self._narrate.say("Provisioned", text=f"made the first boot record: generation {number}", generation=number)

    def _say_what_differs(self) -> None:
        try:
            names = self._software.changed()
        except (FlashError, IntegrityError) as error:
            self._trouble(str(error))
            return
        if names:
            text = f"{', '.join(names)}: not what the boot record says, and nobody said that it was changed"
            self._narrate.say("Differs", text=text, components=[*names])

    def _see_to_letters(self) -> None:
        """Record what notices speak of, tell the agent, and only then take them out: a power cut loses none."""
        now_s = time.monotonic()
        letters = self._letters.waiting() if now_s >= self._letters_at_s else []
        if not letters:
            return
        happened = {letter.what for letter in letters}
        try:
            self._record_change(frozenset[ComponentKind]().union(*(_TOUCHED[what] for what in happened)))
        except IntegrityError as error:  # this software may not run here; asking again would not help
            self._trouble(str(error))
        except UnbrickdError as error:
            self._trouble(str(error))
            self._letters_at_s = now_s + NOTICE_RETRY_S
            return
        else:
            if What.UPGRADED in happened:
                self._agent.upgraded(now_s)
            if What.CONFIG_CHANGED in happened:
                self._agent.config_changed(now_s)
        if What.BACK_UP in happened:
            self._agent.back_up_now(now_s)
        self._save_memory()
        self._letters.take_out(letters)

    def _record_change(self, kinds: frozenset[ComponentKind]) -> None:
        recorded = {c.component_id: c for c in self._software.loaded().record.sealed.generation.components}
        changed: dict[int, Installed] = {}
        for slot in self._device.flash.slots:
            if slot.kind not in kinds:
                continue
            if isinstance(slot.flash, CommandFlash):
                slot.flash.load()
            installed = self._device.installed(slot)
            manifest = recorded.get(slot.component_id)
            if manifest is None or self._differs(slot, installed, manifest):
                changed[slot.component_id] = installed
        if not changed:
            return
        sealed = self._software.record_change(changed)
        names = [slot.name for slot in self._device.flash.slots if slot.component_id in changed]
        number = sealed.generation.number
        self._narrate.say(
            "Recorded", text=f"{', '.join(names)} changed: generation {number}", components=[*names], generation=number
        )

    def _differs(self, slot: ComponentSlot, installed: Installed, manifest: Manifest) -> bool:
        said = (installed.length_bytes, installed.rollback_index, installed.signature)
        return (
            said != (manifest.length_bytes, manifest.rollback_index, manifest.signature)
            or installed.version not in ("", manifest.version)
            or not slot.takes(manifest)
            or bool(slot.damaged(manifest, self._device.flash.keys.content))
        )

    def _trouble(self, what: str) -> None:
        self._narrate(Trouble(what=what))
