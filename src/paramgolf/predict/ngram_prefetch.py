"""One instruction that numba lacks: ask the memory for an element that will be read soon, without waiting for it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]  # has no stubs
from numba.core import cgutils, types
from numba.extending import intrinsic

READ, KEEP_IN_ALL_CACHES, DATA = 0, 3, 1


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """`prefetch(array, index)` of a one-dimensional contiguous array; changes only how long the next read takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        proxy: Any = cgutils.create_struct_proxy
        declare: Any = cgutils.get_or_insert_function
        data = proxy(array)(context, builder, arguments[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = declare(builder.module, function_type, "llvm.prefetch.p0i8")
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(function, [address, number(READ), number(KEEP_IN_ALL_CACHES), number(DATA)])
        return context.get_dummy_value()

    return types.void(array, index), generate
