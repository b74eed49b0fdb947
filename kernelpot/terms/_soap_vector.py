"""Vector code for the innermost SOAP loops, generated for one (n_max, l_max) at a time.

numba cannot be led to keep a row of radial functions in a vector register across the loops
over (l, m), nor to evaluate harmonics of several pairs at once; it spends most of its time on
loads and stores instead. These intrinsics emit that code as LLVM vectors, unrolled for sizes
that are known from the types (tuples, see `_soap`). LLVM splits the vectors for whatever the
processor has. Everything here has a plain counterpart in `_soap` that tests compare with.

numba's cache does not notice edits of this file: change `_soap.py` too, or clear the cache.
"""

import math

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

# Pairs whose harmonics are evaluated together.
LANES = 8
_DOUBLE = ir.DoubleType()
_FLAGS = ("reassoc", "contract", "nsz", "arcp")


class _Vectors:
    """Arithmetic on vectors of one length, through an IR builder."""

    def __init__(self, builder, length):
        self.builder = builder
        self.length = length
        self.type = ir.VectorType(_DOUBLE, length)

    def constant(self, value):
        return ir.Constant(self.type, [float(value)] * self.length)

    def broadcast(self, scalar):
        vector = ir.Constant(self.type, ir.Undefined)
        index = ir.IntType(32)
        vector = self.builder.insert_element(vector, scalar, ir.Constant(index, 0))
        mask = ir.Constant(ir.VectorType(index, self.length), [0] * self.length)
        return self.builder.shuffle_vector(vector, vector, mask)

    def variable(self, value):
        """A vector that changes in loops; it becomes a register."""
        place = cgutils.alloca_once(self.builder, self.type)
        self.builder.store(value, place)
        return place

    def pointer(self, base, offset):
        """Address of a vector that begins at element ``base[offset]``."""
        if isinstance(offset, int):
            offset = ir.Constant(ir.IntType(64), offset)
        element = _element(self.builder, base, offset)
        if element.type.is_opaque:
            return element
        # LLVM's pointers have no type any more, those of llvmlite have one as long as numba's
        # have: it must be that of what is stored
        return self.builder.bitcast(element, ir.PointerType(self.type))

    def load(self, base, offset):
        return self.builder.load(self.pointer(base, offset), align=8, typ=self.type)

    def store(self, vector, base, offset):
        self.builder.store(vector, self.pointer(base, offset), align=8)

    def add(self, a, b):
        return self.builder.fadd(a, b, flags=_FLAGS)

    def sub(self, a, b):
        return self.builder.fsub(a, b, flags=_FLAGS)

    def mul(self, a, b):
        return self.builder.fmul(a, b, flags=_FLAGS)

    def scaled(self, a, value):
        return self.mul(a, self.constant(value))

    def madd(self, a, b, c):
        return self.add(self.mul(a, b), c)

    def columns(self, rows):
        """Transpose of LANES vectors of this length: as many vectors of LANES elements."""
        index = ir.IntType(32)
        if self.length == 1:
            found = ir.Constant(ir.VectorType(_DOUBLE, LANES), ir.Undefined)
            for lane, row in enumerate(rows):
                one = self.builder.extract_element(row, ir.Constant(index, 0))
                found = self.builder.insert_element(found, one, ir.Constant(index, lane))
            return [found]
        columns = []
        for first in range(0, self.length, LANES):
            n = min(LANES, self.length - first)
            # elements beyond the last are of no use: any
            mask = [first + min(k, n - 1) for k in range(LANES)]
            block = [self._shuffle(row, row, mask) for row in rows]
            step = 1
            while step < LANES:  # swap the blocks off the diagonal, of 1, 2, 4 ... elements
                low = [k if not k & step else k - step + LANES for k in range(LANES)]
                high = [k + step if not k & step else k + LANES for k in range(LANES)]
                swapped = list(block)
                for k in range(LANES):
                    if not k & step:
                        pair = block[k], block[k + step]
                        swapped[k] = self._shuffle(*pair, low)
                        swapped[k + step] = self._shuffle(*pair, high)
                block = swapped
                step *= 2
            columns += block[:n]
        return columns

    def _shuffle(self, a, b, mask):
        index = ir.IntType(32)
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(index, len(mask)), mask))

    def total(self, a):
        """Sum of the elements."""
        index, length = ir.IntType(32), self.length
        while length > 2 and length % 2 == 0:  # both halves of the vector
            length //= 2
            low, high = list(range(length)), list(range(length, 2 * length))
            a = self.builder.fadd(self._shuffle(a, a, low), self._shuffle(a, a, high), flags=_FLAGS)
        parts = [self.builder.extract_element(a, ir.Constant(index, k)) for k in range(length)]
        while len(parts) > 1:
            pairs = [
                self.builder.fadd(x, y, flags=_FLAGS)
                for x, y in zip(parts[::2], parts[1::2], strict=False)
            ]
            parts = pairs + ([parts[-1]] if len(parts) % 2 else [])
        return parts[0]


