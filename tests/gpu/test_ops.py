"""Every op on the stand-in, forward and backward: bit-for-bit identical to NumPy, and without float64."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minilora.autograd import OPS, Tensor, gradients, ops
from minilora.backend import to_device
from tests.autograd.conftest import STRATEGIES
from tests.gpu.conftest import bits
from tests.gpu.standin import DeviceArray, watching

pytestmark = pytest.mark.usefixtures("cupy")


def bring(x):
    """Move ids, masks and angles, which the strategies draw on the host, to the device of the tensors."""
    if isinstance(x, tuple):
        return tuple(map(bring, x))
    return to_device(x, "cuda") if isinstance(x, np.ndarray) else x


def value_and_gradients(case, device, cotangent):
    leaves = [Tensor(to_device(x.astype(np.float32), device), requires_grad=True) for x in case.arrays]
    output = case.function(*leaves)
    return output.data, gradients(output, leaves, to_device(cotangent, device))


@pytest.mark.parametrize("name", sorted(OPS))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_same_bits_as_on_numpy(name, data):
    case, seed = data.draw(STRATEGIES[name]), data.draw(st.integers(0, 9))
    shape = np.shape(case.expected(*case.arrays))
    cotangent = np.asarray(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
    expected = value_and_gradients(case, "cpu", cotangent)
    op = getattr(ops, name)
    with mock.patch.object(ops, name, lambda *xs, **how: op(*map(bring, xs), **how)), watching() as made:
        found = value_and_gradients(case, "cuda", cotangent)
    assert all(isinstance(array, DeviceArray) for array in (found[0], *found[1]))
    assert bits(found) == bits(expected)
    assert made
    assert {dtype.str for dtype, _ in made} <= {"<f4", "<i8", "|b1"}
