"""Copies as slow as they may be: each copy is made when somebody waits for it, and not a moment before.

Until then the device has NaN where rows are to come, and RAM what it had. So a kernel that is launched before its rows
have landed, or RAM that is read before what left the device has come back, shows in the results.
"""

import numpy as np

from engine.device.copies import Copies


class LateCopies(Copies):
    def load(self, staging):
        there = self.torch.full(staging.shape, float("nan"), dtype=staging.dtype, device=self.device)

        def landed():
            there.copy_(staging)
            return there

        return landed

    def fetch(self, rows):
        here = np.full(rows.shape, np.nan, np.float32)

        def landed():
            here[...] = rows.cpu().numpy()
            return here

        return landed

    def send(self, array):
        """At once, but a copy: whoever changes the array afterwards changes nothing there."""
        return self.torch.from_numpy(np.array(array)).to(self.device)

    def report(self, *tensors):
        copies = [tensor.clone() for tensor in tensors]
        return lambda: [copy.cpu().numpy() for copy in copies]
