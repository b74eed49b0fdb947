"""The ASE driver of i-PI with a kernelpot calculator: <pes> custom </pes> takes this file."""

from ipi.pes._ase import ASEDriver

import kernelpot as kp

__DRIVER_NAME__ = "kernelpot"
__DRIVER_CLASS__ = "KernelPotDriver"


class KernelPotDriver(ASEDriver):
    """Parameters: template (a structure file), model (a .kpot file)."""

    def __init__(self, template, model, *args, **kwargs):
        self.model = model
        super().__init__(template, *args, **kwargs)

    def check_parameters(self):
        """Read the structure, and make the calculator."""
        super().check_parameters()
        self.ase_calculator = kp.KernelPotCalculator(self.model)
