"""Memory that does not suffice is answered."""

import dataclasses

import pytest
import torch

from autoreg.network_plan import TransMorphPlan
from autoreg.training import session
from autoreg.training.out_of_memory import memory_advice
from autoreg.training.processes import Processes
from autoreg.training.request import TrainingRequest
from autoreg.training_plan import GroupConsistencyPlan

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def changed(plan, network=None, **training):
    network = dataclasses.replace(plan.network, **(network or {}))
    return dataclasses.replace(
        plan, network=network, training=dataclasses.replace(plan.training, **training)
    )


def test_all_that_is_not_used_is_listed_the_least_harmful_first(make_plan):
    text = memory_advice(changed(make_plan(), batch_size=4), CUDA)
    places = [
        text.index(way)
        for way in ("--accumulation-steps 4", '"checkpointing": true', "bfloat16", "--budget")
    ]
    assert places == sorted(places)


def test_what_is_used_already_is_not_advised(make_plan):
    saving = changed(
        make_plan(), {"checkpointing": True}, batch_size=4, accumulation_steps=4,
        precision="bfloat16",
    )  # fmt: skip
    text = memory_advice(saving, CUDA)
    assert "--budget" in text
    assert not any(way in text for way in ("--accumulation", "checkpointing", "bfloat16"))


def test_bfloat16_is_not_advised_on_the_cpu(make_plan):
    assert "bfloat16" not in memory_advice(make_plan(), CPU)


def test_a_network_without_batch_normalisation_loses_nothing_by_parts(make_plan):
    plan = changed(make_plan(), batch_size=2)
    assert "one part at a time" in memory_advice(plan, CPU)
    assert "one part at a time" not in memory_advice(changed(plan, batch_norm="frozen"), CPU)
    network = TransMorphPlan(
        variant="half", embedding=8, depths=(1,) * 4, heads=(1,) * 4, window=(2,) * 3,
        drop_path=0.0,
    )  # fmt: skip
    assert "same gradients" in memory_advice(dataclasses.replace(plan, network=network), CPU)


@pytest.mark.parametrize(
    ("count", "batch", "parts", "advised"),
    [
        (1, 8, 1, 8),
        (2, 8, 1, 4),
        (3, 8, 1, 2),
        (2, 8, 4, None),
        (4, 8, 2, None),
        (8, 8, 1, None),
    ],
)
def test_parts_are_those_of_a_process_and_none_where_its_pairs_are_single(
    make_plan, count, batch, parts, advised
):
    plan = changed(make_plan(), batch_size=batch, accumulation_steps=parts)
    text = memory_advice(plan, CUDA, Processes(0, count, 0, count))
    if advised is None:
        assert "--accumulation-steps" not in text
    else:
        assert f"--accumulation-steps {advised} (" in text


def test_parts_are_not_advised_for_cycles_which_are_computed_singly(make_plan):
    cycles, later = (GroupConsistencyPlan(weight=1.0, from_epoch=epoch) for epoch in (0, 2))
    plan = changed(make_plan(epochs=4), batch_size=4, group_consistency=cycles)
    assert "--accumulation-steps" not in memory_advice(plan, CPU)
    text = memory_advice(changed(plan, group_consistency=later), CPU)
    assert "--accumulation-steps 4 (of no use in cycles, from epoch 3 on; " in text


def test_fewer_processes_are_advised_where_they_share_a_memory(make_plan):
    here, elsewhere = Processes(0, 2, 0, 2), Processes(0, 2, 0, 1)
    assert "fewer processes" in memory_advice(make_plan(), CPU, here)
    assert "fewer processes" not in memory_advice(make_plan(), CPU, elsewhere)
    assert "fewer processes" not in memory_advice(make_plan(), CUDA, here)
    assert "fewer processes" not in memory_advice(make_plan(), CPU)


def test_a_training_is_advised_with_its_processes(make_plan, tmp_path):
    plan, two = changed(make_plan(), batch_size=4), Processes(0, 2, 0, 2)
    request = TrainingRequest("1", tmp_path, tmp_path, processes=two)
    error = session._explained(MemoryError(), plan, request)
    assert "out of memory on cpu with batches of 4" in str(error)
    assert "--accumulation-steps 2 (" in str(error)