def _data(context, builder, array_type, array):
    return context.make_array(array_type)(context, builder, array).data


def _offset(builder, start, extra):
    return builder.add(start, ir.Constant(ir.IntType(64), extra))


def _element(builder, base, offset):
    return builder.gep(base, [offset], source_etype=_DOUBLE)


def _scalar(builder, base, offset):
    return builder.load(_element(builder, base, offset), typ=_DOUBLE)


def _integer(builder, base, place):
    """Element of an array of int64."""
    integer = ir.IntType(64)
    element = builder.gep(base, [ir.Constant(integer, place)], source_etype=integer)
    return builder.load(element, typ=integer)


def _broadcast_at(v, base, place):
    """A vector of one element of an array."""
    return v.broadcast(_scalar(v.builder, base, ir.Constant(ir.IntType(64), place)))


def prefactor(degree, order):
    """Normalization of real solid harmonics."""
    ratio = math.factorial(degree - order) / math.factorial(degree + order)
    norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * ratio)
    return norm * (math.sqrt(2.0) if order else 1.0)


def _emit_recursions(v, xyz, l_max):
    """What harmonics of LANES pairs are made of, as in `_soap`.

    Returns
    -------
    x, y : vector
    cos, sin : list of vector
        Real and imaginary parts of (x + i y)^m.
    legendre : dict of (l, m) to vector
        Modified associated Legendre polynomials.
    """
    x, y, z = (v.load(xyz, axis * LANES) for axis in range(3))
    r2 = v.madd(x, x, v.madd(y, y, v.mul(z, z)))
    cos, sin = [v.constant(1.0)], [v.constant(0.0)]
    for _ in range(l_max):
        cos.append(v.sub(v.mul(x, cos[-1]), v.mul(y, sin[-1])))
        sin.append(v.madd(x, sin[-1], v.mul(y, cos[-2])))
    legendre = {}
    double_factorial = 1.0
    for m in range(l_max + 1):
        if m:
            double_factorial *= 2 * m - 1
        legendre[m, m] = v.constant(double_factorial)
        if m < l_max:
            legendre[m + 1, m] = v.scaled(z, (2 * m + 1) * double_factorial)
        for l in range(m + 2, l_max + 1):
            legendre[l, m] = v.sub(
                v.mul(v.scaled(z, (2 * l - 1) / (l - m)), legendre[l - 1, m]),
                v.mul(v.scaled(r2, (l + m - 1) / (l - m)), legendre[l - 2, m]),
            )
    return x, y, cos, sin, legendre


