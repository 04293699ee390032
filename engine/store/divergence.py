"""Has learning left the numbers that float32 holds? Told from losses and from updates that were refused; warns once.

The core leaves a row as it was where its update would not be finite. Scores of such rows may be infinite, or no number,
and an item without a number as its score is in no list. The writer's thread; `found` may be read by any.
"""

import math

from ..contract.logger import LOGGER
from ..learn.model import Tally


class Divergence:
    def __init__(self, name: str):
        """`name`: of the model, for the warning."""
        self._name = name
        self.found = False

    def add(self, tally: Tally) -> None:
        """What a call came to."""
        if self.found or (tally.skipped == 0 and math.isfinite(tally.loss)):
            return
        self.found = True
        LOGGER.warning(
            "%s: learning diverges: the loss of %d events adds up to %g, and %d updates were left out because they were"
            " not finite. Lists may lack items. Restore a backup from before and lower lr, or check weights and values",
            *(self._name, tally.events, tally.loss, tally.skipped),
        )
