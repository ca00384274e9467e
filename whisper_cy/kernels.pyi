from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

D_HEAD: int

def available_isas() -> list[str]: ...
def isa() -> str: ...
def use_isa(name: str) -> None: ...
def release_threads() -> None: ...

class Matrix:
    panels: NDArray[Any]
    def __init__(self, weight: NDArray[Any], threads: int = 1) -> None: ...
    @property
    def shape(self) -> tuple[int, int]: ...

def linear(
    x: Array,
    w: Matrix,
    bias: Array | None = None,
    residual: Array | None = None,
    *,
    gelu: bool = False,
    out: Array | None = None,
    threads: int = 1,
) -> Array: ...
def embed(tokens: NDArray[np.int32], w: Matrix, position: Array) -> Array: ...
def layer_norm(
    x: Array, weight: Array, bias: Array, *, out: Array | None = None, threads: int = 1
) -> Array: ...

class HeadCache:
    capacity: int
    def __init__(self, n_head: int, capacity: int) -> None: ...
    def copy(self) -> HeadCache: ...
    def store(self, k: Array, v: Array, start: int, *, threads: int = 1) -> None: ...

def attention(
    q: Array,
    kv: HeadCache,
    n_keys: int,
    *,
    causal: bool = False,
    out: Array | None = None,
    threads: int = 1,
) -> Array: ...
def vocab_stats(logits: Array, start: int, stop: int) -> tuple[int, float, float]: ...

class MelPlan:
    def __init__(self, window: Array, roots: Array, filters: Array) -> None: ...

def log_mel(samples: Array, plan: MelPlan, n_frames: int, *, threads: int = 1) -> Array: ...
