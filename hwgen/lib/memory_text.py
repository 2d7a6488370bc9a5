"""Zero-filled memories as a loop in Verilog, instead of a line for every word."""

import re

_CELL = re.compile(
    r"^  cell \$meminit_v2 (?:(?!^  end\n).)*?connect \\DATA \d+'0+\n(?:(?!^  end\n).)*?^  end\n\n?", re.M | re.S
)
_DECLARATION = re.compile(r"^  reg \[(\d+):0\] (\S+|\\\S+ ) ?\[(\d+):0\];\n", re.M)


def drop_zero_init(rtlil: str) -> str:
    """Remove the initial contents of memories that are all zero; `add_zero_init` puts them back in the Verilog."""
    return _CELL.sub("", rtlil)


def add_zero_init(verilog: str) -> str:
    """Give every memory that has no initial contents zeros, which is what FPGA memories hold after configuration."""

    def loop(found: re.Match[str]) -> str:
        name, last = found[2].strip(), int(found[3])
        counter = re.sub(r"\W", "_", name.removeprefix("\\")) + "_index"
        spaced = f"{name} " if name.startswith("\\") else name
        return (
            f"{found[0]}  integer {counter};\n"
            f"  initial for ({counter} = 0; {counter} <= {last}; {counter} = {counter} + 1) {spaced}[{counter}] = 0;\n"
        )

    return "endmodule".join(
        part if re.search(r"^    \S+ ?\[\d+\] = \d+'h", part, re.M) else _DECLARATION.sub(loop, part)
        for part in verilog.split("endmodule")
    )
