"""Binary floating point formats (IEEE 754 interchange layout) and the words they are made of."""

from dataclasses import dataclass

from amaranth.lib import data


@dataclass(frozen=True, kw_only=True)
class FloatFormat:
    """A format with one sign bit, `exponent` bits of biased exponent and `fraction` bits of fraction."""

    name: str
    exponent: int
    fraction: int

    @property
    def width(self) -> int:
        """Bits of a value."""
        return 1 + self.exponent + self.fraction

    @property
    def bias(self) -> int:
        """What is added to the exponent of a normal number."""
        return (1 << (self.exponent - 1)) - 1

    @property
    def infinity(self) -> int:
        """Bits of +infinity."""
        return ((1 << self.exponent) - 1) << self.fraction

    @property
    def nan(self) -> int:
        """Bits of the only NaN that hardware produces: quiet, positive, no payload."""
        return self.infinity | 1 << (self.fraction - 1)


FP16 = FloatFormat(name="fp16", exponent=5, fraction=10)
BF16 = FloatFormat(name="bf16", exponent=8, fraction=7)
FP32 = FloatFormat(name="fp32", exponent=8, fraction=23)
OPERAND_FORMATS = {FP16.name: FP16, BF16.name: BF16}
"""Formats of `arch.array.operand` by name."""


class FloatLayout(data.StructLayout):
    """Fields of a value of a format, least significant first."""

    def __init__(self, fmt: FloatFormat) -> None:
        super().__init__({"fraction": fmt.fraction, "exponent": fmt.exponent, "sign": 1})
