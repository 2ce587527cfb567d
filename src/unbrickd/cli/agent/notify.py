# SPDX-License-Identifier: Apache-2.0
"""`unbrickd agent notify`: for the hooks of a device's system."""

from __future__ import annotations

import argparse
import time

from unbrickd.adapters.notices import LetterBox, What
from unbrickd.cli.real_device import state_folder
from unbrickd.errors import ConfigError

_POLL_S = 0.05


def run(args: argparse.Namespace) -> int:
    notice = LetterBox(state_folder(args)).leave(What(args.what))
    if args.wait is None:
        return 0
    deadline_s = time.monotonic() + args.wait
    while notice.path.exists():
        if time.monotonic() >= deadline_s:
            raise ConfigError(
                f"the agent has not seen to it within {args.wait:g} s",
                code="no-answer",
                hint="the notice stays; check that the agent runs (`unbrickd agent status`) and what it logs",
            )
        time.sleep(_POLL_S)
    return 0
