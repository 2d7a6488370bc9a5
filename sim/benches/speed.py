"""The whole accelerator with a memory in Python, served in every cycle; only to be timed: `sim.bench` starts it."""

import json
import os
import time
from collections import deque
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import RisingEdge

JOB_VARIABLE = "SPARSELOOM_SPEED_JOB"
"""Environment variable: folder with image.npy and registers.json; gets result.npy and speed.json."""
LATENCY = 40
LIMIT = 1_000_000


class Memory:
    """Answers bursts in order, a beat each way in every cycle; no checks, so that it is as fast as Python goes."""

    def __init__(self, dut: HierarchyObject, image: np.ndarray) -> None:
        self.image, self.beat = image, len(dut.m_axi_gmem_rdata) // 8
        self.port = {
            name: getattr(dut, f"m_axi_gmem_{name}")
            for name in ("arvalid", "araddr", "arlen", "arid", "rvalid", "rdata", "rlast", "rid", "rready")
        }
        self.write = {
            name: getattr(dut, f"m_axi_gmem_{name}")
            for name in ("awvalid", "awaddr", "wvalid", "wdata", "wlast", "bvalid", "bready")
        }
        self.beats: deque[tuple[int, int, int, int]] = deque()
        self.addresses: deque[int] = deque()
        self.answers: deque[int] = deque()
        self.offered = self.answered = False
        for name in ("arready", "awready", "wready"):
            getattr(dut, f"m_axi_gmem_{name}").value = 1
        for name in ("rresp", "bresp", "rvalid", "bvalid"):
            getattr(dut, f"m_axi_gmem_{name}").value = 0

    def cycle(self, now: int) -> None:
        """Take what the last cycle transferred, then drive the next one."""
        self._read(now)
        self._write(now)

    def _read(self, now: int) -> None:
        port = self.port
        if self.offered and int(port["rready"].value):
            self.beats.popleft()
            self.offered = False
            port["rvalid"].value = 0
        if int(port["arvalid"].value):
            address, count = int(port["araddr"].value), int(port["arlen"].value) + 1
            for index in range(count):
                last = int(index == count - 1)
                self.beats.append((now + LATENCY, address + index * self.beat, last, int(port["arid"].value)))
        if not self.offered and self.beats and self.beats[0][0] <= now:
            _, address, last, name = self.beats[0]
            port["rdata"].value = int.from_bytes(self.image[address : address + self.beat].tobytes(), "little")
            port["rlast"].value, port["rid"].value, port["rvalid"].value = last, name, 1
            self.offered = True

    def _write(self, now: int) -> None:
        port = self.write
        if self.answered and int(port["bready"].value):
            self.answers.popleft()
            self.answered = False
            port["bvalid"].value = 0
        if int(port["awvalid"].value):
            self.addresses.append(int(port["awaddr"].value))
        if int(port["wvalid"].value):
            data = int(port["wdata"].value).to_bytes(self.beat, "little")
            self.image[self.addresses[0] : self.addresses[0] + self.beat] = np.frombuffer(data, np.uint8)
            self.addresses[0] += self.beat
            if int(port["wlast"].value):
                self.addresses.popleft()
                self.answers.append(now + LATENCY)
        if not self.answered and self.answers and self.answers[0] <= now:
            port["bvalid"].value = 1
            self.answered = True


async def write_register(dut: HierarchyObject, address: int, value: int) -> None:
    """One AXI4-Lite write."""
    port = {
        name: getattr(dut, f"s_axi_control_{name}") for name in ("awvalid", "wvalid", "awready", "wready", "bvalid")
    }
    dut.s_axi_control_awaddr.value, dut.s_axi_control_wdata.value = address, value
    waiting = {"aw", "w"}
    for channel in waiting:
        port[f"{channel}valid"].value = 1
    while waiting:
        await RisingEdge(dut.clk)
        for channel in [name for name in waiting if int(port[f"{name}ready"].value)]:
            port[f"{channel}valid"].value = 0
            waiting.discard(channel)
    while not int(port["bvalid"].value):
        await RisingEdge(dut.clk)


@cocotb.test()
async def every_cycle(dut: HierarchyObject) -> None:
    """Run a program to its end and note the CPU time of its cycles."""
    folder = Path(os.environ[JOB_VARIABLE])
    registers = json.loads((folder / "registers.json").read_text())
    for name in ("awvalid", "wvalid", "arvalid"):
        getattr(dut, f"s_axi_control_{name}").value = 0
    dut.s_axi_control_wstrb.value = 15
    dut.s_axi_control_bready.value = dut.s_axi_control_rready.value = 1
    memory = Memory(dut, np.load(folder / "image.npy"))
    Clock(dut.clk, 2, unit="ns").start()
    dut.rst.value = 1
    for _ in range(4):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    for address, value in registers:
        await write_register(dut, address, value)
    edge, start, now = RisingEdge(dut.clk), time.process_time(), 0
    while not int(dut.interrupt.value):
        await edge
        now += 1
        memory.cycle(now)
        assert now < LIMIT, "the run did not end"
    seconds = time.process_time() - start
    (folder / "speed.json").write_text(json.dumps({"cycles": now, "seconds": seconds}))
    np.save(folder / "result.npy", memory.image)
