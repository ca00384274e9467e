"""Every kernel against its float64 twin, at every instruction-set level this machine runs.

Tolerances: a float32 sum of k products of numbers near 1 errs by about sqrt(k) * 6e-8 of its own
size when rounding errors are independent; the bounds below allow ten times that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import reference
from numpy.lib.stride_tricks import as_strided

from whisper_cy import kernels
from whisper_cy.errors import OptionError

EPSILON = 6e-8


@pytest.fixture(params=(1, 2))
def threads(request):
    return request.param


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def assert_close(actual, expected, terms):
    bound = 10 * EPSILON * np.sqrt(terms) * max(1.0, np.abs(expected).max())
    assert np.abs(actual - expected).max() <= bound


# tile - 1, tile, tile + 1 of rows and columns, one and several depth blocks, Whisper's own
SIZES = [
    (1, 1, 1),
    (1, 64, 15),
    (2, 100, 16),
    (3, 7, 17),
    (5, 384, 65),
    (6, 64, 63),
    (7, 256, 64),
    (12, 257, 33),
    (13, 300, 130),
    (127, 520, 257),
    (253, 80, 384),
    (1500, 384, 384),
]


@pytest.mark.parametrize("dtype", (np.float16, np.float32))
@pytest.mark.parametrize(("rows", "k", "n"), SIZES)
def test_linear(level, threads, rows, k, n, dtype):
    x, weight = random(rows, k), random(n, k, seed=1, dtype=dtype)
    bias, residual = random(n, seed=2), random(rows, n, seed=3)
    packed = kernels.Matrix(weight, threads)
    plain = kernels.linear(x, packed, threads=threads)
    full = kernels.linear(x, packed, bias, residual, gelu=True, threads=threads)
    assert_close(plain, reference.linear(x, weight), k)
    assert_close(full, reference.linear(x, weight, bias, residual, use_gelu=True), k)


def test_linear_rows_do_not_depend_on_company_or_threads(level):
    x, weight = random(100, 384), random(200, 384, seed=1, dtype=np.float16)
    packed = kernels.Matrix(weight)
    together = kernels.linear(x, packed, threads=2)
    alone = np.concatenate([kernels.linear(row[None], packed, threads=1) for row in x])
    assert np.array_equal(together, alone)
    assert np.array_equal(together, kernels.linear(x, packed, threads=7))


def test_linear_over_overlapping_rows_is_a_convolution(level):
    frames, weight = random(51, 80), random(64, 240, seed=1)
    rows = as_strided(frames, (25, 240), (2 * frames.strides[0], 4))
    assert_close(kernels.linear(rows, kernels.Matrix(weight)), reference.linear(rows, weight), 240)


def test_linear_into_a_slice_leaves_the_rest_alone(level):
    whole = np.full((20, 300), 7.0, np.float32)
    x, weight = random(18, 64), random(257, 64, seed=1)
    kernels.linear(x, kernels.Matrix(weight), out=whole[1:-1, 3:260], threads=2)
    assert_close(whole[1:-1, 3:260], reference.linear(x, weight), 64)
    whole[1:-1, 3:260] = 7.0
    assert (whole == 7.0).all()


def test_half_weights_are_exact(level):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 64)
    for rows in (1, 16):
        x = np.zeros((rows, 64), np.float32)
        x[:, 5] = 1.0
        result = kernels.linear(x, kernels.Matrix(every))
        assert np.array_equal(result, np.tile(every[:, 5].astype(np.float32), (rows, 1)))


@pytest.mark.parametrize("dtype", (np.float16, np.float32))
def test_embed(level, dtype):
    weight, position = random(51865, 64, dtype=dtype), random(5, 64, seed=1)
    tokens = np.array([0, 1, 15, 16, 51864], np.int32)
    expected = weight[tokens].astype(np.float32) + position
    assert np.array_equal(kernels.embed(tokens, kernels.Matrix(weight), position), expected)


@pytest.mark.parametrize("n", (1, 3, 63, 64, 65, 384, 1280))
def test_layer_norm(level, threads, n):
    x = 3.0 + 5.0 * random(130, n)
    weight, bias = random(n, seed=1), random(n, seed=2)
    expected = reference.layer_norm(x, weight, bias)
    assert_close(kernels.layer_norm(x, weight, bias, threads=threads), expected, 100)
    kernels.layer_norm(x, weight, bias, out=x, threads=threads)
    assert_close(x, expected, 100)


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize(
    ("count", "n_keys"), [(1, 1), (1, 17), (2, 16), (5, 448), (13, 100), (24, 24), (11, 1500)]
)
def test_attention(level, threads, count, n_keys, causal):
    n_head = 3
    qkv = random(
        n_keys, 3 * n_head * 64
    )  # q, k and v side by side, as the fused projection leaves them
    q, k, v = np.split(qkv, 3, axis=1)
    q = q[n_keys - count :] * 3
    cache = kernels.HeadCache(n_head, n_keys + 5)
    half = n_keys // 2
    cache.store(k[:half], v[:half], 0, threads=threads)
    cache.store(k[half:], v[half:], half, threads=threads)
    result = kernels.attention(q, cache, n_keys, causal=causal, threads=threads)
    assert_close(result, reference.attention(q, k, v, n_head, causal), 64)


def test_attention_survives_scores_of_any_size(level):
    q, k, v = random(4, 64) * 1000, random(20, 64, seed=1) * 1000, random(20, 64, seed=2)
    cache = kernels.HeadCache(1, 20)
    cache.store(k, v, 0)
    assert_close(kernels.attention(q, cache, 20), reference.attention(q, k, v, 1, False), 64)


def test_cache_copies_are_independent(level):
    k, v = random(10, 128), random(10, 128, seed=1)
    cache = kernels.HeadCache(2, 10)
    cache.store(k, v, 0)
    twin = cache.copy()
    cache.store(v, k, 0)
    assert_close(kernels.attention(k, twin, 10), reference.attention(k, k, v, 2, False), 64)


@pytest.mark.parametrize("n", (1, 2, 15, 63, 64, 65, 1501, 51865))
def test_vocab_stats(level, n):
    logits = 10 * random(n + 4)
    for start, stop in ((0, n), (2, n + 2), (n + 3, n + 4)):
        peak, top, total = kernels.vocab_stats(logits, start, stop)
        expected = reference.vocab_stats(logits, start, stop)
        assert (peak, top) == expected[:2]
        assert total == pytest.approx(expected[2], rel=1e-6, abs=1e-6)


def test_vocab_stats_with_suppressed_tokens(level):
    logits = np.full(1000, -np.inf, np.float32)
    assert kernels.vocab_stats(logits, 10, 1000) == (10, -np.inf, -np.inf)
    logits[[500, 777]] = 3.0
    peak, top, total = kernels.vocab_stats(logits, 0, 1000)
    assert (peak, top) == (500, 3.0)
    assert total == pytest.approx(3.0 + np.log(2.0), rel=1e-6)


def test_every_elementary_value_of_gelu(level):
    x = np.linspace(-12, 12, 50001, dtype=np.float32)[:, None]
    one = kernels.Matrix(np.ones((1, 1), np.float32))
    expected = reference.gelu(x.astype(np.float64))
    assert np.abs(kernels.linear(x, one, gelu=True) - expected).max() < 1e-6


def test_empty_inputs(level):
    packed = kernels.Matrix(random(8, 4))
    assert kernels.linear(np.empty((0, 4), np.float32), packed).shape == (0, 8)
    empty = np.empty((0, 64), np.float32)
    assert kernels.layer_norm(empty, random(64), random(64)).shape == (0, 64)
    assert kernels.embed(np.empty(0, np.int32), packed, np.empty((0, 4), np.float32)).shape == (
        0,
        4,
    )
    assert kernels.attention(empty, kernels.HeadCache(1, 4), 4).shape == (0, 64)


WRONG = {
    "linear x": lambda: kernels.linear(random(2, 5), kernels.Matrix(random(8, 4))),
    "linear bias": lambda: kernels.linear(random(2, 4), kernels.Matrix(random(8, 4)), random(7)),
    "linear residual": lambda: kernels.linear(
        random(2, 4), kernels.Matrix(random(8, 4)), None, random(2, 7)
    ),
    "linear out": lambda: kernels.linear(
        random(2, 4), kernels.Matrix(random(8, 4)), out=np.empty((2, 9), np.float32)
    ),
    "linear columns apart": lambda: kernels.linear(
        random(2, 8)[:, ::2], kernels.Matrix(random(8, 4))
    ),
    "linear dtype": lambda: kernels.linear(
        random(2, 4).astype(np.float64), kernels.Matrix(random(8, 4))
    ),
    "linear threads": lambda: kernels.linear(random(2, 4), kernels.Matrix(random(8, 4)), threads=0),
    "matrix dtype": lambda: kernels.Matrix(np.zeros((2, 2), np.int8)),
    "matrix rank": lambda: kernels.Matrix(random(4)),
    "matrix empty": lambda: kernels.Matrix(random(0, 4)),
    "token below": lambda: kernels.embed(
        np.array([-1], np.int32), kernels.Matrix(random(8, 4)), random(1, 4)
    ),
    "token above": lambda: kernels.embed(
        np.array([8], np.int32), kernels.Matrix(random(8, 4)), random(1, 4)
    ),
    "layer_norm weight": lambda: kernels.layer_norm(random(2, 4), random(5), random(4)),
    "cache overflow": lambda: kernels.HeadCache(1, 4).store(random(3, 64), random(3, 64), 2),
    "cache negative": lambda: kernels.HeadCache(1, 4).store(random(3, 64), random(3, 64), -1),
    "cache width": lambda: kernels.HeadCache(2, 4).store(random(3, 64), random(3, 64), 0),
    "cache empty": lambda: kernels.HeadCache(0, 4),
    "attention width": lambda: kernels.attention(random(1, 128), kernels.HeadCache(1, 4), 4),
    "attention keys": lambda: kernels.attention(random(1, 64), kernels.HeadCache(1, 4), 5),
    "attention no keys": lambda: kernels.attention(random(1, 64), kernels.HeadCache(1, 4), 0),
    "attention causal": lambda: kernels.attention(
        random(3, 64), kernels.HeadCache(1, 4), 2, causal=True
    ),
    "stats range": lambda: kernels.vocab_stats(random(4), 2, 5),
    "stats empty": lambda: kernels.vocab_stats(random(4), 2, 2),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused_before_c_sees_them(case):
    with pytest.raises(ValueError):
        WRONG[case]()


def test_isa_choice():
    assert kernels.isa() in kernels.available_isas()
    assert kernels.available_isas()[-1] == "baseline"
    with pytest.raises(OptionError, match="baseline"):
        kernels.use_isa("mmx")


def import_with_isa(name):
    code = "import whisper_cy.kernels as k; print(k.isa())"
    environment = dict(os.environ, WHISPER_CY_ISA=name)
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def test_isa_from_the_environment():
    assert import_with_isa("baseline").stdout.strip() == "baseline"
    wrong = import_with_isa("mmx")
    assert wrong.returncode != 0
    assert "'mmx' is not available here" in wrong.stderr


def test_threads_may_share_a_matrix():
    x, packed = random(64, 384), kernels.Matrix(random(512, 384, seed=1, dtype=np.float16))
    expected, results = kernels.linear(x, packed), []
    workers = [
        threading.Thread(target=lambda: results.append(kernels.linear(x, packed, threads=2)))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert all(np.array_equal(result, expected) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_parent_and_child_of_a_fork_both_compute():
    x, packed = random(64, 384), kernels.Matrix(random(512, 384, seed=1))
    expected = kernels.linear(x, packed, threads=2)
    child = os.fork()
    if child == 0:
        good = np.array_equal(kernels.linear(x, packed, threads=2), expected)
        os._exit(0 if good else 1)
    assert np.array_equal(kernels.linear(x, packed, threads=2), expected)
    assert os.waitpid(child, 0)[1] == 0
