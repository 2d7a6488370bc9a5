// Runs the Verilated accelerator: clock, AXI memory, host access to the registers, trace and waveform.
//
// Compiled together with the design into one library; `sim/device.py` calls the functions at the end. The clock loop is
// here because a Python call for each cycle would be the slowest part of a simulation.
#include <memory>

#include "Vaccelerator.h"
#include "axi_memory.h"
#include "trace_log.h"
#include "verilated.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
using Waveform = VerilatedFstC;
#elif VM_TRACE_VCD
#include "verilated_vcd_c.h"
using Waveform = VerilatedVcdC;
#endif

// Verilator renames a port that is a word of SystemC; `activity` could not be called `trace`, a function of the class.
#define INTERRUPT __SYM__interrupt

namespace {

class Harness {
  public:
    Harness() {
        context.fatalOnError(false);
#if VM_TRACE
        context.traceEverOn(true);
#endif
        top = std::make_unique<Vaccelerator>(&context);
    }

    /// One clock cycle. Handshakes are looked at when combinational paths have settled, before the rising edge.
    void tick() {
        const uint64_t cycle = now - origin;
        top->clk = 0;
        memory.drive(*top, cycle);
        top->eval();
        dump(0);
        if (!top->rst) {
            memory.sample(*top, cycle);
            log.sample(top->activity, now);
        } else if (memory.valid(*top)) {
            memory.complain(cycle, "VALID is high during reset");
        }
        lite.aw_fired = top->s_axi_control_awvalid && top->s_axi_control_awready;
        lite.w_fired = top->s_axi_control_wvalid && top->s_axi_control_wready;
        lite.ar_fired = top->s_axi_control_arvalid && top->s_axi_control_arready;
        lite.b_fired = top->s_axi_control_bvalid && top->s_axi_control_bready;
        lite.r_fired = top->s_axi_control_rvalid && top->s_axi_control_rready;
        lite.rdata = top->s_axi_control_rdata;
        lite.response = lite.b_fired ? top->s_axi_control_bresp : top->s_axi_control_rresp;
        top->clk = 1;
        top->eval();
        dump(1);
        now++;
    }

    void reset(int cycles) {
        top->rst = 1;
        for (int i = 0; i < cycles; i++) tick();
        top->rst = 0;
        tick();
    }

    /// Writes a register; returns the response, or -1 when none came.
    int write(uint32_t address, uint32_t value) {
        top->s_axi_control_awaddr = address;
        top->s_axi_control_wdata = value;
        top->s_axi_control_wstrb = 15;
        top->s_axi_control_awvalid = top->s_axi_control_wvalid = top->s_axi_control_bready = 1;
        for (int i = 0; i < PATIENCE; i++) {
            tick();
            if (lite.aw_fired) top->s_axi_control_awvalid = 0;
            if (lite.w_fired) top->s_axi_control_wvalid = 0;
            if (lite.b_fired) return lite.response;
        }
        return -1;
    }

    /// Reads a register into `value`; returns the response, or -1 when none came.
    int read(uint32_t address, uint32_t* value) {
        top->s_axi_control_araddr = address;
        top->s_axi_control_arvalid = top->s_axi_control_rready = 1;
        for (int i = 0; i < PATIENCE; i++) {
            tick();
            if (lite.ar_fired) top->s_axi_control_arvalid = 0;
            if (lite.r_fired) {
                *value = lite.rdata;
                return lite.response;
            }
        }
        return -1;
    }

    /// Runs until the interrupt rises or `cycles` have passed; true if it rose.
    bool run(uint64_t cycles) {
        const uint64_t end = now + cycles;
        while (!top->INTERRUPT && now < end && !context.gotError()) tick();
        return top->INTERRUPT;
    }

    /// Records cycles `from` to `to`, counted from the start of the log.
    bool record(const char* path, uint64_t from, uint64_t to) {
#if VM_TRACE
        wave_path = path;
        wave_from = origin + from;
        wave_to = origin + to;
        return true;
#else
        return path == nullptr || from > to;
#endif
    }

    /// Makes this cycle number 0, for the log and for the memory's stalls.
    void start_log(uint64_t limit) {
        origin = now;
        log.start(now, limit);
    }

    void close_wave() {
#if VM_TRACE
        if (wave) wave->close();
        wave.reset();
        wave_to = 0;
#endif
    }

    static constexpr int PATIENCE = 1000;
    static constexpr uint64_t TIME = 10;  // units of time of a cycle in waveforms
    VerilatedContext context;
    std::unique_ptr<Vaccelerator> top;
    AxiMemory memory;
    TraceLog log;
    uint64_t now = 0, origin = 0;

  private:
    struct Lite {
        bool aw_fired, w_fired, b_fired, ar_fired, r_fired;
        uint32_t rdata;
        int response;
    };

    void dump(int phase) {
#if VM_TRACE
        if (now < wave_from || now >= wave_to) {
            if (wave) close_wave();
            return;
        }
        if (!wave) {
            wave = std::make_unique<Waveform>();
            top->trace(wave.get(), 99);
            wave->open(wave_path.c_str());
        }
        wave->dump(TIME * (now - origin) + phase * TIME / 2);
#else
        (void)phase;
#endif
    }

    Lite lite{};
#if VM_TRACE
    std::unique_ptr<Waveform> wave;
    std::string wave_path;
    uint64_t wave_from = 0, wave_to = 0;
#endif
};

Harness* as_harness(void* handle) { return static_cast<Harness*>(handle); }

}  // namespace

extern "C" {
void* harness_new() { return new Harness; }
void harness_free(void* h) {
    as_harness(h)->close_wave();
    as_harness(h)->top->final();
    delete as_harness(h);
}
uint32_t harness_beat_bytes() { return sizeof(Vaccelerator::m_axi_gmem_rdata); }
void harness_attach(void* h, uint8_t* image, const MemorySettings* settings) {
    as_harness(h)->memory.attach(image, *settings, harness_beat_bytes());
}
void harness_reset(void* h, int cycles) { as_harness(h)->reset(cycles); }
int harness_write(void* h, uint32_t address, uint32_t value) { return as_harness(h)->write(address, value); }
int harness_read(void* h, uint32_t address, uint32_t* value) { return as_harness(h)->read(address, value); }
void harness_start_log(void* h, uint64_t limit) { as_harness(h)->start_log(limit); }
int harness_record(void* h, const char* path, uint64_t from, uint64_t to) {
    return as_harness(h)->record(path, from, to);
}
int harness_run(void* h, uint64_t cycles) { return as_harness(h)->run(cycles); }
void harness_finish(void* h) {
    as_harness(h)->log.finish();
    as_harness(h)->close_wave();
}
uint64_t harness_now(void* h) { return as_harness(h)->now - as_harness(h)->origin; }
int harness_idle(void* h) { return as_harness(h)->memory.idle(); }
int harness_failed(void* h) { return as_harness(h)->context.gotError(); }
void harness_states(void* h, uint64_t* cycles) {
    std::memcpy(cycles, as_harness(h)->log.states, sizeof(TraceLog::states));
}
uint64_t harness_events(void* h, const TraceEvent** events, uint64_t* dropped) {
    *events = as_harness(h)->log.events.data();
    *dropped = as_harness(h)->log.dropped;
    return as_harness(h)->log.events.size();
}
void harness_traffic(void* h, uint64_t* read_and_written) {
    read_and_written[0] = as_harness(h)->memory.beats_read;
    read_and_written[1] = as_harness(h)->memory.beats_written;
}
const char* harness_complaints(void* h) { return as_harness(h)->memory.errors.c_str(); }
}
