"""The network's own promises, on a small random model; parity with others is in test_parity and
test_transformers.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

from whisper_cy.model import Whisper, half_if_exact
from whisper_cy.weights import Checkpoint, Dims

DIMS = Dims(
    n_mels=80, n_audio_ctx=50, n_audio_state=128, n_audio_head=2, n_audio_layer=2,
    n_vocab=51865, n_text_ctx=32, n_text_state=128, n_text_head=2, n_text_layer=2,
)  # fmt: skip


def random_model(threads: int = 2, seed: int = 0) -> Whisper:
    random = np.random.default_rng(seed)
    tensors = {
        name: (random.standard_normal(shape) * (0.3 if len(shape) == 1 else 0.06)).astype(
            np.float16
        )
        for name, shape in DIMS.shapes().items()
    }
    return Whisper(Checkpoint(DIMS, tensors, None, "random"), threads)


@pytest.fixture(scope="module")
def model() -> Whisper:
    return random_model()


@pytest.fixture(scope="module")
def features(model):
    return model.encode(np.random.default_rng(1).standard_normal((80, 100)).astype(np.float32))


def test_one_pass_equals_step_by_step(model, features):
    tokens = np.random.default_rng(2).integers(0, 51865, (1, 20))
    whole = model.decode(tokens, model.new_cache(features))
    cache = model.new_cache(features)
    steps = [model.decode(tokens[:, i : i + 1], cache) for i in range(20)]
    assert cache.length == 20
    np.testing.assert_allclose(np.concatenate(steps, 1), whole, atol=2e-5)


def test_rows_are_independent_and_can_be_reordered(model, features):
    tokens = np.random.default_rng(3).integers(0, 51865, (3, 6))
    cache = model.new_cache(features, rows=3)
    together = model.decode(tokens, cache)
    for row in range(3):
        alone = model.decode(tokens[row : row + 1], model.new_cache(features))
        np.testing.assert_array_equal(together[row : row + 1], alone)
    cache.reorder([2, 0, 0])
    following = model.decode(np.array([[7], [7], [8]]), cache)
    for row, source, token in ((0, 2, 7), (1, 0, 7), (2, 0, 8)):
        alone_cache = model.new_cache(features)
        model.decode(tokens[source : source + 1], alone_cache)
        alone = model.decode(np.array([[token]]), alone_cache)
        np.testing.assert_array_equal(following[row : row + 1], alone)


def test_truncate_goes_back(model, features):
    cache = model.new_cache(features)
    model.decode(np.array([[1, 2, 3]]), cache)
    expected = model.decode(np.array([[4]]), cache)
    cache.truncate(1)
    model.decode(np.array([[2, 3]]), cache)
    np.testing.assert_allclose(model.decode(np.array([[4]]), cache), expected, atol=1e-5)
    with pytest.raises(ValueError, match="truncate"):
        cache.truncate(5)


def test_threads_do_not_change_a_bit(features):
    tokens = np.random.default_rng(4).integers(0, 51865, (1, 9))
    results = []
    for threads in (1, 2, 3, 8):
        model = random_model(threads)
        heard = model.encode(np.random.default_rng(1).standard_normal((80, 100)).astype(np.float32))
        states = model.decode(tokens, model.new_cache(heard))
        results.append((heard, model.logits(states[0])))
    for heard, logits in results[1:]:
        np.testing.assert_array_equal(heard, results[0][0])
        np.testing.assert_array_equal(logits, results[0][1])


def test_concurrent_calls_do_not_meet(model, features):
    def decode(seed: int) -> np.ndarray:
        cache = model.new_cache(features)
        tokens = np.random.default_rng(seed).integers(0, 51865, (8, 1, 1))
        return np.concatenate([model.decode(token, cache) for token in tokens])

    expected = [decode(seed) for seed in range(4)]
    results: dict[int, np.ndarray] = {}
    workers = [
        threading.Thread(target=lambda seed=seed: results.__setitem__(seed, decode(seed)))
        for seed in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed in range(4):
        np.testing.assert_array_equal(results[seed], expected[seed])


def test_encoding_can_be_stopped_between_blocks(model):
    blocks = []

    def check() -> None:
        blocks.append(len(blocks))
        if len(blocks) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.encode(np.zeros((80, 100), np.float32), check)
    assert blocks == [0, 1]


def test_wrong_shapes_are_refused(model, features):
    with pytest.raises(ValueError, match=r"mel is \(80, 99\)"):
        model.encode(np.zeros((80, 99), np.float32))
    with pytest.raises(ValueError, match="do not fit a cache"):
        model.decode(np.zeros((2, 1), int), model.new_cache(features))
    with pytest.raises(ValueError, match="do not fit a cache"):
        model.decode(np.zeros((1, 33), int), model.new_cache(features))
    with pytest.raises(ValueError, match="outside the vocabulary"):
        model.decode(np.array([[51865]]), model.new_cache(features))


def test_half_precision_only_where_exact():
    exact = np.array([[1.0, -0.5, 65504.0, 2**-24]], np.float32)
    assert half_if_exact(exact).dtype == np.float16
    for value in (0.1, 1e6, 1e-9, 1 + 2**-12):
        inexact = exact.copy()
        inexact[0, 1] = value
        assert half_if_exact(inexact).dtype == np.float32
