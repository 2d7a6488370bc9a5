// Stand-in with the ports of the accelerator: copies COUNT beats from PROGRAM to the address in register 0x100, in bursts of
// BURST beats, then raises the interrupt. Register 0x104 chooses a rule to break, so that the harness's checks can be tested:
// 1 ARVALID falls before ARREADY, 2 WDATA changes before WREADY, 3 WLAST early, 4 a burst crosses 4 KiB, 5 ends before B.
module accelerator (
    input clk, input rst,
    input [11:0] s_axi_control_awaddr, input s_axi_control_awvalid, output s_axi_control_awready,
    input [31:0] s_axi_control_wdata, input [3:0] s_axi_control_wstrb, input s_axi_control_wvalid,
    output s_axi_control_wready, output [1:0] s_axi_control_bresp, output reg s_axi_control_bvalid,
    input s_axi_control_bready,
    input [11:0] s_axi_control_araddr, input s_axi_control_arvalid, output s_axi_control_arready,
    output reg [31:0] s_axi_control_rdata, output [1:0] s_axi_control_rresp, output reg s_axi_control_rvalid,
    input s_axi_control_rready,
    output reg [39:0] m_axi_gmem_araddr, output [7:0] m_axi_gmem_arlen, output [2:0] m_axi_gmem_arsize,
    output [1:0] m_axi_gmem_arburst, output m_axi_gmem_arid, output reg m_axi_gmem_arvalid, input m_axi_gmem_arready,
    input [63:0] m_axi_gmem_rdata, input [1:0] m_axi_gmem_rresp, input m_axi_gmem_rlast, input m_axi_gmem_rid,
    input m_axi_gmem_rvalid, output m_axi_gmem_rready,
    output reg [39:0] m_axi_gmem_awaddr, output [7:0] m_axi_gmem_awlen, output [2:0] m_axi_gmem_awsize,
    output [1:0] m_axi_gmem_awburst, output reg m_axi_gmem_awvalid, input m_axi_gmem_awready,
    output [63:0] m_axi_gmem_wdata, output [7:0] m_axi_gmem_wstrb, output m_axi_gmem_wlast, output m_axi_gmem_wvalid,
    input m_axi_gmem_wready, input [1:0] m_axi_gmem_bresp, input m_axi_gmem_bvalid, output m_axi_gmem_bready,
    output interrupt, output [31:0] activity
);
    localparam BURST = 4;
    localparam IDLE = 0, READ = 1, WRITE = 2, ANSWER = 3, DONE = 4;
    reg [2:0] state;
    reg [31:0] program_low, count, status, cycles, destination, fault, left;
    reg [63:0] buffer [0:BURST-1];
    reg [1:0] at;
    reg issued, done, started;
    reg [31:0] wiggle;

    // Host registers: both write channels are taken together.
    wire write_now = s_axi_control_awvalid && s_axi_control_wvalid && !s_axi_control_bvalid;
    wire read_now = s_axi_control_arvalid && !s_axi_control_rvalid;
    assign s_axi_control_awready = write_now;
    assign s_axi_control_wready = write_now;
    assign s_axi_control_arready = read_now;
    assign s_axi_control_bresp = 0;
    assign s_axi_control_rresp = 0;
    always @(posedge clk) begin
        started <= 0;
        if (write_now) begin
            s_axi_control_bvalid <= 1;
            case (s_axi_control_awaddr)
                12'h000: started <= s_axi_control_wdata[0];
                12'h010: program_low <= s_axi_control_wdata;
                12'h01c: count <= s_axi_control_wdata;
                12'h100: destination <= s_axi_control_wdata;
                12'h104: fault <= s_axi_control_wdata;
                default: ;
            endcase
        end else if (s_axi_control_bready) s_axi_control_bvalid <= 0;
        if (read_now) begin
            s_axi_control_rvalid <= 1;
            case (s_axi_control_araddr)
                12'h000: s_axi_control_rdata <= {30'd0, done, 1'b0};
                12'h028: s_axi_control_rdata <= status;
                12'h030: s_axi_control_rdata <= cycles;
                12'h0f0: s_axi_control_rdata <= 32'h53504C4D;
                default: s_axi_control_rdata <= 0;
            endcase
        end else if (s_axi_control_rready) s_axi_control_rvalid <= 0;
        if (rst) begin
            s_axi_control_bvalid <= 0;
            s_axi_control_rvalid <= 0;
            program_low <= 0; count <= 0; destination <= 0; fault <= 0;
        end
    end

    // The copy.
    wire [31:0] room = (32'd4096 - (m_axi_gmem_araddr[11:0] & 32'hfff)) / 8;
    wire [31:0] want = left < BURST ? left : BURST;
    wire [31:0] beats = fault == 4 || want < room ? want : room;
    assign m_axi_gmem_arlen = beats - 1;
    assign m_axi_gmem_awlen = beats - 1;
    assign m_axi_gmem_arsize = 3;
    assign m_axi_gmem_awsize = 3;
    assign m_axi_gmem_arburst = 1;
    assign m_axi_gmem_awburst = 1;
    assign m_axi_gmem_arid = 0;
    assign m_axi_gmem_rready = state == READ;
    assign m_axi_gmem_wvalid = state == WRITE;
    assign m_axi_gmem_wdata = buffer[at] ^ (fault == 2 ? {32'd0, wiggle} : 64'd0);
    assign m_axi_gmem_wstrb = 8'hff;
    assign m_axi_gmem_wlast = at == beats - 1 || fault == 3;
    assign m_axi_gmem_bready = state == ANSWER || state == DONE;
    assign interrupt = done;
    assign activity = {8'd0, {3'd0, state == DONE && !done}, 3'd0, started, 8'd0, 1'b0, state == WRITE, 2'd0, 3'd0, state == READ};
    always @(posedge clk) begin
        wiggle <= wiggle + 1;
        if (state != IDLE && state != DONE) cycles <= cycles + 1;
        case (state)
            IDLE, DONE: begin
                done <= state == DONE && !started;
                if (started) begin
                    left <= count; cycles <= 0; status <= 0; issued <= 0; at <= 0;
                    m_axi_gmem_araddr <= program_low; m_axi_gmem_awaddr <= destination;
                    state <= count == 0 ? DONE : READ;
                end
            end
            READ: begin
                m_axi_gmem_arvalid <= !issued && !(m_axi_gmem_arvalid && (m_axi_gmem_arready || fault == 1));
                if (m_axi_gmem_arvalid && m_axi_gmem_arready) issued <= 1;
                if (m_axi_gmem_rvalid) begin
                    buffer[at] <= m_axi_gmem_rdata;
                    at <= m_axi_gmem_rlast ? 0 : at + 1;
                    if (m_axi_gmem_rresp != 0) status <= 5;
                    if (m_axi_gmem_rlast) begin state <= WRITE; m_axi_gmem_awvalid <= 1; end
                end
            end
            WRITE: if (m_axi_gmem_wready) begin
                at <= at + 1;
                if (at == beats - 1) state <= fault == 5 && left == beats ? DONE : ANSWER;
            end
            ANSWER: if (m_axi_gmem_bvalid) begin
                if (m_axi_gmem_bresp != 0) status <= 6;
                left <= left - beats; issued <= 0; at <= 0;
                m_axi_gmem_araddr <= m_axi_gmem_araddr + 8 * beats; m_axi_gmem_awaddr <= m_axi_gmem_awaddr + 8 * beats;
                state <= left == beats || status != 0 || m_axi_gmem_bresp != 0 ? DONE : READ;
            end
            default: ;
        endcase
        if (m_axi_gmem_awvalid && m_axi_gmem_awready) m_axi_gmem_awvalid <= 0;
        if (rst) begin
            state <= IDLE; done <= 0; m_axi_gmem_arvalid <= 0; m_axi_gmem_awvalid <= 0; wiggle <= 0; cycles <= 0; status <= 0;
        end
    end
endmodule