def _emit_harmonics(v, xyz, values, gradients, l_max):
    """Values (and gradients) of all harmonics of LANES pairs."""
    x, y, cos, sin, legendre = _emit_recursions(v, xyz, l_max)
    n_q = (l_max + 1) ** 2
    for l in range(l_max + 1):
        for m in range(l + 1):
            norm = prefactor(l, m)
            value = v.scaled(legendre[l, m], norm)
            plus, minus = (l * l + l + m) * LANES, (l * l + l - m) * LANES
            v.store(v.mul(value, cos[m]), values, plus)
            if m:
                v.store(v.mul(value, sin[m]), values, minus)
            if gradients is None:
                continue
            zero = v.constant(0.0)
            transverse = v.scaled(legendre[l - 1, m + 1], -norm) if m + 1 <= l - 1 else zero
            along = v.scaled(legendre[l - 1, m], norm * (l + m)) if m <= l - 1 else zero
            across_x, across_y = v.mul(x, transverse), v.mul(y, transverse)
            cos1 = v.scaled(cos[m - 1], m) if m else zero
            sin1 = v.scaled(sin[m - 1], m) if m else zero
            row = n_q * LANES
            v.store(v.madd(across_x, cos[m], v.mul(value, cos1)), gradients, plus)
            v.store(v.sub(v.mul(across_y, cos[m]), v.mul(value, sin1)), gradients, row + plus)
            v.store(v.mul(along, cos[m]), gradients, 2 * row + plus)
            if m:
                v.store(v.madd(across_x, sin[m], v.mul(value, sin1)), gradients, minus)
                v.store(v.madd(across_y, sin[m], v.mul(value, cos1)), gradients, row + minus)
                v.store(v.mul(along, sin[m]), gradients, 2 * row + minus)


@intrinsic
def harmonics(typingctx, xyz, values, gradients, degrees):
    """Harmonics of LANES pairs.

    ``xyz`` (3, LANES); ``values`` ((l_max + 1)^2, LANES); ``gradients`` (3, (l_max + 1)^2,
    LANES), or ``None`` where they are not wanted; ``degrees`` a tuple of length l_max + 1.
    """
    l_max = len(degrees) - 1
    wanted = not isinstance(gradients, types.NoneType)

    def codegen(context, builder, signature, arguments):
        v = _Vectors(builder, LANES)
        data = [
            _data(context, builder, t, a)
            for t, a in zip(signature.args[:2], arguments[:2], strict=True)
        ]
        out = _data(context, builder, signature.args[2], arguments[2]) if wanted else None
        _emit_harmonics(v, data[0], data[1], out, l_max)
        return context.get_dummy_value()

    return types.none(xyz, values, gradients, degrees), codegen


def _emit_radial(v, table, offset, l, n_l, weights):
    """Cubic Hermite combination of the four table rows of one degree."""
    n = v.length
    total = None
    for row, weight in enumerate(weights):
        # rows: value and slope of this knot, value and slope of the next
        term = v.mul(weight, v.load(table, _offset(v.builder, offset, (row * n_l + l) * n)))
        total = term if total is None else v.add(total, term)
    return total


@intrinsic
def scatter_pairs(typingctx, c, c_start, values, lanes, table, knots, weights, size, degrees):
    """Add ``Y_q R_ln`` of some pairs to the coefficients ``c`` (flat, from ``c_start``).

    ``lanes``, ``knots`` and ``weights`` are tuples of those of each pair, weights themselves
    tuples of the four Hermite weights of value, slope, value, slope. The pairs are of one
    channel: coefficients are loaded and stored once for all.
    """
    n_max, n_l, n_pairs = len(size), len(degrees), len(lanes)

    def codegen(context, builder, signature, arguments):
        v = _Vectors(builder, n_max)
        types_ = signature.args
        c_data = _data(context, builder, types_[0], arguments[0])
        y_data = _data(context, builder, types_[2], arguments[2])
        t_data = _data(context, builder, types_[4], arguments[4])
        c_offset = arguments[1]
        lane_values = cgutils.unpack_tuple(builder, arguments[3], n_pairs)
        t_offsets = cgutils.unpack_tuple(builder, arguments[5], n_pairs)
        hermite = [
            [v.broadcast(s) for s in cgutils.unpack_tuple(builder, each, 4)]
            for each in cgutils.unpack_tuple(builder, arguments[6], n_pairs)
        ]
        for l in range(n_l):
            radial = [
                _emit_radial(v, t_data, offset, l, n_l, weights_)
                for offset, weights_ in zip(t_offsets, hermite, strict=True)
            ]
            for q in range(l * l, (l + 1) ** 2):
                at = _offset(builder, c_offset, q * n_max)
                total = v.load(c_data, at)
                for lane, row in zip(lane_values, radial, strict=True):
                    y = v.broadcast(_scalar(builder, y_data, _offset(builder, lane, q * LANES)))
                    total = v.madd(y, row, total)
                v.store(total, c_data, at)
        return context.get_dummy_value()

    return (
        types.none(c, c_start, values, lanes, table, knots, weights, size, degrees),
        codegen,
    )


