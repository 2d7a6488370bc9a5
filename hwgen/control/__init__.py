"""Registers, instruction fetch, queues, tokens and arbitration: everything that decides what runs when."""
