// The few functions of LZ4 and zlib that Verilator's FST writer calls, so that waveforms need no system package.
//
// LZ4 blocks are compressed by a greedy search with a small hash table. zlib's part only stores: the writer keeps
// whichever is smaller, the input or the result, and a copy never is.
#ifndef FST_CODECS_H  // included under two names, which #pragma once would not notice
#define FST_CODECS_H
#include <cstdint>
#include <cstring>

inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

namespace fst_codecs {
struct Output {
    uint8_t* at;
    void length(int rest) {  // what does not fit into the 4 bits of the token
        for (; rest >= 255; rest -= 255) *at++ = 255;
        *at++ = uint8_t(rest);
    }
    void sequence(const uint8_t* literals, int count, int offset, int match) {
        const int extra = match - 4;
        *at++ = uint8_t((count < 15 ? count : 15) << 4 | (!match ? 0 : extra < 15 ? extra : 15));
        if (count >= 15) length(count - 15);
        std::memcpy(at, literals, count);
        at += count;
        if (!match) return;
        *at++ = uint8_t(offset);
        *at++ = uint8_t(offset >> 8);
        if (extra >= 15) length(extra - 15);
    }
};
inline uint32_t load(const uint8_t* at) {
    uint32_t word;
    std::memcpy(&word, at, 4);
    return word;
}
}  // namespace fst_codecs

// Returns the bytes written; `capacity` must be at least LZ4_compressBound(size).
inline int LZ4_compress_default(const char* source, char* target, int size, int capacity) {
    using namespace fst_codecs;
    if (capacity < LZ4_compressBound(size)) return 0;
    const uint8_t* const in = reinterpret_cast<const uint8_t*>(source);
    Output out{reinterpret_cast<uint8_t*>(target)};
    int32_t last_seen[1 << 12];
    std::memset(last_seen, -1, sizeof last_seen);
    int start = 0;
    for (int at = 0; at + 12 < size;) {  // the format wants the last matches to end early
        const uint32_t word = load(in + at);
        int32_t& slot = last_seen[word * 2654435761u >> 20];
        const int before = slot;
        slot = at;
        if (before < 0 || at - before > 65535 || load(in + before) != word) {
            at++;
            continue;
        }
        int match = 4;
        while (at + match < size - 5 && in[before + match] == in[at + match]) match++;
        out.sequence(in + start, at - start, at - before, match);
        start = at += match;
    }
    out.sequence(in + start, size - start, 0, 0);
    return int(out.at - reinterpret_cast<uint8_t*>(target));
}

typedef unsigned long uLong;
typedef unsigned long uLongf;
typedef unsigned char Bytef;
enum { Z_OK = 0 };
inline uLong compressBound(uLong size) { return size; }
inline int compress2(Bytef* target, uLongf* target_size, const Bytef* source, uLong size, int) {
    std::memcpy(target, source, size);
    *target_size = size;
    return Z_OK;
}
#endif