@intrinsic
def scatter_lanes(typingctx, c, c_start, values, table, knots, weights, size, degrees):
    """`scatter_pairs` of LANES pairs: ``knots`` (LANES,) and ``weights`` (4, LANES) are arrays.

    The coefficients of a degree stay in registers.
    """
    n_max, n_l = len(size), len(degrees)

    def codegen(context, builder, signature, arguments):
        v = _Vectors(builder, n_max)
        c_data, y_data, t_data, k_data, w_data = (
            _data(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 3, 4, 5)
        )
        offsets = [_integer(builder, k_data, lane) for lane in range(LANES)]
        for l in range(n_l):
            places = [_offset(builder, arguments[1], q * n_max) for q in range(l * l, (l + 1) ** 2)]
            totals = [v.load(c_data, place) for place in places]
            for lane, offset in enumerate(offsets):
                hermite = [_broadcast_at(v, w_data, k * LANES + lane) for k in range(4)]
                row = _emit_radial(v, t_data, offset, l, n_l, hermite)
                totals = [
                    v.madd(_broadcast_at(v, y_data, (l * l + k) * LANES + lane), row, total)
                    for k, total in enumerate(totals)
                ]
            for total, place in zip(totals, places, strict=True):
                v.store(total, c_data, place)
        return context.get_dummy_value()

    return types.none(c, c_start, values, table, knots, weights, size, degrees), codegen


@intrinsic
def radial_lanes(typingctx, table, knots, hermite, radial, d_radial, size, degrees):
    """Radial functions of LANES pairs and their derivatives, into (l, n, LANES).

    ``knots`` (LANES,) are those below the distances. ``hermite`` (6, LANES): what the difference of
    the values at both knots is multiplied with, and the slopes at the first and at the second, for
    the function; then the same for its derivative.
    """
    n_max, n_l = len(size), len(degrees)

    def codegen(context, builder, signature, arguments):
        v, lanes = _Vectors(builder, n_max), _Vectors(builder, LANES)
        t_data, k_data, h_data, r_data, d_data = (
            _data(context, builder, signature.args[k], arguments[k]) for k in range(5)
        )
        offsets = [_integer(builder, k_data, lane) for lane in range(LANES)]
        with cgutils.for_range(builder, ir.Constant(ir.IntType(64), n_l)) as degree:
            at = builder.mul(degree.index, ir.Constant(ir.IntType(64), n_max))
            place = builder.mul(at, ir.Constant(ir.IntType(64), LANES))
            values, slopes = [], []
            for lane, offset in enumerate(offsets):
                row = builder.add(offset, at)
                f0, g0, f1, g1 = (
                    v.load(t_data, _offset(builder, row, k * n_l * n_max)) for k in range(4)
                )
                rise = v.sub(f1, f0)
                h = [_broadcast_at(v, h_data, k * LANES + lane) for k in range(6)]
                values.append(v.madd(h[0], rise, v.madd(h[1], g0, v.madd(h[2], g1, f0))))
                slopes.append(v.madd(h[3], rise, v.madd(h[4], g0, v.mul(h[5], g1))))
            for data, rows in ((r_data, values), (d_data, slopes)):
                for n, column in enumerate(v.columns(rows)):
                    lanes.store(column, data, _offset(builder, place, n * LANES))
        return context.get_dummy_value()

    return types.none(table, knots, hermite, radial, d_radial, size, degrees), codegen


