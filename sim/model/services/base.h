// What all blocks of the services' model share: sizes, jobs, and constants of the contract.
#pragma once

#include "../attention/base.h"
#include "../attention/memory.h"
#include "services_isa.h"

namespace services {

using attention::Cycle;
using attention::Memory;
using attention::Queue;

/// Numbers of the parts; the same fields in the same order as in `sim/attention/services_library.py`.
struct Sizes {
    uint32_t beat_bytes, page_bytes, reads_in_flight;
    uint32_t write_burst, write_spans, write_bursts;  // beats of the longest one; spans and bursts in flight
    uint32_t quantizer_lanes, integer_latency;        // of the quantiser
    uint32_t index_beats;                             // of a list that GATHER reads ahead
    uint32_t rank_width, decide, candidate_gap, routing;  // of the top-k engine
    uint32_t softmax_lanes, row_words;                    // of the importance of tokens
};

/// A job: its descriptor and where that is, a bit for each head that is alive, and what data decide. `facts.kept`: what
/// the list holds that it writes (SELECT, TOPK) or reads (GATHER); `facts.passes`: of the search.
struct Job {
    isa::Fields fields;
    uint64_t kind, address, alive;
    attention::RowFacts facts;
};

inline uint32_t beats_of(uint64_t bytes, uint32_t beat) { return uint32_t((bytes + beat - 1) / beat); }

}  // namespace services
