"""AdamW and SGD against PyTorch's, with gradients that come and go and parameters that are frozen and unfrozen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.autograd import Tensor
from minilora.training import SGD, AdamW, ParameterGroup

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle

SHAPES = (3, 2), (4,), (), (2, 2)
# For each step and parameter: no gradient, a gradient, a zero gradient, or one added to the last one.
events = st.lists(st.lists(st.sampled_from(["none", "new", "zero", "add"]), min_size=4, max_size=4), max_size=8)


@settings(max_examples=60)
@given(events=events, frozen=st.sets(st.integers(0, 3), max_size=3), seed=st.integers(0, 99), data=st.data())
def test_every_sequence_of_gradients_gives_torchs_parameters(events, frozen, seed, data):
    rng = np.random.default_rng(seed)
    betas, decay = (data.draw(st.sampled_from(of)) for of in ([(0.9, 0.999), (0.0, 0.5)], [0.0, 0.1]))
    arrays = [rng.standard_normal(shape) for shape in SHAPES]
    ours = [Tensor(a.copy(), requires_grad=i not in frozen) for i, a in enumerate(arrays)]
    theirs = [torch.tensor(a, requires_grad=i not in frozen) for i, a in enumerate(arrays)]
    optimizer = AdamW([(str(i), p) for i, p in enumerate(ours)], decay, betas)
    reference = torch.optim.AdamW(theirs, lr=1.0, betas=betas, weight_decay=decay)
    for step in events:
        for p, q, event in zip(ours, theirs, step, strict=True):
            move(p, q, event, rng)
        lr = data.draw(st.sampled_from([1e-3, 0.1]))
        reference.param_groups[0]["lr"] = lr
        optimizer.step(lr)
        reference.step()
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-10, atol=1e-12)


def move(p, q, event, rng):
    """Change the gradients of p and q in the same way. A frozen tensor has none."""
    g = np.asarray(rng.standard_normal(p.shape))
    if event == "none" or not p.requires_grad:
        p.grad, q.grad = None, None
    elif event == "add" and p.grad is not None:
        p.grad += g
        q.grad += torch.from_numpy(g)
    else:
        g = np.zeros_like(g) if event == "zero" else g
        p.grad, q.grad = g.copy(), torch.from_numpy(g.copy())


def test_groups_have_their_own_decay_and_rate():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in SHAPES]
    ours, theirs = [Tensor(a.copy(), True) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    named = [(str(i), p) for i, p in enumerate(ours)]
    optimizer = AdamW([ParameterGroup(named[:1], 0.2, 3.0), ParameterGroup(named[1:])])
    groups = [{"params": theirs[:1], "weight_decay": 0.2, "lr": 0.03}, {"params": theirs[1:], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            move(p, q, "new", rng)
        optimizer.step(0.01)
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-10)


def test_sgd_without_decay_is_torchs():
    rng = np.random.default_rng(0)
    p, q = Tensor(np.ones(3), True), torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer, reference = SGD([ParameterGroup([("p", p)])]), torch.optim.SGD([q], lr=0.1)
    for event in ("new", "none", "new"):
        move(p, q, event, rng)
        optimizer.step(0.1)
        reference.step()
    np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-12)