@intrinsic
def gather_lanes(typingctx, d, d_start, radial, d_radial, along, slopes, size, degrees):
    """Contract an adjoint ``d`` with radial functions of LANES pairs, and with their derivatives.

    ``radial`` and ``d_radial`` are from `radial_lanes`; fills ``along`` and ``slopes`` (q, LANES).
    There are loops where `gather_pair` has copies of their bodies: registers do for each.
    """
    n_max, n_l = len(size), len(degrees)

    def codegen(context, builder, signature, arguments):
        integer = ir.IntType(64)
        v = _Vectors(builder, LANES)
        d_data, r_data, s_data, a_data, b_data = (
            _data(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 3, 4, 5)
        )
        with cgutils.for_range(builder, ir.Constant(integer, n_l)) as degree:
            l = degree.index
            at = builder.mul(l, ir.Constant(integer, n_max * LANES))
            rows = [
                [v.load(data, _offset(builder, at, n * LANES)) for n in range(n_max)]
                for data in (r_data, s_data)
            ]
            more = _offset(builder, l, 1)
            orders = cgutils.for_range(builder, builder.mul(more, more), start=builder.mul(l, l))
            with orders as order:
                at = builder.mul(order.index, ir.Constant(integer, n_max))
                at = builder.add(arguments[1], at)
                value = slope = None
                for n, (radial_n, d_radial_n) in enumerate(zip(*rows, strict=True)):
                    adjoint = v.broadcast(_scalar(builder, d_data, _offset(builder, at, n)))
                    part, d_part = v.mul(adjoint, radial_n), v.mul(adjoint, d_radial_n)
                    value = part if value is None else v.add(part, value)
                    slope = d_part if slope is None else v.add(d_part, slope)
                at = builder.mul(order.index, ir.Constant(integer, LANES))
                v.store(value, a_data, at)
                v.store(slope, b_data, at)
        return context.get_dummy_value()

    return types.none(d, d_start, radial, d_radial, along, slopes, size, degrees), codegen


@intrinsic
def harmonics_adjoint(typingctx, xyz, along, slopes, out, degrees):
    """Sums over q with harmonics of LANES pairs, and with their gradients.

    Fills the rows of ``out`` (4, LANES): ``sum_q slopes_q Y_q``, and ``sum_q along_q`` times the
    gradient of ``Y_q``. Degrees are summed first, order by order: no gradient is formed.
    """
    l_max = len(degrees) - 1

    def codegen(context, builder, signature, arguments):
        v = _Vectors(builder, LANES)
        xyz, a_data, b_data, o_data = (
            _data(context, builder, signature.args[k], arguments[k]) for k in range(4)
        )
        x, y, cos, sin, legendre = _emit_recursions(v, xyz, l_max)
        zero = v.constant(0.0)
        totals = [zero] * 4
        for m in range(l_max + 1):
            # of cos m phi and sin m phi: by value, by slope, across z, along z
            sums = [[zero] * 4, [zero] * 4]
            for l in range(m, l_max + 1):
                norm = prefactor(l, m)
                value = v.scaled(legendre[l, m], norm)
                across = v.scaled(legendre[l - 1, m + 1], -norm) if m + 1 <= l - 1 else None
                upward = v.scaled(legendre[l - 1, m], norm * (l + m)) if m <= l - 1 else None
                for own, sign in zip(sums, (1, -1) if m else (1,), strict=False):
                    at = (l * l + l + sign * m) * LANES
                    a, b = v.load(a_data, at), v.load(b_data, at)
                    own[0], own[1] = v.madd(a, value, own[0]), v.madd(b, value, own[1])
                    if across is not None:
                        own[2] = v.madd(a, across, own[2])
                    if upward is not None:
                        own[3] = v.madd(a, upward, own[3])
            (value, slope, across, upward), others = sums
            if m == 0:  # cos is one, sin zero
                totals = [slope, v.mul(x, across), v.mul(y, across), upward]
                continue
            across = v.madd(across, cos[m], v.mul(others[2], sin[m]))
            up, down = v.scaled(value, m), v.scaled(others[0], m)
            more = [
                v.madd(slope, cos[m], v.mul(others[1], sin[m])),
                v.madd(x, across, v.madd(up, cos[m - 1], v.mul(down, sin[m - 1]))),
                v.madd(y, across, v.sub(v.mul(down, cos[m - 1]), v.mul(up, sin[m - 1]))),
                v.madd(upward, cos[m], v.mul(others[3], sin[m])),
            ]
            totals = [v.add(total, part) for total, part in zip(totals, more, strict=True)]
        for row, total in enumerate(totals):
            v.store(total, o_data, row * LANES)
        return context.get_dummy_value()

    return types.none(xyz, along, slopes, out, degrees), codegen


