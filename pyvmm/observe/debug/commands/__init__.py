"""The debugger's commands: each module has a table ``COMMANDS``; this is all of them."""

from __future__ import annotations

from pyvmm.observe.debug.command import Table
from pyvmm.observe.debug.commands.changing import COMMANDS as CHANGING
from pyvmm.observe.debug.commands.info import COMMANDS as INFO
from pyvmm.observe.debug.commands.looking import COMMANDS as LOOKING
from pyvmm.observe.debug.commands.memory import COMMANDS as MEMORY
from pyvmm.observe.debug.commands.moving import COMMANDS as MOVING
from pyvmm.observe.debug.commands.picture import COMMANDS as PICTURE
from pyvmm.observe.debug.commands.settings import COMMANDS as SETTINGS
from pyvmm.observe.debug.commands.stopping import COMMANDS as STOPPING
from pyvmm.observe.debug.commands.tools import COMMANDS as TOOLS

COMMANDS = Table((*MOVING, *STOPPING, *LOOKING, *MEMORY, *INFO, *PICTURE, *CHANGING, *SETTINGS, *TOOLS))
