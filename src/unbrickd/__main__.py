# SPDX-License-Identifier: Apache-2.0
"""`python -m unbrickd`: the same as the command `unbrickd`."""

import sys

from unbrickd.cli.main import main

sys.exit(main())