@intrinsic
def gather_pair(
    typingctx, d, d_start, values, gradients, lane, table, knot, weights, slopes, size, degrees
):
    """Contract an adjoint ``d`` with the derivatives of one pair's ``Y_q R_ln``.

    Returns ``(radial, x, y, z)``: the derivative with respect to the distance through R, and
    the gradient through Y. ``slopes`` are the derivatives of the Hermite ``weights``.
    """
    n_max, n_l = len(size), len(degrees)
    n_q = n_l * n_l

    def codegen(context, builder, signature, arguments):
        v = _Vectors(builder, n_max)
        types_ = signature.args
        d_data = _data(context, builder, types_[0], arguments[0])
        y_data = _data(context, builder, types_[2], arguments[2])
        g_data = _data(context, builder, types_[3], arguments[3])
        t_data = _data(context, builder, types_[5], arguments[5])
        d_offset, lane_value, t_offset = arguments[1], arguments[4], arguments[6]
        hermite, d_hermite = (
            [v.broadcast(s) for s in cgutils.unpack_tuple(builder, arguments[k], len(weights))]
            for k in (7, 8)
        )
        totals = [v.constant(0.0)] * 4
        for l in range(n_l):
            parts = [v.constant(0.0)] * 4
            for q in range(l * l, (l + 1) ** 2):
                adjoint = v.load(d_data, _offset(builder, d_offset, q * n_max))
                y = _scalar(builder, y_data, _offset(builder, lane_value, q * LANES))
                factors = [y] + [
                    _scalar(builder, g_data, _offset(builder, lane_value, (axis * n_q + q) * LANES))
                    for axis in range(3)
                ]
                parts = [
                    v.madd(v.broadcast(f), adjoint, part)
                    for f, part in zip(factors, parts, strict=True)
                ]
            radial = _emit_radial(v, t_data, t_offset, l, n_l, hermite)
            d_radial = _emit_radial(v, t_data, t_offset, l, n_l, d_hermite)
            rows = [d_radial, radial, radial, radial]
            totals = [
                v.madd(row, part, total)
                for row, part, total in zip(rows, parts, totals, strict=True)
            ]
        result = [v.total(total) for total in totals]
        return context.make_tuple(builder, signature.return_type, result)

    return (
        types.UniTuple(types.float64, 4)(
            d, d_start, values, gradients, lane, table, knot, weights, slopes, size, degrees
        ),
        codegen,
    )


def _parts(builder, n):
    """Vectors that registers hold, and where they begin: of 8 elements, and what is left over."""
    parts, start = [], 0
    while start < n:
        length = min(LANES, 1 << ((n - start).bit_length() - 1))
        parts.append((start, _Vectors(builder, length)))
        start += length
    return parts


