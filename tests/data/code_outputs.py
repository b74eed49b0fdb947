"""Small outputs of electronic-structure codes, as far as ASE's readers look at them."""

from ase.units import Bohr, GPa, Ry


def _rows(values, form="{:16.10f}"):
    return ["".join(form.format(x) for x in row) for row in values]


def vasprun(frames):
    """vasprun.xml of (atoms, energy, free energy, forces, stress 3x3 in eV/Å^3)."""

    def block(tag, values):
        return (
            f'<varray name="{tag}">' + "".join(f"<v>{r}</v>" for r in _rows(values)) + "</varray>"
        )

    def structure(atoms, name=""):
        return (
            f"<structure{name}><crystal>{block('basis', atoms.cell.array)}</crystal>"
            f"{block('positions', atoms.get_scaled_positions())}</structure>"
        )

    first = frames[0][0]
    species = "".join(f"<rc><c>{s}</c><c>1</c></rc>" for s in first.symbols)
    text = (
        '<?xml version="1.0" encoding="ISO-8859-1"?><modeling><kpoints>'
        '<varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1</v></varray>'
        f'</kpoints><parameters/><atominfo><array name="atoms"><set>{species}</set></array>'
        f"</atominfo>{structure(first, ' name=' + repr('initialpos'))}"
    )
    for atoms, energy, free, forces, stress in frames:
        energies = (
            f'<energy><i name="e_fr_energy">{free}</i><i name="e_0_energy">{energy}</i></energy>'
        )
        text += (
            f"<calculation><scstep>{energies}</scstep>{structure(atoms)}"
            f"{block('forces', forces)}{block('stress', -10.0 / GPa * stress)}{energies}"
            "</calculation>"
        )
    return text + "</modeling>"


def outcar(frames):
    """OUTCAR of the same."""
    first = frames[0][0]
    symbols = list(dict.fromkeys(first.symbols))
    lines = [" vasp.6.4.2", *(f" POTCAR:    PAW_PBE {s} 01Jan2000" for s in symbols * 2)]
    lines += ["   ISPIN  =      1    spin polarized calculation?"]
    lines += ["   k-points    NKPTS =      1   k-points in BZ    NKDIM =      1   NBANDS=      8"]
    counts = " ".join(str(list(first.symbols).count(s)) for s in symbols)
    lines += [f"   ions per type =  {counts}"]
    lines += [" k-points in reciprocal lattice and weights: Gamma", "  0.0 0.0 0.0   1.000"]
    for atoms, energy, free, forces, stress in frames:
        kilobar = -10.0 / GPa * stress
        voigt = [kilobar[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2))]
        lines += [
            "--------------------------------------- Iteration      1(   1)  -------------",
            "  in kB " + "".join(f"{x:12.5f}" for x in voigt),
            "      direct lattice vectors                 reciprocal lattice vectors",
            *(row + "  0.0 0.0 0.0" for row in _rows(atoms.cell.array)),
            " POSITION                                       TOTAL-FORCE (eV/Angst)",
            " -----------------------------------------------------------------------------------",
            *(p + f for p, f in zip(_rows(atoms.positions), _rows(forces), strict=True)),
            " -----------------------------------------------------------------------------------",
            "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)",
            "  ---------------------------------------------------",
            f"  free  energy   TOTEN  = {free:18.8f} eV",
            "",
            f"  energy  without entropy= {energy:18.8f}  energy(sigma->0) = {energy:18.8f}",
        ]
    return "\n".join(lines) + "\n"


def espresso(frame):
    """Output of pw.x for one structure."""
    atoms, _, free, forces, stress = frame
    alat = 10.0
    cell, positions = atoms.cell.array / alat / Bohr, atoms.positions / alat / Bohr
    rydberg = -stress * Bohr**3 / Ry
    lines = [
        "     Program PWSCF v.7.2 starts on  1Jan2024 at  0: 0: 0",
        f"     number of atoms/cell      = {len(atoms):12d}",
        "     number of atomic types    =            1",
        f"     celldm(1)= {alat:10.6f}  celldm(2)=   0.000000  celldm(3)=   0.000000",
        "     crystal axes: (cart. coord. in units of alat)",
        *(f"               a({k + 1}) = ( {r} )" for k, r in enumerate(_rows(cell))),
        "   Cartesian axes",
        "     site n.     atom                  positions (alat units)",
        *(
            f"         {k + 1}        {s}  tau({k + 1:4d}) = ({r}  )"
            for k, (s, r) in enumerate(zip(atoms.symbols, _rows(positions), strict=True))
        ),
        "     number of k points=     1",
        "                       cart. coord. in units 2pi/alat",
        "        k(    1) = (   0.0000000   0.0000000   0.0000000), wk =   2.0000000",
        "     End of self-consistent calculation",
        "",
        "          k = 0.0000 0.0000 0.0000 (   100 PWs)   bands (ev):",
        "",
        "    -5.0000   6.0000",
        "",
        "     the Fermi energy is     5.0000 ev",
        "",
        f"!    total energy              = {free / Ry:18.10f} Ry",
        "     Forces acting on atoms (cartesian axes, Ry/au):",
        "",
        *(
            f"     atom {k + 1:4d} type  1   force = {r}"
            for k, r in enumerate(_rows(forces * Bohr / Ry))
        ),
        "     Computing stress (Cartesian axis) and pressure",
        "          total   stress  (Ry/bohr**3)                   (kbar)     P=        0.00",
        *(r + "  0.0 0.0 0.0" for r in _rows(rydberg, "{:16.12f}")),
        "     JOB DONE.",
    ]
    return "\n".join(lines) + "\n"


def castep(frame):
    """.castep of a single point."""
    atoms, energy, free, forces, _ = frame
    lines = [
        " |      Welcome to Academic Release CASTEP version 23.1      |",
        " ***************************** Title *****************************",
        " *****************************************************************",
        "                                      Unit Cell",
        "        Real Lattice(A)                      Reciprocal Lattice(1/A)",
        *(r + " 0.0 0.0 0.0" for r in _rows(atoms.cell.array)),
        "",
        "                                     Cell Contents",
        f"                         Total number of ions in cell =    {len(atoms)}",
        "                      Total number of species in cell =    1",
        "",
        "            x  Element    Atom        Fractional coordinates of atoms  x",
        *(
            f"            x  {s}  {k + 1}  {r}   x"
            for k, (s, r) in enumerate(
                zip(atoms.symbols, _rows(atoms.get_scaled_positions()), strict=True)
            )
        ),
        "",
        f"Final energy, E             = {energy:18.10f}     eV",
        f"Final free energy (E-TS)    = {free:18.10f}     eV",
        f"NB est. 0K energy (E-0.5TS)      = {energy:18.10f}     eV",
        "",
        " ************************************** Forces **************************************",
        *(
            f" * {s}    {k + 1}  {r}  *"
            for k, (s, r) in enumerate(zip(atoms.symbols, _rows(forces), strict=True))
        ),
        " ************************************************************************************",
        "Finalisation time   =      0.18 s",
    ]
    return "\n".join(lines) + "\n"
