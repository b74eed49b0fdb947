"""Vector code for derivatives by displacements of pairs in single precision.

Of `_soap_vector`'s kind: intrinsics that emit LLVM vectors for one (n_max, l_max). They fill the
matrices that BLAS multiplies with what many scalars have by coefficients (`tangent_rows`) or, of
one species, by features: there the elements of a vector are pairs of one center ("lanes").
`_soap_members` has the loops around.

numba's cache does not notice edits of this file: change `_soap_members.py` too, or clear the cache.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kernelpot.terms._soap_vector import (
    LANES,
    _data,
    _emit_radial,
    _offset,
    _scalar,
    _Vectors,
)

# Pairs whose derivatives are formed together: a vector of singles, in two parts of LANES.
SINGLES = 2 * LANES
_SINGLE = ir.FloatType()
# Radial functions whose sums over (l, m) are held in registers together.
_TOGETHER = 4


class _Singles(_Vectors):
    """The same arithmetic in single precision."""

    def __init__(self, builder, length):
        self.builder = builder
        self.length = length
        self.type = ir.VectorType(_SINGLE, length)

    def pointer(self, base, offset):
        if isinstance(offset, int):
            offset = ir.Constant(ir.IntType(64), offset)
        element = self.builder.gep(base, [offset], source_etype=_SINGLE)
        if element.type.is_opaque:
            return element
        return self.builder.bitcast(element, ir.PointerType(self.type))

    def load(self, base, offset):
        return self.builder.load(self.pointer(base, offset), align=4, typ=self.type)

    def store(self, vector, base, offset):
        self.builder.store(vector, self.pointer(base, offset), align=4)


@intrinsic
def contract_lanes(typingctx, c, c_start, values, gradients, moved, lane, size, degrees):
    """Sums over m of a center's coefficients times the harmonics of LANES pairs.

    ``c`` flat, from ``c_start``; ``values`` and ``gradients`` as `harmonics` fills them.
    Fills ``moved`` (l, n, value x y z, SINGLES), LANES elements from ``lane``.
    """
    n_max, n_l = len(size), len(degrees)
    n_q = n_l * n_l

    def codegen(context, builder, signature, arguments):
        v, out = _Vectors(builder, LANES), _Singles(builder, LANES)
        data = [
            _data(context, builder, signature.args[k], arguments[k]) if k in (0, 2, 3, 4) else None
            for k in range(5)
        ]
        for l in range(n_l):
            for first in range(0, n_max, _TOGETHER):
                some = range(first, min(first + _TOGETHER, n_max))
                totals = {(n, part): None for n in some for part in range(4)}
                for q in range(l * l, (l + 1) ** 2):
                    factors = [v.load(data[2], q * LANES)]
                    factors += [v.load(data[3], (axis * n_q + q) * LANES) for axis in range(3)]
                    for n in some:
                        at = _offset(builder, arguments[1], q * n_max + n)
                        coefficient = v.broadcast(_scalar(builder, data[0], at))
                        for part, factor in enumerate(factors):
                            known = totals[n, part]
                            term = v.mul(coefficient, factor)
                            totals[n, part] = term if known is None else v.add(term, known)
                for (n, part), total in totals.items():
                    single = builder.fptrunc(total, out.type)
                    place = ((l * n_max + n) * 4 + part) * SINGLES
                    out.store(single, data[4], _offset(builder, arguments[5], place))
        return context.get_dummy_value()

    return types.none(c, c_start, values, gradients, moved, lane, size, degrees), codegen


@intrinsic
def radial_lane(typingctx, table, knot, weights, slopes, radial, d_radial, lane, size, degrees):
    """Radial functions of one pair and their derivatives, into lane ``lane`` of (l, n, SINGLES).

    ``weights`` and ``slopes``: tuples of the Hermite weights of value, slope, value, slope.
    """
    n_max, n_l = len(size), len(degrees)

    def codegen(context, builder, signature, arguments):
        v = _Vectors(builder, n_max)
        single = ir.VectorType(_SINGLE, n_max)
        t_data, r_data, d_data = (
            _data(context, builder, signature.args[k], arguments[k]) for k in (0, 4, 5)
        )
        hermite = [
            [v.broadcast(s) for s in cgutils.unpack_tuple(builder, arguments[k], 4)] for k in (2, 3)
        ]
        for l in range(n_l):
            rows = [
                v.load(t_data, _offset(builder, arguments[1], (row * n_l + l) * n_max))
                for row in range(4)
            ]
            for factors, data in zip(hermite, (r_data, d_data), strict=True):
                total = v.mul(factors[0], rows[0])
                for factor, row in zip(factors[1:], rows[1:], strict=True):
                    total = v.madd(factor, row, total)
                total = builder.fptrunc(total, single)
                for n in range(n_max):
                    at = _offset(builder, arguments[6], (l * n_max + n) * SINGLES)
                    one = builder.extract_element(total, ir.Constant(ir.IntType(32), n))
                    builder.store(one, builder.gep(data, [at], source_etype=_SINGLE))
        return context.get_dummy_value()

    return (
        types.none(table, knot, weights, slopes, radial, d_radial, lane, size, degrees),
        codegen,
    )


@intrinsic
def features_lanes(
    typingctx,
    radial,
    d_radial,
    xyz,
    moved,
    start,
    moved_start,
    scale,
    diagonal,
    out,
    out_start,
    size,
):
    """Derivatives of the features of one degree by the displacements of SINGLES pairs.

    ``radial`` and ``d_radial`` (over the distance) from ``start``; ``moved`` from
    ``moved_start``; ``xyz`` (3, SINGLES). Fills ``out`` (n <= n', 3, SINGLES) from ``out_start``
    with ``scale`` times the derivatives of ``sum_m c_n c_n'``, times ``diagonal`` / 2 where
    n = n'.
    """
    n_max = len(size)

    def codegen(context, builder, signature, arguments):
        v = _Singles(builder, SINGLES)
        r_data, d_data, x_data, m_data = (
            _data(context, builder, signature.args[k], arguments[k]) for k in range(4)
        )
        o_data = _data(context, builder, signature.args[8], arguments[8])
        start, moved_start, out_start = arguments[4], arguments[5], arguments[9]
        scale, diagonal = v.broadcast(arguments[6]), v.broadcast(arguments[7])

        def row(n):
            return _offset(builder, start, n * SINGLES)

        def part(n, k):
            return v.load(m_data, _offset(builder, moved_start, (4 * n + k) * SINGLES))

        for axis in range(3):
            along = v.mul(scale, v.load(x_data, axis * SINGLES))
            r = [v.mul(scale, v.load(r_data, row(n))) for n in range(n_max)]
            d = [v.mul(along, v.load(d_data, row(n))) for n in range(n_max)]
            value = [part(n, 0) for n in range(n_max)]
            slope = [part(n, 1 + axis) for n in range(n_max)]
            f = 0
            for n in range(n_max):
                for k in range(n, n_max):
                    total = v.madd(d[n], value[k], v.mul(r[n], slope[k]))
                    if k == n:
                        total = v.mul(diagonal, total)
                    else:
                        total = v.madd(d[k], value[n], v.madd(r[k], slope[n], total))
                    at = _offset(builder, out_start, (3 * f + axis) * SINGLES)
                    v.store(total, o_data, at)
                    f += 1
        return context.get_dummy_value()

    return (
        types.none(
            radial, d_radial, xyz, moved, start, moved_start, scale, diagonal, out, out_start, size
        ),
        codegen,
    )


@intrinsic
def tangent_rows(
    typingctx,
    table,
    knot,
    weights,
    slopes,
    values,
    gradients,
    xyz,
    lane,
    tangent,
    start,
    size,
    degrees,
):
    """Derivatives of one pair's ``Y_q R_ln`` by its displacement, in single precision.

    Fills three rows (q n) of ``tangent`` from ``start``. ``weights`` are those of the radial
    functions at the knot, ``slopes`` those of their derivatives over the distance.
    """
    n_max, n_l = len(size), len(degrees)
    n_q = n_l * n_l

    def codegen(context, builder, signature, arguments):
        v, out = _Vectors(builder, n_max), _Singles(builder, n_max)
        t_data, y_data, g_data, x_data, o_data = (
            _data(context, builder, signature.args[k], arguments[k]) for k in (0, 4, 5, 6, 8)
        )
        hermite = [
            [v.broadcast(s) for s in cgutils.unpack_tuple(builder, arguments[k], 4)] for k in (2, 3)
        ]
        lane_value, start = arguments[7], arguments[9]

        def of_lane(data, row):
            return v.broadcast(_scalar(builder, data, _offset(builder, lane_value, row * LANES)))

        displacement = [of_lane(x_data, axis) for axis in range(3)]
        for l in range(n_l):
            radial, slope = (
                _emit_radial(v, t_data, arguments[1], l, n_l, factors) for factors in hermite
            )
            along = [v.mul(slope, x) for x in displacement]
            for q in range(l * l, (l + 1) ** 2):
                y = of_lane(y_data, q)
                for axis in range(3):
                    across = v.mul(radial, of_lane(g_data, axis * n_q + q))
                    total = builder.fptrunc(v.madd(y, along[axis], across), out.type)
                    out.store(total, o_data, _offset(builder, start, (axis * n_q + q) * n_max))
        return context.get_dummy_value()

    return (
        types.none(
            table,
            knot,
            weights,
            slopes,
            values,
            gradients,
            xyz,
            lane,
            tangent,
            start,
            size,
            degrees,
        ),
        codegen,
    )
