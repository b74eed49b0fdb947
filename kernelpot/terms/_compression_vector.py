"""Vector code for products of a few rows with a large matrix that is read from memory.

Matrix products of BLAS copy the matrix first, which for a few rows is most of the work; numba
makes loops of half the width that the processor has. Of `_soap_vector`'s kind: intrinsics that
emit LLVM vectors, for as many rows at a time as registers hold. `_compression` has the loops
around, and plain ones that these must equal.

numba's cache does not notice edits of this file: change `_compression.py` too, or clear the cache.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kernelpot.terms._soap_vector import LANES, _data, _offset, _scalar, _Vectors

_INTEGER = ir.IntType(64)


def _starts(builder, start, step, n):
    """Where each of n rows begins."""
    return [
        builder.add(start, builder.mul(step, ir.Constant(_INTEGER, k))) if k else start
        for k in range(n)
    ]


@intrinsic
def add_rows_times(typingctx, rows, r_start, r_step, matrix, m_start, step, n, out, o_start, rank):
    """Add ``sum_k rows[e, k] matrix[k, d]`` to ``out[e, d]``: some e and k, n vectors of all d.

    Arrays are flat from their starts. ``rank`` is a tuple of two tuples, as long as there are
    rows e and k; ``r_step`` is from row to row of ``rows``, ``step`` that of ``matrix`` and of
    ``out``.
    """
    n_rows, n_k = len(rank[0]), len(rank[1])

    def codegen(context, builder, signature, arguments):
        v = _Vectors(builder, LANES)
        r_data, m_data, o_data = (
            _data(context, builder, signature.args[k], arguments[k]) for k in (0, 3, 7)
        )
        _, r_start, r_step, _, m_start, step, n, _, o_start, _ = arguments
        factors = [
            [v.broadcast(_scalar(builder, r_data, _offset(builder, start, k))) for k in range(n_k)]
            for start in _starts(builder, r_start, r_step, n_rows)
        ]
        m_starts = _starts(builder, m_start, step, n_k)
        o_starts = _starts(builder, o_start, step, n_rows)
        with cgutils.for_range(builder, n) as loop:
            at = builder.mul(loop.index, ir.Constant(_INTEGER, LANES))
            vectors = [v.load(m_data, builder.add(start, at)) for start in m_starts]
            for start, own in zip(o_starts, factors, strict=True):
                place = builder.add(start, at)
                total = v.load(o_data, place)
                for factor, vector in zip(own, vectors, strict=True):
                    total = v.madd(factor, vector, total)
                v.store(total, o_data, place)
        return context.get_dummy_value()

    return (
        types.none(rows, r_start, r_step, matrix, m_start, step, n, out, o_start, rank),
        codegen,
    )


@intrinsic
def rows_dot(typingctx, rows, r_start, matrix, m_start, step, n, out, o_start, o_step, rank):
    """Fill ``out[e, k] = sum_d rows[e, d] matrix[k, d]`` for some e and k, n vectors of all d.

    Arrays are flat from their starts. ``rank`` is a tuple of two tuples, as long as there are
    rows e and k; ``step`` is that of ``rows`` and ``matrix``.
    """
    n_rows, n_columns = len(rank[0]), len(rank[1])

    def codegen(context, builder, signature, arguments):
        v = _Vectors(builder, LANES)
        r_data, m_data, o_data = (
            _data(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 6)
        )
        _, r_start, _, m_start, step, n, _, o_start, o_step, _ = arguments
        totals = [[v.variable(v.constant(0.0)) for _ in range(n_columns)] for _ in range(n_rows)]
        r_starts = _starts(builder, r_start, step, n_rows)
        m_starts = _starts(builder, m_start, step, n_columns)
        with cgutils.for_range(builder, n) as loop:
            at = builder.mul(loop.index, ir.Constant(_INTEGER, LANES))
            columns = [v.load(m_data, builder.add(start, at)) for start in m_starts]
            for start, own in zip(r_starts, totals, strict=True):
                row = v.load(r_data, builder.add(start, at))
                for column, total in zip(columns, own, strict=True):
                    builder.store(v.madd(row, column, builder.load(total, typ=v.type)), total)
        for start, own in zip(_starts(builder, o_start, o_step, n_rows), totals, strict=True):
            for k, total in enumerate(own):
                place = builder.gep(
                    o_data, [_offset(builder, start, k)], source_etype=ir.DoubleType()
                )
                builder.store(v.total(builder.load(total, typ=v.type)), place)
        return context.get_dummy_value()

    return (
        types.none(rows, r_start, matrix, m_start, step, n, out, o_start, o_step, rank),
        codegen,
    )
