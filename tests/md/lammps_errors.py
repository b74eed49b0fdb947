"""An error on one process of several, first where it is raised, then where all leave.

mpiexec -n 2 python lammps_errors.py raise|exit|alone
"""

import sys

from kernelpot.md.lammps import attach, open_lammps

if __name__ == "__main__":  # and not where doctests are looked for
    mode = sys.argv[1]
    lmp = open_lammps(["-screen", "none", "-log", "none"])
    comm = lmp.get_mpi_comm()
    lmp.commands_string("units metal\natom_style atomic\nread_data crystal.data")
    attached = attach(lmp, "silicon.kpot", ["Si"], on_error="raise" if mode == "raise" else "exit")

    def broken(original):
        def predict_region(*args, **kwargs):
            if attached.n_evaluations == 7 and comm.rank == 1:
                raise ZeroDivisionError("on purpose")
            return original(*args, **kwargs)

        return predict_region

    if mode == "alone":  # a defect, of which the other processes are not told
        attached._hand_over = broken(attached._hand_over)
    else:
        object.__setattr__(attached.model, "predict_region", broken(attached.model.predict_region))
    try:
        lmp.commands_string("fix 1 all nve\nrun 20\nprint 'went on' screen yes\nrun 10")
    except Exception as error:  # noqa: BLE001 - whatever it is
        step = lmp.extract_global("ntimestep")
        sys.stdout.write(f"{comm.rank}: {type(error).__name__}: {error}: step {step}\n")
    else:
        print("no error")
