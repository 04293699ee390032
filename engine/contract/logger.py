"""The logger "rowtide": what somebody who runs an engine should know, in sentences with numbers. Any thread.

INFO for an epoch that was written, and for a replay that begins. WARNING for what costs time or shows a fault:
replays, epochs that failed, waits, slow disks, too little RAM. Silent until the program sets a handler.
"""

import logging

LOGGER = logging.getLogger("rowtide")
LOGGER.addHandler(logging.NullHandler())

SLOW_SYNC_SECONDS = 1.0  # of one fsync of the log
SLOW_WAIT_SECONDS = 1.0  # of a call, for an epoch that it did not ask for
