import sys

import pytest
import torch

from acestep.core.errors import MissingPackage
from acestep.training.optim.optimizers import OPTIMIZERS, make_optimizer, peak_lr
from acestep.training.state.tensor_tree import read_state, write_state

RATES = {"adamw": 0.05, "adamw8bit": 0.05, "adafactor": 0.05, "prodigy": 1.0}


def bowl():
    """Two parameters, one large enough for 8-bit state, and a loss with its minimum at 1."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in ((64, 80), (7,))]
    return parameters, lambda: sum((p - 1).square().mean() for p in parameters)


def descend(optimizer, loss_of, steps):
    losses = []
    for _ in range(steps):
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS.names)
def test_each_optimizer_reduces_the_loss(name):
    parameters, loss_of = bowl()
    losses = descend(make_optimizer(name, parameters, lr=RATES[name], weight_decay=0.0), loss_of, 150)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS.names)
def test_each_optimizer_resumes_bit_exactly_from_its_saved_state(name, tmp_path):
    parameters, loss_of = bowl()
    optimizer = make_optimizer(name, parameters, lr=RATES[name], weight_decay=0.01)
    descend(optimizer, loss_of, 7)
    write_state(tmp_path, {"optimizer": optimizer.state_dict(), "weights": list(parameters)})
    descend(optimizer, loss_of, 7)

    again, loss_of_again = bowl()
    resumed = make_optimizer(name, again, lr=RATES[name], weight_decay=0.01)
    state = read_state(tmp_path)
    for parameter, value in zip(again, state["weights"], strict=True):
        parameter.data.copy_(value)
    resumed.load_state_dict(state["optimizer"])
    descend(resumed, loss_of_again, 7)
    assert all(torch.equal(one, other) for one, other in zip(parameters, again, strict=True))


def test_an_empty_learning_rate_takes_the_default_of_the_optimizer():
    assert peak_lr("adamw", None) == 1e-4
    assert peak_lr("adamw", 3e-4) == 3e-4
    assert peak_lr("prodigy", None) == 1.0
    assert peak_lr("prodigy", 1e-4) == 1.0  # a rate that was meant for AdamW
    assert peak_lr("prodigy", 0.5) == 0.5


@pytest.mark.parametrize(("name", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_a_missing_package_is_an_error_with_a_hint_and_no_substitute(name, package, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)  # an import of it now fails
    with pytest.raises(MissingPackage, match=package) as error:
        make_optimizer(name, bowl()[0], lr=1.0, weight_decay=0.0)
    assert f"pip install {package}" in error.value.hint


def test_prodigy_guards_its_estimate_during_the_warm_up():
    group = make_optimizer("prodigy", bowl()[0], lr=1.0, weight_decay=0.01).param_groups[0]
    assert group["safeguard_warmup"]
    assert group["use_bias_correction"]


@pytest.mark.parametrize("name", OPTIMIZERS.names)
def test_no_optimizer_writes_to_stdout(name, capsys):
    make_optimizer(name, [torch.nn.Parameter(torch.zeros(4))], lr=1.0, weight_decay=0.01)
    assert capsys.readouterr().out == ""
