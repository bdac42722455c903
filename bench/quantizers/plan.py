"""Which quantizers take part, with which settings: groups of 64 weights, block linears only."""

from __future__ import annotations

from typing import Any

BASE = ("torch==2.13.0", "transformers==5.17.0", "gguf==0.19.0", "matplotlib==3.11.2")
QUANTIZERS = {
    "llamacpp": ("llama-cpp-python==0.3.36",),
    "llmcompressor": ("llmcompressor==0.14.0.1",),
    "autoround": ("auto-round==0.15.1",),
}
GROUP_SIZE = 64
TUNING_STEPS = 600  # of the whole model, where a recipe tunes it
BITS = (4, 2, 3)  # in the order in which they are run
K_QUANTS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0")
Settings = dict[str, Any]


def peers() -> dict[str, Settings]:
    """Every peer by its name in the table; those that take minutes come last."""
    return llama_cpp() | llm_compressor() | autoround(200) | autoround(1000)


def llama_cpp() -> dict[str, Settings]:
    """Files as llama-quantize writes them, with an importance matrix of the calibration text."""
    return {f"llama.cpp {type}": {"quantizer": "llamacpp", "type": type} for type in K_QUANTS}


def llm_compressor() -> dict[str, Settings]:
    """GPTQ in activation order at several dampings and range observers, and AWQ."""
    jobs: dict[str, Settings] = {}
    for observer, damping in (("mse", 0.01), ("mse", 0.1), ("minmax", 0.01)):
        for grid, symmetric in (("", True), (" asym", False)):
            for bits in BITS:
                name = f"GPTQ {bits}-bit{grid} ({observer}, damping {damping})"
                own = {"method": "gptq", "observer": observer, "damping": damping, "symmetric": symmetric}
                jobs[name] = {"quantizer": "llmcompressor", **own, **linear(bits)}
    for bits in BITS:
        own = {"method": "awq", "symmetric": False}
        jobs[f"AWQ {bits}-bit asym"] = {"quantizer": "llmcompressor", **own, **linear(bits)}
    return jobs


def autoround(iterations: int) -> dict[str, Settings]:
    """Learned rounding; its authors' best recipe has 1000 iterations, its default 200."""
    return {
        f"AutoRound {bits}-bit{grid} ({iterations} iterations)": {
            "quantizer": "autoround",
            "symmetric": symmetric,
            "iterations": iterations,
            "extension": False,
            **linear(bits),
        }
        for grid, symmetric in (("", True), (" asym", False))
        for bits in BITS
    }


def linear(bits: int) -> Settings:
    """Codes of so many bits, in groups."""
    return {"bits": bits, "group_size": GROUP_SIZE}


def ours() -> dict[str, Settings]:
    """Penjing's recipes by name: a quantize step each, in groups of 64 with the embedding at 8 bits."""
    plain = [("int8", "search"), *((f"int{bits}", "search") for bits in BITS), ("layered", "auto")]
    recipes = {f"Penjing {name}, {method}": step(name, method) for name, method in plain}
    recipes |= {
        f"Penjing {name}, auto, tuned": {**step(name, "auto"), "tuning_steps": TUNING_STEPS}
        for name in ("table4", "table3", "table2")
    }
    return recipes


def step(format: str, method: str) -> Settings:
    """One step of a recipe; the whole model is tuned only where it says so."""
    return {"weights": {"name": format, "group_size": GROUP_SIZE}, "method": method}
