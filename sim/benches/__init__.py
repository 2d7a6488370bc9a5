"""cocotb benches on the emitted Verilog; `sim.cocotb_runner` builds and starts them."""
