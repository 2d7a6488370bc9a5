"""Order-preserving keys: FP32 values as unsigned integers that compare as the values do."""

from amaranth.hdl import Const, Mux, Value

KEY_BITS = 32


def fp32_key(value: Value) -> Value:
    """The unsigned 32-bit key of FP32 bits, combinational.

    Larger values have larger keys; both zeros have the same one; a NaN of either sign has the largest of all, above
    infinity, as `torch.topk` ranks it.
    """
    magnitude, sign = value[:31], value[31]
    nan = magnitude > 0x7F80_0000
    ordered = Mux(sign & (magnitude != 0), ~value, value | Const(1 << 31, 32))
    return Mux(nan, Const(0xFFFF_FFFF, 32), ordered)[:KEY_BITS]
