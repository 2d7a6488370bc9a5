"""The golden side: number formats, N:M selection, packing, matrix arithmetic and the machine that executes programs."""