@intrinsic
def products(
    typingctx, out, o_start, factors, f_start, f_step, rows, r_start, n_q, count, size, scale, other
):
    """Fill ``n_q`` rows: ``out[q] = sum_c factors[q, c] rows[c] + scale other[q]``.

    All are flat from their starts, ``other`` from that of ``out`` (which it may be). ``count``
    and ``size`` are tuples as long as there are rows, and elements in each; ``f_step`` is the
    distance of the factors of one q from those of the next.
    """
    n_rows, n = len(count), len(size)

    def codegen(context, builder, signature, arguments):
        types_ = signature.args
        o_data, f_data, r_data, added = (
            _data(context, builder, types_[k], arguments[k]) for k in (0, 2, 5, 11)
        )
        parts = _parts(builder, n)
        kept = [
            [v.load(r_data, _offset(builder, arguments[6], c * n + start)) for start, v in parts]
            for c in range(n_rows)
        ]
        scales = [v.broadcast(arguments[10]) for _, v in parts]
        with cgutils.for_range(builder, arguments[7]) as loop:
            place = builder.mul(loop.index, ir.Constant(ir.IntType(64), n))
            place = builder.add(arguments[1], place)
            source = builder.add(arguments[3], builder.mul(loop.index, arguments[4]))
            factors = [_scalar(builder, f_data, _offset(builder, source, c)) for c in range(n_rows)]
            for k, (start, v) in enumerate(parts):
                at = _offset(builder, place, start)
                total = v.mul(scales[k], v.load(added, at))
                for factor, row in zip(factors, kept, strict=True):
                    total = v.madd(v.broadcast(factor), row[k], total)
                v.store(total, o_data, at)
        return context.get_dummy_value()

    return (
        types.none(
            out, o_start, factors, f_start, f_step, rows, r_start, n_q, count, size, types.float64,
            other,
        ),
        codegen,
    )  # fmt: skip


@intrinsic
def squares_of(typingctx, rows, r_start, n_q, size):
    """Sum of squares of ``n_q`` rows, flat from ``r_start``."""
    n = len(size)

    def codegen(context, builder, signature, arguments):
        data = _data(context, builder, signature.args[0], arguments[0])
        totals = [(start, v, v.variable(v.constant(0.0))) for start, v in _parts(builder, n)]
        with cgutils.for_range(builder, arguments[2]) as loop:
            place = builder.mul(loop.index, ir.Constant(ir.IntType(64), n))
            place = builder.add(arguments[1], place)
            for start, v, total in totals:
                row = v.load(data, _offset(builder, place, start))
                builder.store(v.madd(row, row, builder.load(total, typ=v.type)), total)
        found = ir.Constant(_DOUBLE, 0.0)
        for _, v, total in totals:
            found = builder.fadd(found, v.total(builder.load(total, typ=v.type)), flags=_FLAGS)
        return found

    return types.float64(rows, r_start, n_q, size), codegen


@intrinsic
def gram_of(typingctx, rows, a_start, b_start, n_q, out, size):
    """Fill ``out[j, k] = sum_q a[q, j] b[q, k]``, with ``n_q`` rows a and b of ``rows``.

    All are flat: ``a_start`` and ``b_start`` are where these begin.
    """
    n = len(size)

    def codegen(context, builder, signature, arguments):
        r_data, o_data = (_data(context, builder, signature.args[k], arguments[k]) for k in (0, 4))
        parts = _parts(builder, n)
        totals = [[v.variable(v.constant(0.0)) for _, v in parts] for _ in range(n)]
        with cgutils.for_range(builder, arguments[3]) as loop:
            place = builder.mul(loop.index, ir.Constant(ir.IntType(64), n))
            left, right = (builder.add(arguments[k], place) for k in (1, 2))
            rows = [v.load(r_data, _offset(builder, right, start)) for start, v in parts]
            for j, own in enumerate(totals):
                factor = _scalar(builder, r_data, _offset(builder, left, j))
                for (_, v), row, total in zip(parts, rows, own, strict=True):
                    more = v.madd(v.broadcast(factor), row, builder.load(total, typ=v.type))
                    builder.store(more, total)
        for j, own in enumerate(totals):
            for (start, v), total in zip(parts, own, strict=True):
                v.store(builder.load(total, typ=v.type), o_data, j * n + start)
        return context.get_dummy_value()

    return types.none(rows, a_start, b_start, n_q, out, size), codegen
