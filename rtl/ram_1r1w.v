// One write port, one read port, common clock; a read in the cycle of a write to the same address returns the old word.
// Replace this module to map scratchpads to memory macros of an ASIC process.
module ram_1r1w #(
    parameter WIDTH = 8,
    parameter DEPTH = 16,
    parameter ADDRESS = 4,
    parameter PARTS = 1  // write enables; WIDTH / PARTS bits each
) (
    input wire clk,
    input wire [ADDRESS-1:0] read_address,
    output reg [WIDTH-1:0] read_data,
    input wire [PARTS-1:0] write_enable,
    input wire [ADDRESS-1:0] write_address,
    input wire [WIDTH-1:0] write_data
);
  localparam PART = WIDTH / PARTS;
  reg [WIDTH-1:0] words[0:DEPTH-1];
  integer index;
  integer part;
`ifndef SYNTHESIS
  // FPGA memories hold zeros after configuration without being told; synthesis tools unroll this loop for minutes.
  initial begin
    read_data = {WIDTH{1'b0}};
    for (index = 0; index < DEPTH; index = index + 1) words[index] = {WIDTH{1'b0}};
  end
`endif
  always @(posedge clk) begin
    read_data <= words[read_address];
    if (|write_enable)
      for (part = 0; part < PARTS; part = part + 1)
        if (write_enable[part]) words[write_address][part*PART+:PART] <= write_data[part*PART+:PART];
  end
endmodule
