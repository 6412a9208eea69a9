"""Tables with a row per cell: which rows step, when, and that nothing else moves."""

import pytest
import torch
from torch.nn import functional as F

from mocli.models.base import StepGroup
from mocli.train.optim import RowAdam, Stepper, turns_of

SETTINGS = {"lr": 0.02, "betas": (0.5, 0.7), "weight_decay": 1e-2}


def table(n=9, d=3):
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(n, d, dtype=torch.float64))


def loss(rows):
    return (torch.sin(3 * rows) + rows.square()).sum()


def test_with_a_gradient_in_every_row_it_is_adam():
    mine, theirs = table(), table()
    ours, adam = RowAdam([mine], **SETTINGS), torch.optim.Adam([theirs], **SETTINGS)
    for _ in range(7):
        ours.zero_grad()
        adam.zero_grad()
        loss(F.embedding(torch.randperm(9), mine, sparse=True)).backward()
        loss(theirs).backward()
        ours.step()
        adam.step()
    torch.testing.assert_close(mine, theirs)


def test_each_row_steps_as_if_it_were_alone():
    whole = table()
    optimizer = RowAdam([whole], **SETTINGS)
    alone = {i: torch.nn.Parameter(whole[i].detach().clone()) for i in range(9)}
    adams = {i: torch.optim.Adam([p], **SETTINGS) for i, p in alone.items()}
    for step in range(6):
        cells = torch.tensor([0, 3, 5] if step % 2 else [3, 8])
        optimizer.zero_grad()
        loss(F.embedding(cells, whole, sparse=True)).backward()
        optimizer.step()
        for i in cells.tolist():
            adams[i].zero_grad()
            loss(alone[i]).backward()
            adams[i].step()
    for i, row in alone.items():
        torch.testing.assert_close(whole[i].detach(), row.detach())


@pytest.mark.parametrize("cut", [None, 4])
def test_gradients_of_an_epoch_make_one_step_also_after_a_pause(cut):
    mine, theirs = table(), table()
    group = StepGroup("cells", [mine], rows=True, every="epoch", **SETTINGS)
    stepper, adam = Stepper(group), torch.optim.Adam([theirs], **SETTINGS)
    batches = [torch.tensor(c) for c in ([0, 1, 2], [3, 4, 5], [6, 7, 8])] * 3
    for step, cells in enumerate(batches):
        if step == cut:
            kept = {k: v.clone() for k, v in stepper.state_dict().items()}
            stepper = Stepper(group)
            stepper.load_state_dict(kept)
        stepper.clear()
        loss(F.embedding(cells, mine, sparse=True)).backward()
        over = step % 3 == 2
        stepper.step(epoch_over=over)
        if over:
            adam.zero_grad()
            loss(theirs).backward()
            adam.step()
    torch.testing.assert_close(mine, theirs)


def test_groups_that_join_share_a_turn():
    groups = [StepGroup(n, [table()], lr=1, joins=j) for n, j in (("a", False), ("b", True), ("c", False))]
    turns = turns_of([Stepper(g) for g in groups])
    assert [[s.group.name for s in turn] for turn in turns] == [["a", "b"], ["c"]]
